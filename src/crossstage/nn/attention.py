"""Attention: gates of channels, and the three things that the literature calls SAM, under names of their own.

=====================================  ==================================================================
class                                  what its source calls it
=====================================  ==================================================================
:class:`PointwiseAttention`            YOLOv4's "modified SAM", Darknet's ``[sam]``: a value for each channel and pixel
:class:`ContextAttention`              ThunderNet's "spatial attention module": one map gates another
:class:`SpatialAttention`              CBAM's and CenterMask's "spatial attention module": a value for each pixel
=====================================  ==================================================================
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn.conv import ConvNormAct, ConvStyle

Attention = Literal["none", "pointwise", "context", "spatial"]


class SqueezeExcite(nn.Module):
    """Squeeze and excitation (arXiv 1709.01507): two 1x1 convolutions of the mean of each channel gate it.

    Shape: ``(N, channels, H, W)`` to the same.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1)
        self.expand = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel by a value in (0, 1)."""
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * gate.sigmoid()


class EffectiveSqueezeExcite(nn.Module):
    """VoVNetV2's eSE (arXiv 1911.06667, section 3.2): one 1x1 convolution keeps all channels, a hard sigmoid gates.

    Shape: ``(N, channels, H, W)`` to the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel by a value in [0, 1]."""
        return x * F.hardsigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)))


class PointwiseAttention(nn.Module):
    """A map gates itself, channel by channel (YOLOv4, arXiv 2004.10934, figure 5; Darknet's ``[sam]``).

    Shape: ``(N, channels, H, W)`` to the same.
    """

    def __init__(self, channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.gate = ConvNormAct(channels, channels, style=style.linear)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each value by one in (0, 1) that a 1x1 convolution makes of all channels of its pixel."""
        return x * self.gate(x).sigmoid()


class ContextAttention(nn.Module):
    """A map gates another (ThunderNet, arXiv 1903.11752, equation 1).

    Shape: ``(N, channels, H, W)`` and a context of ``(N, context_channels, H, W)`` to ``(N, channels, H, W)``.
    """

    def __init__(self, channels: int, context_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.gate = ConvNormAct(context_channels, channels, style=style.linear)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Scale each value by one in (0, 1) that a 1x1 convolution makes of the context's pixel."""
        return x * self.gate(context).sigmoid()


class SpatialAttention(nn.Module):
    """A map gates its pixels (CBAM, arXiv 1807.06521, section 3; CenterMask, arXiv 1911.06667, equation 2).

    Shape: ``(N, C, H, W)`` to the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Scale each pixel by a value in (0, 1) that a 3x3 convolution makes of its channels' maximum and mean."""
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return x * self.conv(pooled).sigmoid()


class Attend(nn.Module):
    """One of the three, or none, with one signature.

    Shape: ``(N, channels, H, W)`` and a context of ``(N, context_channels, H, W)`` to ``(N, channels, H, W)``.

    Args:
        kind: The kind of attention; ``"context"`` alone looks at the context.
        channels: Number of channels of the map that is gated.
        context_channels: Number of channels of the context.
        style: Normalisation of the gate's convolution.

    Raises:
        ConfigError: The kind is unknown.
    """

    def __init__(self, kind: Attention, channels: int, context_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.kind = kind
        self.gate: nn.Module | None = None
        if kind == "pointwise":
            self.gate = PointwiseAttention(channels, style=style)
        elif kind == "context":
            self.gate = ContextAttention(channels, context_channels, style=style)
        elif kind == "spatial":
            self.gate = SpatialAttention()
        elif kind != "none":
            raise ConfigError(f"attention is {kind!r}; expected none, pointwise, context or spatial")

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Gate ``x``, by the context or by itself."""
        if self.gate is None:
            return x
        return self.gate(x, context) if self.kind == "context" else self.gate(x)
