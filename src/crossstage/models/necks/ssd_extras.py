"""SSD's extra maps (arXiv 1512.02325, section 2.1; Pelee, arXiv 1804.06882; RefineDet, arXiv 1711.06897).

The backbone's maps are passed on, the first of them normalised if the row says so, and ever coarser ones are made of
the deepest. A 3x3 convolution in steps of 2 halves a map and rounds up; one in steps of 1 has no border and takes two
rows and columns off, which leads from 5 to 3 cells and from 3 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import NeckConfig
from crossstage.nn import ConvNormAct, ConvStyle
from crossstage.nn.init import xavier_
from crossstage.nn.residual import projected

Extras = tuple[tuple[int, int, int], ...]

SSD300: Extras = ((256, 512, 2), (128, 256, 2), (128, 256, 1), (128, 256, 1))
PELEE: Extras = ((256, 256, 2), (128, 256, 1), (128, 256, 1))


@dataclass(frozen=True, kw_only=True)
class SSDExtrasConfig(NeckConfig):
    """A backbone's maps and extra ones.

    Attributes:
        reads: Strides of the backbone's maps.
        extras: For each extra map the channels of a 1x1 and of a 3x3 convolution, and the step of the latter, 1 or 2.
        extra_block: ``"plain"``, or ``"residual"``, where an extra map is a bottleneck with a projection, the second
            1x1 convolution having the channels of the map (RefineDet with ResNet).
        l2_scales: What the scales of the first maps' L2 normalisation start from; other maps are not normalised.
        split_first: Whether the first map is returned twice, for priors of two sizes (Pelee).
        predict_width: Channels of a residual block that each map passes before it is returned (Pelee); None for none.

    Raises:
        ConfigError: A value is out of range.
    """

    reads: tuple[int, ...] = (8, 16)
    extras: Extras = SSD300
    extra_block: Literal["plain", "residual"] = "plain"
    l2_scales: tuple[float, ...] = ()
    split_first: bool = False
    predict_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extra_block not in ("plain", "residual"):
            raise ConfigError(f"extra_block is {self.extra_block!r}; expected plain or residual")
        for extra in self.extras:
            if len(extra) != 3 or min(extra) < 1 or extra[2] > 2 or (self.extra_block == "residual" and extra[2] != 2):
                raise ConfigError(f"extras has {extra}; expected two numbers of channels and a step of 1 or 2")
        if len(self.l2_scales) > len(self.reads):
            raise ConfigError(f"l2_scales are {self.l2_scales}; expected at most one for each of {self.reads}")

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return SSDExtras(channels, strides, self, style=style)


class L2Norm(nn.Module):
    """The channels of each pixel scaled to length 1, and each channel by a learned number (ParseNet, 1506.04579).

    Shape: ``(N, channels, H, W)`` to the same.

    Args:
        channels: Channels of the map.
        scale: What the numbers start from.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise in float32 at least, as the squares of a map overflow in float16."""
        full = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)))
        return self.weight.view(1, -1, 1, 1) * full.to(x.dtype)


class SSDExtras(nn.Module):
    """Pass maps on, and make coarser ones of the deepest.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a longer one. Strides of extra maps are nominal: each is twice
    the one before.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides.
        config: The row.
        style: Normalisation and activation.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: SSDExtrasConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        self.config = config
        scales = config.l2_scales
        self.norms = nn.ModuleList(L2Norm(width, scale) for width, scale in zip(in_channels, scales, strict=False))
        self.extras = nn.ModuleList()
        self.channels, self.strides = list(in_channels), list(strides)
        for hidden, out, step in config.extras:
            build = projected if config.extra_block == "residual" else _plain
            self.extras.append(build(self.channels[-1], hidden, out, step, style=style))
            self.channels.append(out)
            self.strides.append(2 * self.strides[-1])
        width = config.predict_width
        self.blocks = nn.ModuleList(
            projected(given, width // 2, width, style=style) for given in self.channels if width
        )
        if width:
            self.channels = [width] * len(self.channels)
        if config.split_first:
            self.channels.insert(0, self.channels[0])
            self.strides.insert(0, self.strides[0])
        xavier_(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Add the extra maps, then normalise the first ones."""
        maps = list(features)
        for extra, (_, _, step) in zip(self.extras, self.config.extras, strict=True):
            maps.append(extra(at_least(maps[-1], 3 if step == 1 else 1)))
        for index, norm in enumerate(self.norms):
            maps[index] = norm(maps[index])
        if self.blocks:
            maps = [block(x) for block, x in zip(self.blocks, maps, strict=True)]
        return [maps[0], *maps] if self.config.split_first else maps


def _plain(in_channels: int, hidden: int, out: int, step: int, *, style: ConvStyle) -> nn.Module:
    reduce = ConvNormAct(in_channels, hidden, style=style)
    conv = ConvNormAct(hidden, out, 3, step, style=style)
    if step == 1:
        conv.conv.padding = (0, 0)
    return nn.Sequential(reduce, conv)


def at_least(x: Tensor, cells: int) -> Tensor:
    """Repeat the last row and column of a map that has less than so many, as maps of small inputs have.

    In a graph for inputs of any size, how often they are repeated is computed when it runs.
    """
    down, right = (cast("int", torch.sym_max(cells - side, 0)) for side in x.shape[2:])
    if isinstance(down, int) and isinstance(right, int) and down == right == 0:  # neither is a symbol
        return x
    return F.pad(x, (0, right, 0, down), mode="replicate")


NECKS = {
    "ssd_extras": SSDExtrasConfig(reads=(8, 16, 32), extras=SSD300[1:]),
}
