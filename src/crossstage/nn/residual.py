"""Residual blocks: what runs, what it is added to, and what follows the sum.

Every residual block here is one :class:`Residual`; the functions below it build the bodies of ResNet (arXiv
1512.03385), ResNeXt (1611.05431), Darknet-53 (1804.02767) and MobileNetV2 (1801.04381).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from crossstage.errors import ConfigError
from crossstage.nn.conv import ConvNormAct, ConvStyle, spatial_conv

ShortcutKind = Literal["partial", "project"]


class Residual(nn.Module):
    """``act(shortcut(x) + body(x))``.

    Args:
        body: The layers whose output is added.
        shortcut: The layer that brings the input to the body's shape; ``nn.Identity()`` where it has that already.
        act: The activation of the sum; ``nn.Identity()`` in Darknet-53 and MobileNetV2.
        drop_path: Probability that an image's body is left out in training (stochastic depth, arXiv 1603.09382).
        in_place: Whether to add into the body's output, which saves memory and time. Not where the body ends with an
            activation, whose backward pass needs it.
    """

    def __init__(
        self, body: nn.Module, shortcut: nn.Module, act: nn.Module, *, drop_path: float = 0.0, in_place: bool = False
    ) -> None:
        super().__init__()
        self.in_place = in_place
        self.body = body
        # Identities are left out: in small networks calling them would cost a percent.
        self.shortcut = None if isinstance(shortcut, nn.Identity) else shortcut
        self.drop_path = StochasticDepth(drop_path, mode="row") if drop_path else None
        self.act = None if isinstance(act, nn.Identity) else act

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output to the shortcut's, then activate."""
        y = self.body(x)
        if self.drop_path is not None:
            y = self.drop_path(y)
        bypass = x if self.shortcut is None else self.shortcut(x)
        y = y.add_(bypass) if self.in_place else y + bypass
        return y if self.act is None else self.act(y)


