"""Dense blocks: each layer reads all maps before it and adds a few of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crossstage.errors import ConfigError
from crossstage.nn.attention import SqueezeExcite
from crossstage.nn.conv import ConvNormAct, ConvStyle


class DenseLayer(nn.Module):
    """DenseNet's pre-activated layer (arXiv 1608.06993, section 3).

    With ``hidden``, DenseNet-B: normalise, activate, 1x1 to ``hidden``, normalise, activate, 3x3 to ``growth``; without
    it, the 3x3 convolution alone.

    Shape: ``(N, in_channels, H, W) -> (N, growth, H, W)``.

    Args:
        in_channels: Number of channels of all maps before.
        growth: Number of channels that the layer adds.
        hidden: Number of channels between the two convolutions; None for a single convolution.
        style: Normalisation and activation of every convolution.
        memory_efficient: Whether to recompute the first part in the backward pass instead of keeping its
            concatenation, whose memory grows with the square of the depth (arXiv 1707.06990).
    """

    def __init__(
        self,
        in_channels: int,
        growth: int,
        hidden: int | None,
        *,
        style: ConvStyle,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = style.normalise(in_channels)
        self.act1 = style.activate()
        first = growth if hidden is None else hidden
        kernel = 3 if hidden is None else 1
        self.conv1 = nn.Conv2d(in_channels, first, kernel, padding=kernel // 2, bias=style.bias)
        self.norm2 = nn.Identity() if hidden is None else style.normalise(hidden)
        self.act2 = nn.Identity() if hidden is None else style.activate()
        self.conv2 = nn.Identity() if hidden is None else nn.Conv2d(hidden, growth, 3, padding=1, bias=style.bias)
        self.memory_efficient = memory_efficient

    def _reduce(self, *maps: Tensor) -> Tensor:
        return self.conv1(self.act1(self.norm1(torch.cat(maps, dim=1))))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return new maps made from all earlier ones."""
        if self.memory_efficient and self.training and any(m.requires_grad for m in maps):
            reduced = checkpoint(self._reduce, *maps, use_reentrant=False)
        else:
            reduced = self._reduce(*maps)
        return self.conv2(self.act2(self.norm2(reduced)))


