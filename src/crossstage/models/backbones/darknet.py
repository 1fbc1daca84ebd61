"""Darknet Reference and Darknet-53 (YOLOv3, arXiv 1804.02767), CSPDarknet-53 as released, YOLOv4-tiny's trunk.

One table, one code path: ``partial=None`` builds the plain network of a row, ``partial=Partial(...)`` its cross stage
partial variant. Modules run in the order of the authors' Darknet files, so that Darknet weights load in file order.
The suffixes "-gamma" and "-omega" of released files are training recipes (omega: ``act="mish"``), not networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage, stepped
from crossstage.nn import ConvNormAct, ConvPair, CrossStage, Partial, Residual, Split, project_split, slice_split
from crossstage.nn.partial import Channels, transition
from crossstage.nn.residual import darknet_body, elastic

_YOLOV3 = "YOLOv3, arXiv 1804.02767"
_CSPNET = "CSPNet, arXiv 1911.11929, and its authors' release"
_TIMM = "timm's cspnet.py"


@dataclass(frozen=True, kw_only=True)
class DarknetConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        stem: Pairs ``(width, stride)`` for each 3x3 convolution before the first stage.
        widths: Channels of each stage's entry convolution.
        depths: Residual blocks of each stage; 1 for the other kinds of stage.
        stage: ``"residual"``: strided 3x3 entry, residual blocks. ``"pair"``: 2x2 max pooling (but before the first
            stage), 3x3 entry, one :class:`~crossstage.nn.ConvPair`. ``"conv"``: 2x2 max pooling, one 3x3 convolution.
        last: Width of a pooled 3x3 convolution after the last stage, or None.
        first: The first residual stage of a partial network with a projected split: ``"half"`` like the others;
            ``"whole"``: both parts keep its full width and its blocks their bottleneck of a half; ``"plain"``: not
            partial.
        elastic: Whether half of each residual block's channels have half the resolution; blocks then have no
            bottleneck.

    Raises:
        ConfigError: Widths and depths differ in number, or a setting does not fit the kind of stage.
    """

    stem: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stage: Literal["residual", "pair", "conv"] = "residual"
    last: int | None = None
    first: Literal["half", "whole", "plain"] = "half"
    elastic: bool = False
    act: str = "leaky"
    momentum: float = 0.01
    init: Literal["darknet", "fan_in", "fan_out"] = "darknet"
    size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths(self.depths, self.widths)
        if self.stage == "conv" and self.partial is not None:
            raise ConfigError(
                "a stage of one convolution has no blocks that a carried part could pass; partial must be None"
            )
        if self.elastic and self.stage != "residual":
            raise ConfigError(f"elastic changes residual blocks; stages of kind {self.stage!r} have none")

    def has_residuals(self) -> bool:
        """See :meth:`BackboneConfig.has_residuals`."""
        return self.stage == "residual"

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


_DARKNET53 = DarknetConfig(
    about=About("Darknet-53", _YOLOV3),
    stem=((32, 1),),
    widths=(64, 128, 256, 512, 1024),
    depths=(1, 2, 8, 8, 4),
)
_CSPDARKNET53 = replace(
    _DARKNET53,
    about=About("CSPDarknet-53", _CSPNET),
    partial=Partial(gamma=0.5, fusion="both", split="project"),
    first="whole",
)
# timm's networks: the same graphs with torch's slope of leaky ReLU and torch's training defaults.
_AS_TIMM = {"act": "leaky_relu", "momentum": 0.1, "init": "fan_out", "zero_init": True}

BACKBONES: dict[str, DarknetConfig] = {
    "darknet_reference": DarknetConfig(
        about=About("Darknet Reference, YOLOv3-tiny's trunk", "darknet.cfg, J. Redmon"),
        stem=((16, 1),),
        widths=(32, 64, 128, 256, 512, 1024),
        depths=(1, 1, 1, 1, 1, 1),
        stage="conv",
    ),
    "darknet53": _DARKNET53,
    "darknet53_timm": replace(_DARKNET53, about=About("Darknet-53, activated as timm's", _TIMM), **_AS_TIMM),
    "cspdarknet53": _CSPDARKNET53,
    "cspdarknet53_s": replace(
        _CSPDARKNET53, about=About("CSPDarknet-53s: the first stage is plain", _CSPNET), first="plain"
    ),
    "cspdarknet53_m": replace(
        _CSPDARKNET53, about=About("CSPDarknet-53m: the first stage is halved like the others", _CSPNET), first="half"
    ),
    "cspdarknet53_elastic": replace(_CSPDARKNET53, about=About("CSPDarknet-53-Elastic", _CSPNET), elastic=True),
    "cspdarknet53_timm": replace(_CSPDARKNET53, about=About("CSPDarknet-53, activated as timm's", _TIMM), **_AS_TIMM),
    "cspdarknet53_tiny": DarknetConfig(
        about=About(
            "YOLOv4-tiny's backbone; its classifier is unpublished", "yolov4-tiny.cfg, A. Bochkovskiy and C.-Y. Wang"
        ),
        stem=((32, 2), (64, 2)),
        widths=(64, 128, 256),
        depths=(1, 1, 1),
        stage="pair",
        last=512,
        partial=Partial(gamma=0.5, fusion="last", split="slice"),
    ),
}


