"""What all necks share: the settings of a row, the check of what they are given, and the joints between two scales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn import ConvNormAct, ConvStyle


@dataclass(frozen=True, kw_only=True)
class NeckConfig:
    """Settings that every neck has.

    Attributes:
        reads: Strides of the backbone's maps that it reads, each twice the one before.
        neck_act: Activation of its convolutions; None takes the backbone's.

    Raises:
        ConfigError: A stride is not twice the one before.
    """

    reads: tuple[int, ...] = (8, 16, 32)
    neck_act: str | None = None

    def __post_init__(self) -> None:
        check_strides(self.reads)

    def styled(self, style: ConvStyle) -> ConvStyle:
        """The backbone's style with this neck's activation."""
        return replace(style, act=self.neck_act or style.act)


def check_strides(strides: Sequence[int]) -> None:
    """Refuse maps that do not halve from one to the next.

    Raises:
        ConfigError: See above.
    """
    if not strides or any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ConfigError(f"the neck got strides {list(strides)}; expected each to be twice the one before")


def check_widths(name: str, widths: Sequence[int], count: int) -> None:
    """Refuse a row whose widths are not one for each map, or not even.

    Raises:
        ConfigError: See above.
    """
    if len(widths) != count or any(width < 2 or width % 2 for width in widths):
        raise ConfigError(f"neck_channels are {tuple(widths)}; expected {count} even numbers for {name}")


def upsample(x: Tensor) -> Tensor:
    """Each pixel four times: ``(N, C, H, W) -> (N, C, 2H, 2W)``."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def squeeze_expand(in_channels: int, narrow: int, wide: int, count: int, style: ConvStyle) -> nn.Sequential:
    """``count`` convolutions, in turn 1x1 to ``narrow`` and 3x3 to ``wide`` channels (YOLOv3)."""
    layers = nn.Sequential()
    for index in range(count):
        out, kernel = (wide, 3) if index % 2 else (narrow, 1)
        layers.append(ConvNormAct(in_channels, out, kernel, style=style))
        in_channels = out
    return layers


class TinyEntry(nn.Module):
    """How YOLOv3-tiny's trunk ends: 2x2 max pooling in steps of 1, and a 3x3 convolution.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        shortcut: Add the input to the output and activate (YOLOv3-tiny-PRN); the channels must agree.
        style: Normalisation and activation.

    Raises:
        ConfigError: A shortcut between different channels.
    """

    def __init__(self, in_channels: int, out_channels: int, *, shortcut: bool, style: ConvStyle) -> None:
        super().__init__()
        if shortcut and in_channels != out_channels:
            raise ConfigError(f"entry is {out_channels}; expected the {in_channels} channels of the deepest map")
        self.conv = ConvNormAct(in_channels, out_channels, 3, style=style)
        self.act = style.activate() if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """Pool and convolve. The border is repeated, which no maximum notices."""
        y = self.conv(F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1))
        return y if self.act is None else self.act(y + x)