class ElasticDenseLayer(nn.Module):
    """DenseNet-Elastic's layer (ELASTIC, arXiv 1812.05262): half of the bottleneck at half resolution, then the sum.

    Shape: ``(N, in_channels, H, W) -> (N, growth, H, W)``.

    Args:
        in_channels: Number of channels of all maps before.
        growth: Number of channels that the layer adds.
        hidden: Channels between the two convolutions of both paths together, even.
        style: Normalisation and activation of every convolution.
        halve: Whether the second path's resolution is halved; the last stage's is not.
    """

    def __init__(self, in_channels: int, growth: int, hidden: int, *, style: ConvStyle, halve: bool) -> None:
        super().__init__()
        self.norm = style.normalise(in_channels)
        self.act = style.activate()
        self.fine = _bottleneck(in_channels, hidden // 2, growth, style)
        self.coarse = _bottleneck(in_channels, hidden // 2, growth, style)
        self.halve = halve

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return new maps made from all earlier ones."""
        x = self.act(self.norm(torch.cat(list(maps), dim=1)))
        fine = self.fine(x)
        if not self.halve:
            return fine + self.coarse(x)
        coarse = self.coarse(F.avg_pool2d(x, 2))
        return fine + F.interpolate(coarse, size=fine.shape[2:], mode="bilinear")


def _bottleneck(in_channels: int, hidden: int, out_channels: int, style: ConvStyle) -> nn.Sequential:
    reduce = ConvNormAct(in_channels, hidden, style=style)
    return nn.Sequential(reduce, nn.Conv2d(hidden, out_channels, 3, padding=1, bias=style.bias))


class BottleneckDenseLayer(nn.Module):
    """A dense layer in the order convolution, normalisation, activation: 1x1 to ``hidden`` channels, then 3x3.

    Shape: ``(N, in_channels, H, W) -> (N, growth, H, W)``.
    """

    def __init__(self, in_channels: int, growth: int, hidden: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.reduce = ConvNormAct(in_channels, hidden, style=style)
        self.conv = ConvNormAct(hidden, growth, 3, style=style)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return new maps made from all earlier ones."""
        return self.conv(self.reduce(torch.cat(list(maps), dim=1)))


class TwoWayDenseLayer(nn.Module):
    """PeleeNet's layer (arXiv 1804.06882, section 2): two branches, one of which sees a wider field.

    Shape: ``(N, in_channels, H, W) -> (N, growth, H, W)``: half of the new maps have passed one 3x3 convolution, half
    two.

    Args:
        in_channels: Number of channels of all maps before.
        growth: Number of channels that the layer adds, even.
        hidden: Channels after the 1x1 convolution of each branch.
        style: Normalisation and activation of every convolution.
        group_width: Channels that a group of a 3x3 convolution reads (PeleeNeXt); None for one group.
        squeeze: Whether the new maps are gated by squeeze and excitation with half as many hidden channels.

    Raises:
        ConfigError: ``group_width`` does not divide the channels.
    """

    def __init__(
        self,
        in_channels: int,
        growth: int,
        hidden: int,
        *,
        style: ConvStyle,
        group_width: int | None = None,
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        half = growth // 2
        if group_width is not None and (half % group_width or hidden % group_width):
            raise ConfigError(f"groups of {group_width} channels do not divide {hidden} and {half} channels")
        groups, half_groups = (1, 1) if group_width is None else (hidden // group_width, half // group_width)
        self.near = nn.Sequential(
            ConvNormAct(in_channels, hidden, style=style),
            ConvNormAct(hidden, half, 3, groups=groups, style=style),
        )
        self.far = nn.Sequential(
            ConvNormAct(in_channels, hidden, style=style),
            ConvNormAct(hidden, half, 3, groups=groups, style=style),
            ConvNormAct(half, half, 3, groups=half_groups, style=style),
        )
        self.attention = SqueezeExcite(growth, growth // 2) if squeeze else nn.Identity()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return new maps made from all earlier ones."""
        x = torch.cat(list(maps), dim=1) if len(maps) > 1 else maps[0]
        return self.attention(torch.cat([self.near(x), self.far(x)], dim=1))


class DenseBlock(nn.Module):
    r"""Layers that each read what came before, :math:`x_k = w_k * [x_0, \dots, x_{k-1}]`, all kept.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)`` with ``out_channels = in_channels + layers * growth``.

    Args:
        in_channels: Number of channels of the input.
        layers: Number of layers.
        growth: Number of channels that each layer adds.
        build: Function that makes a layer from the number of channels that it reads.
        sparse: Whether a layer reads only the maps at distances 1, 2, 4, 8, ... (SparseNet, arXiv 1801.05895).
    """

    def __init__(
        self, in_channels: int, layers: int, growth: int, build: Callable[[int], nn.Module], *, sparse: bool = False
    ) -> None:
        super().__init__()
        self.sources = [_sources(index, sparse) for index in range(layers)]
        widths = [in_channels] + [growth] * layers
        self.layers = nn.ModuleList(build(sum(widths[i] for i in chosen)) for chosen in self.sources)
        self.out_channels = sum(widths)
        self.sparse = sparse

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the input and every layer's maps."""
        maps = [x]
        for chosen, layer in zip(self.sources, self.layers, strict=True):
            maps.append(layer([maps[i] for i in chosen]))
        return torch.cat(maps, dim=1)


def _sources(index: int, sparse: bool) -> list[int]:
    """Return which maps a layer reads: 0 is the block's input, k the k-th layer's output."""
    if not sparse:
        return list(range(index + 1))
    return sorted(index + 1 - 2**power for power in range((index + 1).bit_length()))