def _build(config: DarknetConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels.
    """
    stem = nn.Sequential()
    width, stride = config.in_chans, 1
    for out, step in config.stem:
        stem.append(ConvNormAct(width, out, 3, step, style=config.style))
        width, stride = out, stride * step

    build = {"residual": _residual_stage, "pair": _pair_stage, "conv": _conv_stage}[config.stage]
    stages: list[Stage] = []
    for index in range(len(config.widths)):
        stride *= 1 if config.stage == "pair" and index == 0 else 2
        stages.append(build(config, index, width, stride))
        width = stages[-1].channels
    if config.last is not None:
        closing = nn.Sequential(nn.MaxPool2d(2, 2), ConvNormAct(width, config.last, 3, style=config.style))
        stages.append(Stage(closing, config.last, stride * 2))
    return stem, stages


def _residual_stage(config: DarknetConfig, index: int, in_channels: int, stride: int) -> Stage:
    """Build a strided 3x3 convolution and residual blocks on all channels or on the processed part."""
    width, partial, style = config.widths[index], config.partial, config.style
    entry = ConvNormAct(in_channels, width, 3, 2, style=style)
    if partial is None or (index == 0 and config.first == "plain"):
        blocks = _blocks(config, index, width, width // 2)
        return Stage(nn.Sequential(entry, blocks), width, stride)

    if config.first == "whole" and index == 0 and partial.split == "project":
        carried, processed, hidden = width, width, width // 2
    else:
        carried, processed = partial.widths(width)
        hidden = processed  # with fewer channels a bottleneck no longer pays (CSPNet, figure 5)
    slice_it = partial.split == "slice"
    split = slice_split(width, carried) if slice_it else project_split(width, carried, processed, style=style)
    out = width if partial.has_merge else carried + processed
    stage = CrossStage(
        split,
        _blocks(config, index, processed, hidden),
        transition(partial.has_transition, processed, processed, style=style),
        transition(partial.has_merge, carried + processed, out, style=style),
    )
    return Stage(nn.Sequential(entry, stage), out, stride)


def _blocks(config: DarknetConfig, index: int, channels: int, hidden: int) -> nn.Sequential:
    before = sum(config.depths[:index])
    rates = stepped(config.drop_path, sum(config.depths))[before : before + config.depths[index]]

    def body() -> nn.Module:
        if config.elastic:
            return elastic(lambda width, _: darknet_body(width, width, style=config.style), channels, channels)
        return darknet_body(channels, hidden, style=config.style)

    return nn.Sequential(*[Residual(body(), nn.Identity(), nn.Identity(), drop_path=rate) for rate in rates])


def _pair_stage(config: DarknetConfig, index: int, in_channels: int, stride: int) -> Stage:
    """Build a 3x3 convolution and a pair of convolutions, which double the entry's width.

    A sliced stage carries its whole input, as YOLOv4-tiny does, and its neck reads x_T, not the concatenation.
    """
    width, partial, style = config.widths[index], config.partial, config.style
    pool = nn.MaxPool2d(2, 2) if index > 0 else nn.Identity()
    entry = ConvNormAct(in_channels, width, 3, style=style)
    if partial is None:
        pair = nn.Sequential(ConvPair(width, style=style), ConvNormAct(2 * width, 2 * width, style=style))
        return Stage(nn.Sequential(pool, entry, pair), 2 * width, stride)

    carried, processed = partial.widths(width)
    if partial.split == "slice":
        split, carried = Split(nn.Identity(), Channels(carried, width)), width
    else:
        split = project_split(width, carried, processed, style=style)
    transitioned = width if partial.has_transition else 2 * processed
    out = 2 * width if partial.has_merge else transitioned + carried
    stage = CrossStage(
        split,
        ConvPair(processed, style=style),
        transition(partial.has_transition, 2 * processed, transitioned, style=style),
        transition(partial.has_merge, transitioned + carried, out, style=style),
        carried_first=True,
    )
    return Stage(nn.Sequential(pool, entry, stage), out, stride, None if partial.has_merge else transitioned)


def _conv_stage(config: DarknetConfig, index: int, in_channels: int, stride: int) -> Stage:
    width = config.widths[index]
    module = nn.Sequential(nn.MaxPool2d(2, 2), ConvNormAct(in_channels, width, 3, style=config.style))
    return Stage(module, width, stride)
