"""What the two pyramids of CSPNet's own share: how a map is read, the way down from the deepest, the way up to heads.

The layers of both, and so their costs, are read off the bars of the paper's figure 7; numbers in comments are those of
its bars. Each 3x3 convolution on a level costs as much as on any other: channels double as pixels quarter.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.models.necks.base import PyramidConfig, check_widths
from crossstage.nn import Attention, ConvNormAct, ConvStyle, Maxout, PartialShortcut, Residual, SpatialPyramidPool


@dataclass(frozen=True, kw_only=True)
class FusionConfig(PyramidConfig):
    """Settings of GFM and EFM.

    Attributes:
        reads: Strides of the maps; outputs are at all but the first, which is fused but not predicted from.
        neck_channels: Channels of the 3x3 convolutions of each output's level, shallow to deep.
        attention: The gate of the fused maps, see :mod:`crossstage.nn.attention`.
        spp: Whether the deepest level is pooled over windows of 5, 9 and 13 pixels.
        maxout: Whether :class:`~crossstage.nn.Maxout` narrows maps before they are moved between scales or
            concatenated.
    """

    reads: tuple[int, ...] = (4, 8, 16, 32)
    neck_channels: tuple[int, ...] = (64, 128, 256)
    attention: Attention = "none"
    spp: bool = False
    maxout: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(type(self).__name__, self.neck_channels, len(self.reads) - 1)


class Narrow(nn.Module):
    """Maxout where it is wanted and narrows.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.

    Attributes:
        out_channels: Number of channels of the output: ``width``, or that of the input.
    """

    def __init__(self, in_channels: int, width: int, maxout: bool) -> None:
        super().__init__()
        self.maxout = Maxout(width) if maxout and in_channels > width else None
        self.out_channels = width if self.maxout is not None else in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Narrow the map, or pass it on."""
        return x if self.maxout is None else self.maxout(x)


def widened(in_channels: int, width: int, style: ConvStyle) -> nn.Sequential:
    """Build a 1x1 convolution to ``width`` channels and a residual 3x3."""
    smooth = ConvNormAct(width, width, 3, style=style)
    return nn.Sequential(
        ConvNormAct(in_channels, width, style=style), Residual(smooth, nn.Identity(), style.activate())
    )


def deepest_path(in_channels: int, width: int, spp: bool, style: ConvStyle) -> nn.Sequential:
    """Build the path from the backbone's deepest map to half of ``width`` channels (114 to 116)."""
    path = widened(in_channels, width, style)
    if spp:
        path.append(ConvNormAct(width, width // 4, style=style))
        path.append(SpatialPyramidPool())
    return path.append(ConvNormAct(width, width // 2, style=style))


class Ascent(nn.Module):
    """The bottom-up path from the fused maps to the heads (135 to 149).

    Each level joins its fused map, narrowed, with the enlarged view from the level below it; the deepest adds both.

    Shape: a list of ``(N, fused[i], H_i, W_i)``, shallow to deep, to a list of ``(N, channels[i], H_i, W_i)``.

    Args:
        fused: Channels of the fused maps.
        widths: Channels of each level's 3x3 convolution; the deepest has half.
        maxout: Whether the fused maps that are joined are narrowed.
        style: Normalisation and activation of every convolution.
    """

    def __init__(self, fused: Sequence[int], widths: Sequence[int], *, maxout: bool, style: ConvStyle) -> None:
        super().__init__()
        self.channels = [*widths[:-1], widths[-1] // 2]
        between = range(1, len(widths) - 1)
        self.narrow = nn.ModuleList(Narrow(fused[i], widths[i], maxout) for i in between)
        self.shrink = nn.ModuleList(
            ConvNormAct(fine, coarse, 3, 2, style=style) for fine, coarse in itertools.pairwise(widths)
        )
        joined = [widths[i] + min(fused[i], widths[i]) if maxout else widths[i] + fused[i] for i in between]
        self.reduce = nn.ModuleList(
            ConvNormAct(read, out, style=style)
            for read, out in zip([fused[0], *joined, widths[-1]], self.channels, strict=True)
        )
        self.smooth = nn.ModuleList(ConvNormAct(out, out, 3, style=style) for out in self.channels)
        self.skip = PartialShortcut(fused[-1], widths[-1], 1)

    def forward(self, fused: Sequence[Tensor]) -> list[Tensor]:
        """Ascend from fine to coarse."""
        outputs = [self.smooth[0](self.reduce[0](fused[0]))]
        for index in range(1, len(fused)):
            below = self.shrink[index - 1](outputs[-1])
            if index < len(fused) - 1:
                joined = torch.cat([below, self.narrow[index - 1](fused[index])], dim=1)
            else:
                joined = below + self.skip(fused[index])
            outputs.append(self.smooth[index](self.reduce[index](joined)))
        return outputs


def halve(x: Tensor, times: int = 1) -> Tensor:
    """Take maxima of squares: ``(N, C, H, W) -> (N, C, H / 2**times, W / 2**times)``."""
    return F.max_pool2d(x, 2**times)
