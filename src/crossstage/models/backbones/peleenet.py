"""PeleeNet (arXiv 1804.06882) and CSPPeleeNet (CSPNet, arXiv 1911.11929, tables 1 and 3).

CSPPeleeNet was never released; this one is read off the per-layer bars of the paper's figure 7 and gives its published
cost and size at every γ. Four things differ from PeleeNet, not one: the stages have [2, 4, 8, 4] layers, the stem's two
branches are not fused, each part is projected from the whole input, and U runs on the pooled map. The first stage's
parts have 32 channels each whatever γ is. ``create_model("peleenet", partial=Partial(...))`` makes the like-for-like
pair.

Three rows are reconstructions, of which the paper tells the cost alone; all meet it to the last digit. SparsePeleeNet:
each layer reads those at distances 1, 2, 4 and 8; its weights come out as well. PeleeNeXt: groups of eight channels in
all 3x3 convolutions of the dense layers; groups of four in the first of each branch alone would do too. Fusion first:
its cost falls faster with γ than that of "both" and by as much at either step (0.861, 0.755, 0.649 BFLOPs at γ 0.25,
0.5, 0.75). In units of the 0.0257 that a 1x1 convolution from 64 to 64 channels costs on the first stage's map it is
37.6 - 16.5 γ. The dense layers' 1x1 convolutions contribute 7.5 of that slope if the last stage has six layers, and
the next stages' projections the other 9 if the processed part is read before the pooling and the carried part after
it.

A plain stage ends with its transition; the pooling opens the next stage. A partial stage ends with the concatenation of
its parts; pooling and U open the next stage, and the last stage's U follows at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage
from crossstage.nn import (
    ConvNormAct,
    ConvStyle,
    CrossStage,
    DenseBlock,
    Partial,
    Split,
    TwoWayDenseLayer,
    project_split,
    slice_split,
    transition,
)

_PELEE = "Pelee, arXiv 1804.06882"
_CSPNET = "CSPNet, arXiv 1911.11929"


@dataclass(frozen=True, kw_only=True)
class PeleeNetConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        depths: Two-way dense layers of each stage.
        growth: Channels that a layer adds, half by each branch.
        bottleneck: Channels of a branch's 1x1 convolution in each stage, in units of ``growth / 8``, whatever γ is.
        stem: Channels of the stem's branches.
        group_width: Channels that a group of the dense layers' 3x3 convolutions reads (PeleeNeXt); None for one group.
        sparse: Whether each layer reads only those at distances 1, 2, 4, 8, ... (SparsePeleeNet).
        squeeze: Whether each layer's new maps are gated by squeeze and excitation.
        pool_first: Whether U runs after the pooling; before it, it costs four times as much.
        round_up: Whether poolings between stages round the sides of a map up.
        split_before_pool: Whether, instead of U, the next stage's projections read the concatenation: the processed
            part's before the pooling, the carried part's after it.

    Raises:
        ConfigError: The tuples differ in length, or a value is out of range.
    """

    depths: tuple[int, ...]
    growth: int = 32
    bottleneck: tuple[int, ...] = (4, 8, 16, 16)
    stem: int = 32
    group_width: int | None = None
    sparse: bool = False
    squeeze: bool = False
    pool_first: bool = True
    split_before_pool: bool = False
    round_up: bool = False
    dropout: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths(self.depths, self.bottleneck)
        if self.growth % 8:
            raise ConfigError(f"growth is {self.growth}; expected a multiple of 8")
        if self.split_before_pool and self.partial is not None and self.partial.split != "project":
            raise ConfigError("split_before_pool needs projections; expected Partial(split='project')")

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


_PELEENET = PeleeNetConfig(about=About("PeleeNet", _PELEE), depths=(3, 4, 8, 6))
_CSPPELEENET = replace(
    _PELEENET,
    about=About("CSPPeleeNet", _CSPNET),
    depths=(2, 4, 8, 4),
    partial=Partial(gamma=0.5, fusion="both", split="project"),
    act="leaky",  # trained in Darknet, as all of CSPNet's networks
    momentum=0.01,
)
BACKBONES: dict[str, PeleeNetConfig] = {
    "peleenet": _PELEENET,
    "sparse_peleenet": replace(
        _PELEENET, about=About("SparsePeleeNet, sparse aggregation", _CSPNET, reconstruction=True), sparse=True
    ),
    "peleenext": replace(
        _PELEENET, about=About("PeleeNeXt, grouped convolutions", _CSPNET, reconstruction=True), group_width=8
    ),
    "csppeleenet": _CSPPELEENET,
    "csppeleenet_fusion_last": replace(
        _CSPPELEENET, about=About("CSPPeleeNet, fusion last", _CSPNET), partial=Partial(0.5, fusion="last")
    ),
    "csppeleenet_fusion_first": replace(
        _CSPPELEENET,
        about=About("CSPPeleeNet, fusion first", _CSPNET, reconstruction=True),
        depths=(2, 4, 8, 6),
        partial=Partial(0.5, fusion="first"),
        split_before_pool=True,
    ),
    **{
        f"{name}_{suffix}": replace(row, about=About(f"{row.about.summary}; {description}", _CSPNET), **changes)
        for name, row in (("peleenet", _PELEENET), ("csppeleenet", _CSPPELEENET))
        for suffix, description, changes in (
            ("swish", "swish", {"act": "swish"}),
            ("mish", "Mish", {"act": "mish"}),
            ("swish_se", "swish and squeeze-and-excitation", {"act": "swish", "squeeze": True}),
        )
    },
}


