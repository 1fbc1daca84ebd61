"""Darknet's layers without weights, as torch modules with Darknet's own edge rules.

Every map is ``(N, C, H, W)``; vectors are ``(N, C, 1, 1)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Blur(nn.Module):
    """The fixed low-pass filter that ``antialiasing`` puts where the stride was (arXiv 1904.11486).

    Args:
        channels: Number of channels, each of which is filtered alone.
        size: Side of the kernel: 3 for the binomial one with zero padding of 1, 2 for the 2x2 mean without padding.
        stride: Vertical and horizontal step in pixels.
    """

    def __init__(self, channels: int, size: int, stride: tuple[int, int]) -> None:
        super().__init__()
        taps = (1.0, 2.0, 1.0) if size == 3 else (1.0, 1.0)
        self.taps = tuple(tap / sum(taps) for tap in taps)
        self.channels = channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        row = x.new_tensor(self.taps)
        kernel = (row[:, None] * row).expand(self.channels, 1, -1, -1)
        return F.conv2d(
            x,
            kernel,
            stride=self.stride,
            padding=len(self.taps) // 2 if len(self.taps) == 3 else 0,
            groups=self.channels,
        )


class Pool(nn.Module):
    """Max or average pooling with Darknet's padding: ``padding`` pixels in all, half before, the larger half after.

    Padded pixels count for neither the maximum nor the mean. Windows that begin in the padding after the last pixel
    exist: size 2 and stride 2 give ``ceil(w / 2)``.
    """

    def __init__(self, size: int, stride: tuple[int, int], padding: int, *, mean: bool, blur: Blur | None) -> None:
        super().__init__()
        self.size, self.stride, self.padding, self.mean = size, stride, padding, mean
        self.blur = blur

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.padding // 2, self.padding - self.padding // 2
        around = (before, after, before, after)
        if self.mean:
            ones = torch.ones_like(x[:1, :1])
            inside = F.avg_pool2d(F.pad(ones, around), self.size, self.stride)
            return F.avg_pool2d(F.pad(x, around), self.size, self.stride) / inside
        x = F.max_pool2d(F.pad(x, around, value=-torch.inf) if self.padding else x, self.size, self.stride)
        return x if self.blur is None else self.blur(x)


class GlobalAverage(nn.Module):
    """Mean over the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Route(nn.Module):
    """Concatenate maps, each cut to the same of ``groups`` parts of its channels."""

    def __init__(self, groups: int, group_id: int) -> None:
        super().__init__()
        self.groups, self.group_id = groups, group_id

    def forward(self, *maps: Tensor) -> Tensor:
        if self.groups > 1:
            maps = tuple(x.chunk(self.groups, dim=1)[self.group_id] for x in maps)
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


def partial_add(x: Tensor, other: Tensor) -> Tensor:
    """Add the first ``min(c)`` channels of ``other`` to ``x``, whose shape the sum keeps: Darknet's shortcut.

    A map of n times the size is read at every n-th pixel, n being the whole quotient of the widths; a smaller one is
    added to every n-th pixel.
    """
    channels = min(x.shape[1], other.shape[1])
    other = other[:, :channels]
    if other.shape[2:] != x.shape[2:]:
        return _strided_add(x, other)
    if channels == x.shape[1]:
        return x + other
    return torch.cat([x[:, :channels] + other, x[:, channels:]], dim=1)


def _strided_add(x: Tensor, other: Tensor) -> Tensor:
    read, write = max(1, other.shape[3] // x.shape[3]), max(1, x.shape[3] // other.shape[3])
    height, width = min(x.shape[2], other.shape[2]), min(x.shape[3], other.shape[3])
    total = x.clone()
    target = total[:, : other.shape[1], : height * write : write, : width * write : write]
    target += other[:, :, : height * read : read, : width * read : read]
    return total


class Shortcut(nn.Module):
    """Sum of the layer before and others, see :func:`partial_add`; then an activation."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            x = partial_add(x, other)
        return self.act(x)


class Scale(nn.Module):
    """Product of two maps, one of them broadcast: ``[scale_channels]`` (squeeze and excitation) and ``[sam]``."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.act(x * other)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement, times a constant."""

    def __init__(self, factor: int, scale: float) -> None:
        super().__init__()
        self.factor, self.scale = factor, scale

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=self.factor, mode="nearest")
        return x if self.scale == 1 else x * self.scale


class SpaceToDepth(nn.Module):
    """``[reorg3d]``: blocks of pixels become channels, the position in the block outermost."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        s = self.stride
        x = x.reshape(n, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(n, c * s * s, h // s, w // s)


class Reorg(nn.Module):
    """``[reorg]`` of YOLOv2: :class:`SpaceToDepth` of the map misread as ``(c / s^2, h * s, w * s)``.

    The mistake of the original code is part of the networks that were trained with it.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.space_to_depth = SpaceToDepth(stride)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        s = self.stride
        return self.space_to_depth(x.reshape(n, c // s**2, h * s, w * s)).reshape(n, c * s**2, h // s, w // s)


class LocalResponseNorm(nn.Module):
    """``[normalization]``: ``x * (kappa + alpha * sum of squares of neighbouring channels) ** -beta``.

    Darknet's running sum never takes in channel ``size // 2`` and yet drops it later, so that its square is missing
    from every sum; the networks were trained with that.
    """

    def __init__(self, size: int, alpha: float, beta: float, kappa: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.kappa = size, alpha, beta, kappa

    def forward(self, x: Tensor) -> Tensor:
        squares = x.square()
        missing = squares[:, self.size // 2 : self.size // 2 + 1]
        padded = F.pad(squares, (0, 0, 0, 0, (self.size - 1) // 2, self.size // 2))
        window = padded.unfold(1, self.size, 1).sum(-1)
        return x * (self.kappa + self.alpha * (window - missing)).pow(-self.beta)


class Crop(nn.Module):
    """Centre crop; maps [0, 1] to [-1, 1] unless ``noadjust``."""

    def __init__(self, height: int, width: int, *, adjust: bool) -> None:
        super().__init__()
        self.height, self.width, self.adjust = height, width, adjust

    def forward(self, x: Tensor) -> Tensor:
        top, left = (x.shape[2] - self.height) // 2, (x.shape[3] - self.width) // 2
        x = x[:, :, top : top + self.height, left : left + self.width]
        return 2 * x - 1 if self.adjust else x


class Activation(nn.Module):
    """An activation as a layer of its own; its input stays as it is for other layers that read it."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x.clone())


class Softmax(nn.Module):
    """Softmax over all values of a vector, or across channels at each pixel.

    Args:
        temperature: Number that divides the logits.
        groups: Number of parts of the vector that are normalised apart.
        spatial: Whether channels are normalised at each pixel instead.
    """

    def __init__(self, temperature: float, groups: int, *, spatial: bool) -> None:
        super().__init__()
        self.temperature, self.groups, self.spatial = temperature, groups, spatial

    def forward(self, x: Tensor) -> Tensor:
        if self.spatial:
            return (x / self.temperature).softmax(1)
        return (x / self.temperature).reshape(x.shape[0], self.groups, -1).softmax(2).reshape(x.shape)
