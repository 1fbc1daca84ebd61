"""GELAN's aggregation (YOLOv9, arXiv 2402.13616, section 4.2): half of the channels go through blocks in a row, and
every intermediate result is kept, as in ELAN (arXiv 2211.04800); the blocks themselves are cross stage partial.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn.conv import ConvNormAct, ConvStyle
from crossstage.nn.partial import CrossStage, Partial, project_split, slice_split, transition
from crossstage.nn.rep import RepConv
from crossstage.nn.residual import Residual

Sampling = Literal["aconv", "adown"]

BLOCKS = 2  # in a row
PARTIAL = Partial(gamma=0.5, fusion="first", split="project")
"""How YOLOv9's blocks are partial."""


class Aggregation(nn.Module):
    """ELAN with any blocks: ``merge([x1, x2, f1(x2), f2(f1(x2))])`` for the two halves of ``reduce(x)``.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        width: Channels that the input is reduced to, of which half pass the blocks.
        blocks: The blocks, each from ``width / 2`` channels to as many.
        style: Normalisation and activation of the 1x1 convolutions at either end.
    """

    def __init__(
        self, in_channels: int, out_channels: int, width: int, blocks: list[nn.Module], *, style: ConvStyle
    ) -> None:
        super().__init__()
        self.reduce = ConvNormAct(in_channels, width, style=style)
        self.blocks = nn.ModuleList(blocks)
        self.merge = ConvNormAct(width + len(blocks) * (width // 2), out_channels, style=style)

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks and join what each of them gives."""
        maps = list(self.reduce(x).chunk(2, dim=1))
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return self.merge(torch.cat(maps, dim=1))


def elan(
    in_channels: int,
    out_channels: int,
    width: int,
    depth: int,
    *,
    partial: Partial | None = PARTIAL,
    rates: Iterator[float] | None = None,
    style: ConvStyle,
) -> Aggregation:
    """Build an aggregation of two blocks.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        width: Channels that the input is reduced to.
        depth: Residual bottlenecks of each block, before a 3x3 convolution; 0 leaves that convolution alone (ELAN).
        partial: How the bottlenecks are made partial; None for a plain row of them.
        rates: Drop rates of the bottlenecks, in order; None leaves none out.
        style: Normalisation and activation of every convolution.

    Raises:
        ConfigError: ``width`` is odd, or ``partial`` does not cut half of it into whole channels.
    """
    if width < 2 or width % 2:
        raise ConfigError(f"an aggregation is {width} wide; expected an even number of channels")
    half, rates = width // 2, rates or repeat(0.0)
    blocks: list[nn.Module] = []
    for _ in range(BLOCKS):
        convolution = ConvNormAct(half, half, 3, style=style)
        if depth:
            inner = (
                _bottlenecks(half, depth, rates, style) if partial is None else _csp(half, depth, partial, rates, style)
            )
            blocks.append(nn.Sequential(inner, convolution))
        else:
            blocks.append(convolution)
    return Aggregation(in_channels, out_channels, width, blocks, style=style)


def _csp(channels: int, depth: int, partial: Partial, rates: Iterator[float], style: ConvStyle) -> CrossStage:
    """Build a partial stage of bottlenecks that is as wide as its input where U exists (YOLOv9's RepNCSP)."""
    carried, processed = partial.widths(channels)
    sliced = partial.split == "slice"
    transitioned = partial.transition_width(carried, processed, channels)
    return CrossStage(
        slice_split(channels, carried) if sliced else project_split(channels, carried, processed, style=style),
        _bottlenecks(processed, depth, rates, style),
        transition(partial.has_transition, processed, transitioned, style=style),
        transition(partial.has_merge, carried + transitioned, channels, style=style),
    )


def _bottlenecks(channels: int, depth: int, rates: Iterator[float], style: ConvStyle) -> nn.Sequential:
    """Build residual blocks of two 3x3 convolutions, the first with branches."""
    return nn.Sequential(
        *(
            Residual(
                nn.Sequential(
                    RepConv(channels, channels, style=style), ConvNormAct(channels, channels, 3, style=style)
                ),
                nn.Identity(),
                nn.Identity(),
                drop_path=next(rates),
            )
            for _ in range(depth)
        )
    )


class ADown(nn.Module):
    """Halve a map: it is averaged over 2x2 pixels, then one half of the channels is convolved, the other max-pooled.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H / 2, W / 2)`` for even heights and widths.
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.convolved = ConvNormAct(in_channels // 2, out_channels // 2, 3, 2, style=style)
        self.pooled = ConvNormAct(in_channels - in_channels // 2, out_channels - out_channels // 2, style=style)

    def forward(self, x: Tensor) -> Tensor:
        """Halve both halves of the channels, each in its way."""
        x = F.avg_pool2d(x, 2, 1)
        convolved, pooled = x.split([self.convolved.conv.in_channels, self.pooled.conv.in_channels], dim=1)
        return torch.cat([self.convolved(convolved), self.pooled(F.max_pool2d(pooled, 3, 2, 1))], dim=1)


def down(kind: Sampling, in_channels: int, out_channels: int, *, style: ConvStyle) -> nn.Module:
    """Build what halves a map.

    Args:
        kind: ``"aconv"``: means of 2x2 pixels in steps of 1, then a 3x3 convolution in steps of 2; ``"adown"``: see
            :class:`ADown`.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        style: Normalisation and activation.

    Raises:
        ConfigError: The kind is unknown.
    """
    if kind == "adown":
        return ADown(in_channels, out_channels, style=style)
    if kind == "aconv":
        return nn.Sequential(nn.AvgPool2d(2, 1), ConvNormAct(in_channels, out_channels, 3, 2, style=style))
    raise ConfigError(f"sampling is {kind!r}; expected {' or '.join(get_args(Sampling))}")