class PeleeStem(nn.Module):
    """Two branches of stride 4, one pooled and one convolved (Pelee, figure 2).

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H / 4, W / 4)``.

    Args:
        in_channels: Channels of the input.
        width: Channels of each branch.
        style: Normalisation and activation.
        fuse: Whether a 1x1 convolution leads both branches to ``width`` channels (PeleeNet); without it they have
            ``2 * width``.
        smooth: Whether a 1x1 convolution follows the pooled branch (CSPPeleeNet with fusion "both").
    """

    def __init__(self, in_channels: int, width: int, *, style: ConvStyle, fuse: bool, smooth: bool) -> None:
        super().__init__()
        self.entry = ConvNormAct(in_channels, width, 3, 2, style=style)
        self.convolved = nn.Sequential(
            ConvNormAct(width, width // 2, style=style), ConvNormAct(width // 2, width, 3, 2, style=style)
        )
        self.pooled = nn.Sequential(nn.MaxPool2d(2, 2), transition(smooth, width, width, style=style))
        self.fuse = transition(fuse, 2 * width, width, style=style)
        self.out_channels = width if fuse else 2 * width

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate ``[pooled, convolved]`` and fuse."""
        x = self.entry(x)
        return self.fuse(torch.cat([self.pooled(x), self.convolved(x)], dim=1))


def _build(config: PeleeNetConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels, or groups do not divide a layer's.
    """
    partial = config.partial
    stem = PeleeStem(
        config.in_chans,
        config.stem,
        style=config.style,
        fuse=partial is None,
        smooth=partial is not None and partial.fusion == "both",
    )
    build = _plain_stage if partial is None else _partial_stage
    stages: list[Stage] = []
    width = stem.out_channels
    for index in range(len(config.depths)):
        module, width = build(config, index, width)
        stages.append(Stage(module, width, 4 * 2**index))
    return stem, stages


def _dense(config: PeleeNetConfig, index: int, in_channels: int) -> DenseBlock:
    hidden = config.bottleneck[index] * config.growth // 8

    def layer(channels: int) -> TwoWayDenseLayer:
        return TwoWayDenseLayer(
            channels, config.growth, hidden, style=config.style, group_width=config.group_width, squeeze=config.squeeze
        )

    return DenseBlock(in_channels, config.depths[index], config.growth, layer, sparse=config.sparse)


def _plain_stage(config: PeleeNetConfig, index: int, in_channels: int) -> tuple[nn.Module, int]:
    pool = nn.Identity() if index == 0 else nn.AvgPool2d(2, 2, ceil_mode=config.round_up)
    block = _dense(config, index, in_channels)
    width = block.out_channels
    return nn.Sequential(pool, block, ConvNormAct(width, width, style=config.style)), width


def _partial_stage(config: PeleeNetConfig, index: int, in_channels: int) -> tuple[nn.Module, int]:
    partial, style = config.partial, config.style
    assert partial is not None
    first, last = index == 0, index == len(config.depths) - 1
    shares = replace(partial, gamma=0.5) if first else partial  # the first stage's parts are equal whatever γ is
    carried, processed = shares.widths(in_channels)
    pool: nn.Module = nn.Identity() if first else nn.AvgPool2d(2, 2, ceil_mode=config.round_up)
    entry: nn.Module = nn.Identity()
    if config.split_before_pool:
        split = Split(
            nn.Sequential(pool, ConvNormAct(in_channels, carried, style=style)),
            nn.Sequential(ConvNormAct(in_channels, processed, style=style), pool),
        )
    else:
        merge = transition(partial.has_merge and not first, in_channels, in_channels, style=style)
        entry = nn.Sequential(pool, merge) if config.pool_first else nn.Sequential(merge, pool)
        slice_it = partial.split == "slice"
        split = (
            slice_split(in_channels, carried)
            if slice_it
            else project_split(in_channels, carried, processed, style=style)
        )
    block = _dense(config, index, processed)
    width = carried + block.out_channels
    stage = CrossStage(
        split,
        block,
        transition(partial.has_transition, block.out_channels, block.out_channels, style=style),
        # Fusion last keeps the last stage's U, the network's closing convolution: so its published cost says.
        transition(last and partial.fusion != "none", width, width, style=style),
    )
    return nn.Sequential(entry, stage), width
