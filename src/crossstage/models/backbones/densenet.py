"""DenseNet (arXiv 1608.06993) and CSPDenseNet (CSPNet, arXiv 1911.11929, section 3.1 and figure 2).

A plain stage is a dense block; DenseNet's transition, which halves the channels and pools, opens the next stage, so
that a stage's map is its whole dense block. In a partial stage the block reads and extends the processed part; T
compresses what it yields by DenseNet's own factor, and U, on the pooled concatenation, leads to the plain network's
width. Without U, it is T that makes the next stage's input as wide as the plain network's. The last stage's U leads to
the width of the plain network's last map.

CSPDenseNet-201-Elastic is a reconstruction: of it, only 20.17M weights and 7.13 BFLOPs are published. On the released
DenseNet-201-Elastic (10, 20, 40 and 30 layers; its 19.48M parameters are met exactly), T and U together cost more than
that; projections and U alone come to 20.48M and 7.08.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage
from crossstage.nn import (
    ConvNormAct,
    CrossStage,
    DenseBlock,
    DenseLayer,
    ElasticDenseLayer,
    NormActConv,
    Partial,
    Split,
    slice_split,
)

_DENSENET = "DenseNet, arXiv 1608.06993"
_ELASTIC = "ELASTIC, arXiv 1812.05262, and its authors' code"
_CSPNET = "CSPNet, arXiv 1911.11929"
_OURS = f"{_CSPNET}, section 3.1, on DenseNet's own table"


@dataclass(frozen=True, kw_only=True)
class DenseNetConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        depths: Layers of each dense block.
        growth: Channels that a layer adds.
        stem: Channels of the first convolution.
        bottleneck: Channels of a layer's 1x1 convolution in units of ``growth``; None for layers without one.
        compression: Share of the channels that a transition keeps.
        small: Whether the stem is one 3x3 convolution without stride, for 32x32 images.
        elastic: Whether half of each layer's bottleneck has half the resolution, but for the last stage, see
            :class:`~crossstage.nn.ElasticDenseLayer`.
        compress_last: Whether the convolution of a plain stage's transition ends the stage, so that its map is as
            narrow as the next block's input; else it opens the next stage.
        memory_efficient: Whether to keep less for the backward pass and compute it again, see
            :class:`~crossstage.nn.DenseLayer`.

    Raises:
        ConfigError: A value is out of range.
    """

    depths: tuple[int, ...]
    growth: int = 32
    stem: int = 64
    bottleneck: int | None = 4
    compression: float = 0.5
    small: bool = False
    elastic: bool = False
    compress_last: bool = False
    memory_efficient: bool = False
    init: Literal["darknet", "fan_in", "fan_out"] = "fan_in"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths(self.depths, self.depths)
        if not 0 < self.compression <= 1:
            raise ConfigError(f"compression is {self.compression}; expected a share of channels above 0 and up to 1")
        if self.elastic and (self.bottleneck is None or self.memory_efficient):
            raise ConfigError("elastic needs layers with a bottleneck, and has no memory-efficient form")
        if self.compress_last and self.partial is not None:
            raise ConfigError("compress_last is for plain stages; expected partial=None")

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


def _densenet(
    layers: str, depths: tuple[int, ...], *, growth: int = 32, stem: int = 64, size: int = 224
) -> DenseNetConfig:
    about = About(f"DenseNet-{layers}", _DENSENET)
    return DenseNetConfig(about=about, depths=depths, growth=growth, stem=stem, size=size)


_PLAIN: dict[str, DenseNetConfig] = {
    "densenet121": _densenet("121", (6, 12, 24, 16)),
    "densenet161": _densenet("161", (6, 12, 36, 24), growth=48, stem=96),
    "densenet169": _densenet("169", (6, 12, 32, 32)),
    "densenet201": _densenet("201", (6, 12, 48, 32)),
    "densenet201_elastic": replace(
        _densenet("201-Elastic", (10, 20, 40, 30)), about=About("DenseNet-201-Elastic", _ELASTIC), elastic=True
    ),
    "densenet264": _densenet("264", (6, 12, 64, 48)),
    # The row of CSPNet's table 3: with 32 layers in the last block, not 48, it has its 27.21M parameters to the digit.
    "densenet264_32": _densenet("264-32", (6, 12, 64, 32)),
    "densenet40": DenseNetConfig(
        about=About("DenseNet-40 (growth 12) for 32x32 images", _DENSENET, classes=10),
        depths=(12, 12, 12),
        growth=12,
        stem=16,
        bottleneck=None,
        compression=1.0,
        small=True,
        size=32,
    ),
}

