"""Transposed convolutions, which enlarge maps."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from crossstage.nn.conv import ConvStyle


class DeconvNormAct(nn.Module):
    """A transposed convolution that doubles a map, normalisation, activation.

    Its first output starts as the bilinear enlargement of the inputs' sum, as in CenterNet.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, 2H, 2W)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        style: Normalisation and activation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, bias=style.bias)
        self.bn = style.normalise(out_channels)
        self.act = style.activate()
        bilinear_(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge, normalise and activate."""
        return self.act(self.bn(self.conv(x)))


def bilinear_(conv: nn.ConvTranspose2d) -> None:
    """Set the weights to the first output of each group to bilinear enlargement, in place; others stay as they are.

    Args:
        conv: A transposed convolution whose square kernel is twice as wide as its stride.
    """
    side = conv.kernel_size[0]
    factor = (side + 1) // 2
    centre = (2 * factor - 1 - factor % 2) / (2 * factor)
    weights = [
        (1 - abs(row / factor - centre)) * (1 - abs(column / factor - centre))
        for row, column in product(range(side), repeat=2)
    ]
    with torch.no_grad():
        conv.weight[:, 0] = conv.weight.new_tensor(weights).view(side, side)
