"""DSOD's DenseNet (arXiv 1708.01241, table 1), which is made to be trained without pretrained weights.

Its stem is three 3x3 convolutions, and the second and the last transition do not pool, so that all that follows the
third pooling has stride 16. Poolings round up: 300 pixels give maps of 75, 38 and 19 cells. A row is named
DS/A-B-k-theta by its authors: width of the stem, of the layers' bottlenecks, growth, and compression.

A stage's map is what its transition returns, without norm or activation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage
from crossstage.nn import ConvNormAct, DenseBlock, DenseLayer, NormActConv
from crossstage.nn.init import Init

_DSOD = "DSOD, arXiv 1708.01241"
_POOLED = (True, True, True, False)  # which dense blocks a pooling opens: the stem's, two of transitions


@dataclass(frozen=True, kw_only=True)
class DSODConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        depths: Layers of each of the four dense blocks.
        growth: Channels that a layer adds.
        hidden: Channels between a layer's two convolutions.
        stem: Channels of the stem's three convolutions.
        compression: Share of the channels that a transition keeps.
        last: Channels after the last transition.

    Raises:
        ConfigError: There are not four dense blocks, a value is out of range, or stages are to be partial.
    """

    depths: tuple[int, ...] = (6, 8, 8, 8)
    growth: int = 48
    hidden: int = 192
    stem: tuple[int, int, int] = (64, 64, 128)
    compression: float = 1.0
    last: int = 256
    init: Init = "fan_in"
    size: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths(self.depths, _POOLED)
        if self.partial is not None:
            raise ConfigError(f"partial is {self.partial}; this network has no partial form, expected None")
        if not 0 < self.compression <= 1:
            raise ConfigError(f"compression is {self.compression}; expected a share of channels above 0 and up to 1")

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


_DENSENET = DSODConfig(about=About("DSOD's DenseNet DS/64-192-48-1", _DSOD))
BACKBONES = {
    "dsod_densenet": _DENSENET,
    "dsod_densenet67": replace(
        _DENSENET, about=About("DSOD's DenseNet DS/64-64-16-1, called DenseNet-67", _DSOD), growth=16, hidden=64
    ),
}


def _build(config: DSODConfig) -> tuple[nn.Module, list[Stage]]:
    style, width = config.style, config.in_chans
    stem = nn.Sequential()
    for index, out in enumerate(config.stem):
        stem.append(ConvNormAct(width, out, 3, 2 if index == 0 else 1, style=style))
        width = out

    def layer(channels: int) -> DenseLayer:
        return DenseLayer(channels, config.growth, config.hidden, style=style)

    stages: list[Stage] = []
    stride = 2
    for index, (depth, pooled) in enumerate(zip(config.depths, _POOLED, strict=True)):
        module = nn.Sequential(nn.MaxPool2d(2, 2, ceil_mode=True) if pooled else nn.Identity())
        stride *= 2 if pooled else 1
        block = DenseBlock(width, depth, config.growth, layer)
        width = config.last if index == len(_POOLED) - 1 else int(block.out_channels * config.compression)
        module.extend([block, NormActConv(block.out_channels, width, style=style)])
        stages.append(Stage(module, width, stride))
    return stem, stages