BACKBONES: dict[str, DenseNetConfig] = {
    **_PLAIN,
    **{
        f"csp{name}": replace(
            row,
            about=About(f"CSP{row.about.summary}", _OURS, classes=row.about.classes),
            partial=Partial(0.5, fusion="both", split="slice"),
        )
        for name, row in _PLAIN.items()
    },
    "cspdensenet201_elastic": replace(
        _PLAIN["densenet201_elastic"],
        about=About("CSPDenseNet-201-Elastic", _CSPNET, reconstruction=True),
        partial=Partial(0.5, fusion="first", split="project"),
    ),
}


def _build(config: DenseNetConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels.
    """
    style = config.style
    if config.small:
        stem, stride = nn.Conv2d(config.in_chans, config.stem, 3, padding=1, bias=style.bias), 1
    else:
        stem, stride = (
            nn.Sequential(ConvNormAct(config.in_chans, config.stem, 7, 2, style=style), nn.MaxPool2d(3, 2, padding=1)),
            4,
        )

    build = _plain_block if config.partial is None else _partial_block
    stages: list[Stage] = []
    width = plain = config.stem  # channels so far, and those of the plain network, which transitions lead to
    for index in range(len(config.depths)):
        entry: nn.Module = nn.Identity()
        if index > 0:
            plain = int(plain * config.compression)
            merged = config.partial is None or config.partial.has_merge
            out = plain if merged else width
            exists = merged and not config.compress_last
            entry = _transition(width, out, pool_first=config.partial is not None, config=config, exists=exists)
            width, stride = out, stride * 2
        plain += config.depths[index] * config.growth
        block, width = build(config, index, width, plain)
        module = nn.Sequential(entry, block)
        if index == len(config.depths) - 1:
            module.append(nn.Sequential(style.normalise(width), style.activate()))
        elif config.compress_last:
            module.append(NormActConv(width, int(width * config.compression), style=style))
            width = int(width * config.compression)
        stages.append(Stage(module, width, stride))
    return stem, stages


def _transition(in_channels: int, out: int, *, pool_first: bool, config: DenseNetConfig, exists: bool) -> nn.Module:
    pool = nn.AvgPool2d(2, 2)
    if not exists:
        return pool
    conv = NormActConv(in_channels, out, style=config.style)
    return nn.Sequential(pool, conv) if pool_first else nn.Sequential(conv, pool)


def _dense(config: DenseNetConfig, index: int, in_channels: int) -> DenseBlock:
    hidden = None if config.bottleneck is None else config.bottleneck * config.growth

    style, growth = config.style, config.growth

    def layer(channels: int) -> nn.Module:
        if config.elastic and hidden is not None:
            halve = index < len(config.depths) - 1
            return ElasticDenseLayer(channels, growth, hidden, style=style, halve=halve)
        return DenseLayer(channels, growth, hidden, style=style, memory_efficient=config.memory_efficient)

    return DenseBlock(in_channels, config.depths[index], config.growth, layer)


def _plain_block(config: DenseNetConfig, index: int, in_channels: int, _: int) -> tuple[nn.Module, int]:
    block = _dense(config, index, in_channels)
    return block, block.out_channels


def _partial_block(config: DenseNetConfig, index: int, in_channels: int, plain: int) -> tuple[nn.Module, int]:
    """Build a partial stage; ``plain`` is the width of the plain network's map. U opens the next, on the pooled map."""
    partial = config.partial
    assert partial is not None
    carried, processed = partial.widths(in_channels)
    if partial.split == "slice":
        split = slice_split(in_channels, carried)
    else:
        split = Split(
            NormActConv(in_channels, carried, style=config.style),
            NormActConv(in_channels, processed, style=config.style),
        )
    block = _dense(config, index, processed)
    out = block.out_channels
    transition: nn.Module = nn.Identity()
    if partial.has_transition:
        out = int(out * config.compression) if partial.has_merge else int(plain * config.compression) - carried
        transition = NormActConv(block.out_channels, out, style=config.style)
    if index < len(config.depths) - 1 or not partial.has_merge:
        return CrossStage(split, block, transition, nn.Identity()), carried + out
    merge = NormActConv(carried + out, plain, style=config.style)
    return CrossStage(split, block, transition, merge), plain
