"""The four "Reference" networks of the CSPNet paper (tables 3, 4). Reconstructions: only size and cost are published.

What the published figures tell, and what was made of it:

- Every detector with the PRN head (table 4) outweighs its classifier by 0.49M weights. The head has 0.868M plus 256 for
  each channel it reads, the classifier 1,000 for each: the last map has 512 channels.
- The detectors' BFLOPs less their heads' are the classifiers' at 224 pixels. That input size is therefore the table's.
- From a network to its "b" form, weights fall by 2.10M and BFLOPs by 0.206 for CSPPeleeNet: 49 multiply-adds for each
  weight, so all of it happens on the 7x7 map. A convolution from 512 to 512 channels that is 1x1 instead of 3x3 does
  just that.
- The trunk is Darknet Reference's: 3x3 convolutions to 16, 32 and 64 channels with max pooling between, then three
  stages like CSPPeleeNet's, with pooling before each U; the last U leads to 512 channels.

Layers and growth are then what fits best among regular choices, with 1x1 convolutions of a quarter of the stage's
input. One published figure fits no such family: with 0.886 BFLOPs CSPDenseNet Reference would cost 0.255 more than its
"b" form, and table 4's detector on it (2.01 BFLOPs) says 0.835 instead. The row here meets table 3's 0.886; with
``depths=(2, 4, 6), growth=(16, 24, 32)``, the layers of the "b" form, it is 3.46M and 0.835, as table 4 wants it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage
from crossstage.nn import (
    BottleneckDenseLayer,
    ConvNormAct,
    CrossStage,
    DenseBlock,
    Partial,
    TwoWayDenseLayer,
    project_split,
    slice_split,
    transition,
)

_CSPNET = "CSPNet, arXiv 1911.11929, tables 3 and 4"


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        layer: ``"bottleneck"``: a 3x3 convolution behind a 1x1; ``"two_way"``: PeleeNet's.
        depths: Layers of each stage.
        growth: Channels that a layer of each stage adds.
        stem: Channels of the 3x3 convolutions before the first stage, with 2x2 max pooling between.
        last: Channels of the last U and of the closing convolution.
        last_kernel: Side of the closing convolution's kernel: 1 in the networks called "b".

    Raises:
        ConfigError: The tuples differ in length, or a value is unknown.
    """

    layer: Literal["bottleneck", "two_way"]
    depths: tuple[int, ...]
    growth: tuple[int, ...]
    stem: tuple[int, ...] = (16, 32, 64)
    last: int = 512
    last_kernel: Literal[1, 3] = 3
    act: str = "leaky"
    momentum: float = 0.01
    init: Literal["darknet", "fan_in", "fan_out"] = "fan_out"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths(self.depths, self.growth)
        if self.layer not in ("bottleneck", "two_way"):
            raise ConfigError(f"layer is {self.layer!r}; expected bottleneck or two_way")

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


def _about(name: str) -> About:
    return About(name, _CSPNET, reconstruction=True)


_CSPPELEENET = ReferenceConfig(
    about=_about("CSPPeleeNet Reference"),
    layer="two_way",
    depths=(2, 4, 6),
    growth=(16, 32, 64),
    partial=Partial(gamma=0.5, fusion="both", split="project"),
)
BACKBONES: dict[str, ReferenceConfig] = {
    "cspdensenet_ref": replace(
        _CSPPELEENET,
        about=_about("CSPDenseNet Reference"),
        layer="bottleneck",
        depths=(3, 3, 3),
    ),
    "cspdensenetb_ref": replace(
        _CSPPELEENET,
        about=_about("CSPDenseNetb Reference"),
        layer="bottleneck",
        growth=(16, 24, 32),
        last_kernel=1,
    ),
    "csppeleenet_ref": _CSPPELEENET,
    "csppeleenetb_ref": replace(_CSPPELEENET, about=_about("CSPPeleeNetb Reference"), last_kernel=1),
}


def _build(config: ReferenceConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row; max pooling and U open a stage, and the closing convolution is the last one.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels.
    """
    style, partial = config.style, config.partial
    stem = nn.Sequential()
    width, stride = config.in_chans, 1
    for index, out in enumerate(config.stem):
        if index > 0:
            stem.append(nn.MaxPool2d(2, 2))
            stride *= 2
        stem.append(ConvNormAct(width, out, 3, style=style))
        width = out
    stages: list[Stage] = []
    merged = partial is not None and partial.has_merge
    for index in range(len(config.depths)):
        entry: nn.Module = nn.Identity()
        if index > 0:
            entry = nn.Sequential(nn.MaxPool2d(2, 2), transition(merged, width, width, style=style))
            stride *= 2
        module, width = _stage(config, index, width)
        stages.append(Stage(nn.Sequential(entry, module), width, stride))
    narrowed = config.last if merged else width
    closing = nn.Sequential(
        nn.MaxPool2d(2, 2),
        transition(merged, width, narrowed, style=style),
        ConvNormAct(narrowed, config.last, config.last_kernel, style=style),
    )
    stages.append(Stage(closing, config.last, stride * 2))
    return stem, stages


def _stage(config: ReferenceConfig, index: int, in_channels: int) -> tuple[nn.Module, int]:
    style, partial = config.style, config.partial
    if partial is None:
        block = _dense(config, index, in_channels, in_channels // 4)
        return block, block.out_channels
    carried, processed = partial.widths(in_channels)
    if partial.split == "slice":
        split = slice_split(in_channels, carried)
    else:
        split = project_split(in_channels, carried, processed, style=style)
    block = _dense(config, index, processed, in_channels // 4)
    narrowed = transition(partial.has_transition, block.out_channels, block.out_channels, style=style)
    return CrossStage(split, block, narrowed, nn.Identity()), carried + block.out_channels


def _dense(config: ReferenceConfig, index: int, in_channels: int, hidden: int) -> DenseBlock:
    growth = config.growth[index]

    def layer(channels: int) -> nn.Module:
        if config.layer == "two_way":
            return TwoWayDenseLayer(channels, growth, hidden, style=config.style)
        return BottleneckDenseLayer(channels, growth, hidden, style=config.style)

    return DenseBlock(in_channels, config.depths[index], growth, layer)
