"""VGG-16 (arXiv 1409.1556) with its fully connected layers as convolutions, as SSD and RefineDet take it.

Its fc6 and fc7 have 1024 channels, as in the network that SSD's authors started from (ParseNet, arXiv 1506.04579): fc6
is a dilated 3x3 convolution, fc7 a 1x1 convolution. The third pooling rounds up, so that 300 pixels give maps of 38 and
19 cells. Convolutions have a bias and no norm; ``norm="batch"`` gives the form that trains from random weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage
from crossstage.nn import ConvNormAct
from crossstage.nn.conv import Norm
from crossstage.nn.init import Init

ROUNDS_UP = 3  # the pooling whose output's sides are rounded up, counted from 1


@dataclass(frozen=True, kw_only=True)
class VGGConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        widths: Channels of each stage.
        depths: 3x3 convolutions of each stage.
        fc_width: Channels of fc6 and fc7.
        fc_stride: Step of the pooling before fc6: 2, or 1, whose window is 3 (SSD).
        fc_dilation: Distance in pixels between the pixels that fc6 reads.

    Raises:
        ConfigError: The tuples differ in length, a value is out of range, or stages are to be partial.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    fc_width: int = 1024
    fc_stride: Literal[1, 2] = 2
    fc_dilation: int = 3
    norm: Norm = "none"
    init: Init = "fan_in"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths(self.depths, self.widths)
        if self.partial is not None:
            raise ConfigError(f"partial is {self.partial}; a VGG has no stages to be made partial, expected None")
        if self.fc_stride not in (1, 2) or self.fc_dilation < 1:
            found = f"fc_stride is {self.fc_stride} and fc_dilation {self.fc_dilation}"
            raise ConfigError(f"{found}; expected 1 or 2, and at least 1")

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


BACKBONES = {
    "vgg16": VGGConfig(about=About("VGG-16, fully connected layers as convolutions", "VGG, arXiv 1409.1556; ParseNet")),
}


def _build(config: VGGConfig) -> tuple[nn.Module, list[Stage]]:
    style, width, stride = config.style, config.in_chans, 1
    stages: list[Stage] = []
    for index, (out, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        module = nn.Sequential()
        if index:
            module.append(nn.MaxPool2d(2, 2, ceil_mode=index == ROUNDS_UP))
            stride *= 2
        for _ in range(depth):
            module.append(ConvNormAct(width, out, 3, style=style))
            width = out
        stages.append(Stage(module, width, stride))
    pool = nn.MaxPool2d(2, 2) if config.fc_stride == 2 else nn.MaxPool2d(3, 1, padding=1)
    full = nn.Sequential(
        pool,
        ConvNormAct(width, config.fc_width, 3, dilation=config.fc_dilation, style=style),
        ConvNormAct(config.fc_width, config.fc_width, style=style),
    )
    stages.append(Stage(full, config.fc_width, stride * config.fc_stride))
    return nn.Identity(), stages
