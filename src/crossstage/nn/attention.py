"""Channel attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
