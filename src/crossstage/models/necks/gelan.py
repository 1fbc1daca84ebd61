"""YOLOv9's neck (arXiv 2402.13616): a path aggregation network of GELAN's blocks, deep to shallow and back.

Widths follow from the backbone's maps, so that the neck goes with any: they are those of the maps, at most 256 channels
at strides up to 8 and 512 beyond. For GELAN-t, -s, -m and -c that gives the widths of the MIT release
(MultimediaTechLab/YOLO).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import NeckConfig, PyramidConfig, check_strides, upsample
from crossstage.nn import ConvStyle, SPPBottleneck
from crossstage.nn.elan import Sampling, down, elan

_DIVISOR = 8  # of widths that are derived
_SHALLOW = 8  # the largest stride at which maps are at most
_MOST_SHALLOW, _MOST_DEEP = 256, 512  # channels, and beyond which
MAX_DEPTH = 100


@dataclass(frozen=True, kw_only=True)
class GelanPanConfig(PyramidConfig):
    """A path aggregation network of GELAN's blocks.

    Attributes:
        pan_widths: Channels of each output, shallow to deep, multiples of 4; None takes those of the backbone's maps,
            up to the limits of the file's docstring.
        pan_depth: Bottlenecks of each of an aggregation's two blocks: 3 in t and s, 1 in m and c.
        pan_sampling: What halves maps on the way back: ``"aconv"``, to half of the channels of the next output, or
            ``"adown"``, which keeps the channels (c); see :func:`crossstage.nn.elan.down`.

    Raises:
        ConfigError: A value is out of range.
    """

    pan_widths: tuple[int, ...] | None = None
    pan_depth: int = 3
    pan_sampling: Sampling = "aconv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.pan_depth <= MAX_DEPTH:
            raise ConfigError(f"pan_depth is {self.pan_depth}; expected 0 to {MAX_DEPTH}")

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return GelanPan(channels, strides, self, style=style)


class TopDown(nn.Module):
    """Pool the deepest map over several windows, and lead it up: each map is joined with what is enlarged, then
    aggregated.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, widths[i], H_i, W_i)``, shallow to deep.

    Args:
        in_channels: Channels of the maps, shallow to deep.
        widths: Channels of each output.
        depth: Bottlenecks of each of an aggregation's blocks.
        style: Normalisation and activation.
    """

    def __init__(self, in_channels: Sequence[int], widths: Sequence[int], depth: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.channels = list(widths)
        self.pool = SPPBottleneck(in_channels[-1], widths[-1], style=style)
        self.blocks = nn.ModuleList(
            elan(widths[i + 1] + in_channels[i], widths[i], widths[i], depth, style=style)
            for i in range(len(widths) - 1)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps, shallow to deep."""
        maps = [self.pool(features[-1])]
        for index in range(len(features) - 2, -1, -1):
            maps.insert(0, self.blocks[index](torch.cat([upsample(maps[0]), features[index]], dim=1)))
        return maps


class GelanPan(nn.Module):
    """Top-down, then bottom-up again; every join is followed by an aggregation.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, channels[i], H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution.

    Raises:
        ConfigError: There are more or fewer widths than maps, or one is no multiple of 4.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: GelanPanConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        widths = widths_of(in_channels, strides) if config.pan_widths is None else list(config.pan_widths)
        if len(widths) != len(in_channels) or any(width < 4 or width % 4 for width in widths):
            raise ConfigError(f"pan_widths are {tuple(widths)}; expected {len(in_channels)} multiples of 4")
        self.channels, self.strides = widths, list(strides)
        self.top_down = TopDown(in_channels, widths, config.pan_depth, style=style)
        halved = [_halved(config.pan_sampling, *pair) for pair in pairwise(widths)]
        self.down = nn.ModuleList(
            down(config.pan_sampling, width, out, style=style) for width, out in zip(widths, halved, strict=False)
        )
        self.blocks = nn.ModuleList(
            elan(out + width, width, width, config.pan_depth, style=style)
            for out, width in zip(halved, widths[1:], strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow and back."""
        maps = self.top_down(features)
        for index, (halve, block) in enumerate(zip(self.down, self.blocks, strict=True)):
            maps[index + 1] = block(torch.cat([halve(maps[index]), maps[index + 1]], dim=1))
        return maps


def widths_of(channels: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return the widths that go with a backbone's maps: theirs, rounded up to multiples of 8, up to a limit.

    Args:
        channels: Channels of the maps.
        strides: Strides of the maps.
    """
    limits = (_MOST_SHALLOW if stride <= _SHALLOW else _MOST_DEEP for stride in strides)
    return [min(_rounded(width), limit) for width, limit in zip(channels, limits, strict=True)]


def _halved(kind: Sampling, width: int, following: int) -> int:
    """Return the channels of a halved map, which is joined with the next output's."""
    return width if kind == "adown" else _rounded(following / 2)


def _rounded(width: float) -> int:
    return -int(-width // _DIVISOR) * _DIVISOR


NECKS: dict[str, NeckConfig] = {
    "gelan_pan": GelanPanConfig(),
}
