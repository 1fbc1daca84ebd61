"""One-shot aggregation: run convolutions in a row and concatenate their outputs once, at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossstage.nn.conv import ConvNormAct


class ConvPair(nn.Module):
    """YOLOv4-tiny's block: two 3x3 convolutions in a row, both outputs kept, the later one first.

    The smallest one-shot aggregation without the input (VoVNet, arXiv 1904.09730, also keeps the input).

    Shape: ``(N, channels, H, W) -> (N, 2 * channels, H, W)``.
    """

    def __init__(self, channels: int, *, act: str) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, channels, 3, act=act)
        self.second = ConvNormAct(channels, channels, 3, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate ``[second(first(x)), first(x)]``."""
        first = self.first(x)
        return torch.cat([self.second(first), first], dim=1)