class PartialShortcut(nn.Module):
    """Darknet's shortcut between unequal shapes, without weights: PRN's, and every strided one of its ResNets.

    Takes every ``stride``-th pixel from the top left and the first ``min(in_channels, out_channels)`` channels; the
    other channels of the sum get nothing added.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Sample, then cut or fill up with zeros."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.out_channels > self.in_channels:
            return F.pad(x, (0, 0, 0, 0, 0, self.out_channels - self.in_channels))
        return x[:, : self.out_channels]

    def extra_repr(self) -> str:
        """Return the settings that ``repr`` shows."""
        return f"in_channels={self.in_channels}, out_channels={self.out_channels}, stride={self.stride}"


class Elastic(nn.Module):
    """Half of the channels at full, half at half resolution (ELASTIC, arXiv 1812.05262, as CSPNet's authors use it).

    Shape: ``(N, 2 * C, H, W) -> (N, 2 * D, H, W)`` for two bodies ``(N, C, ...) -> (N, D, ...)``; H and W at least 2.

    Args:
        fine: Body of the first half of the channels.
        coarse: Body of the second half, between 2x2 max pooling and nearest upsampling.
    """

    def __init__(self, fine: nn.Module, coarse: nn.Module) -> None:
        super().__init__()
        self.fine = fine
        self.coarse = coarse

    def forward(self, x: Tensor) -> Tensor:
        """Run both bodies and concatenate."""
        fine, coarse = x.chunk(2, dim=1)
        fine, coarse = self.fine(fine), self.coarse(F.max_pool2d(coarse, 2))
        return torch.cat([fine, F.interpolate(coarse, size=fine.shape[2:], mode="nearest")], dim=1)


def shortcut(kind: ShortcutKind, in_channels: int, out_channels: int, stride: int, style: ConvStyle) -> nn.Module:
    """Build a shortcut: nothing where shapes agree, else a partial one or a 1x1 projection with normalisation."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if kind == "partial":
        return PartialShortcut(in_channels, out_channels, stride)
    return ConvNormAct(in_channels, out_channels, 1, stride, style=style.linear)


def basic_body(in_channels: int, out_channels: int, stride: int = 1, *, style: ConvStyle) -> nn.Sequential:
    """Build two 3x3 convolutions, the second linear (ResNet-18 and -34)."""
    return nn.Sequential(
        ConvNormAct(in_channels, out_channels, 3, stride, style=style),
        ConvNormAct(out_channels, out_channels, 3, style=style.linear),
    )


def bottleneck_body(
    in_channels: int,
    hidden: int,
    out_channels: int,
    stride: int = 1,
    *,
    groups: int = 1,
    stride_first: bool = False,
    style: ConvStyle,
) -> nn.Sequential:
    """Build a bottleneck: 1x1, 3x3 (in groups) and linear 1x1 (ResNet-50 and deeper; ResNeXt with groups).

    The 3x3 convolution strides, or with ``stride_first`` the first 1x1 convolution.
    """
    first, second = (stride, 1) if stride_first else (1, stride)
    return nn.Sequential(
        ConvNormAct(in_channels, hidden, 1, first, style=style),
        ConvNormAct(hidden, hidden, 3, second, groups=groups, style=style),
        ConvNormAct(hidden, out_channels, style=style.linear),
    )


def projected(in_channels: int, hidden: int, out_channels: int, stride: int = 1, *, style: ConvStyle) -> Residual:
    """Build a whole bottleneck whose shortcut is a projection whatever its shape (Pelee, RefineDet with ResNet)."""
    body = bottleneck_body(in_channels, hidden, out_channels, stride, style=style)
    projection = ConvNormAct(in_channels, out_channels, 1, stride, style=style.linear)
    return Residual(body, projection, style.activate(), in_place=True)


def darknet_body(channels: int, hidden: int, *, depthwise: bool = False, style: ConvStyle) -> nn.Sequential:
    """Build a 1x1 and a 3x3 convolution, both activated (Darknet-53); the latter may be separable (YOLOX-Nano)."""
    return nn.Sequential(
        ConvNormAct(channels, hidden, style=style), spatial_conv(hidden, channels, depthwise=depthwise, style=style)
    )


def cspnext_body(channels: int, *, depthwise: bool = False, style: ConvStyle) -> nn.Sequential:
    """Build a 3x3, which may be separable, a depthwise 5x5 and a 1x1 convolution, all activated (CSPNeXt)."""
    return nn.Sequential(
        spatial_conv(channels, channels, depthwise=depthwise, style=style),
        ConvNormAct(channels, channels, 5, groups=channels, style=style),
        ConvNormAct(channels, channels, style=style),
    )


def rounded(width: float, divisor: int = 8) -> int:
    """Return the multiple of ``divisor`` that is next to a width, but not less than nine tenths of it (MobileNet)."""
    near = max(divisor, int(math.ceil(width) + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * width else near


def inverted_body(
    in_channels: int,
    expanded: int | None,
    depthwise: int,
    out_channels: int,
    stride: int = 1,
    *,
    kernel_size: int = 3,
    same: bool = False,
    style: ConvStyle,
) -> nn.Sequential:
    """Build a body that expands by 1x1, filters by a depthwise convolution and projects by a linear 1x1 (MobileNetV2).

    Args:
        in_channels: Channels of the input.
        expanded: Channels after the 1x1 expansion; None leaves it out.
        depthwise: Channels after the depthwise convolution, a multiple of those before: CSPMobileNetV2's doubles them.
        out_channels: Channels of the output.
        stride: Step of the depthwise convolution.
        kernel_size: Side of the depthwise convolution's kernel.
        same: Whether it is padded as TensorFlow does it, see :class:`~crossstage.nn.conv.SamePad`.
        style: Normalisation and activation.
    """
    before = in_channels if expanded is None else expanded
    layers = [] if expanded is None else [ConvNormAct(in_channels, expanded, style=style)]
    layers += [
        ConvNormAct(before, depthwise, kernel_size, stride, groups=before, same=same, style=style),
        ConvNormAct(depthwise, out_channels, style=style.linear),
    ]
    return nn.Sequential(*layers)


def elastic(build: Callable[[int, int], nn.Module], in_channels: int, out_channels: int) -> Elastic:
    """Build an elastic body of two of half the width, each made by ``build(in_channels, out_channels)``.

    Raises:
        ConfigError: The channels cannot be halved.
    """
    if in_channels % 2 or out_channels % 2:
        raise ConfigError(f"an elastic block from {in_channels} to {out_channels} channels; expected even numbers")
    return Elastic(build(in_channels // 2, out_channels // 2), build(in_channels // 2, out_channels // 2))
