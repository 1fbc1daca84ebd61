"""Residual blocks."""

from __future__ import annotations

from torch import Tensor, nn

from crossstage.nn.conv import ConvNormAct


class DarknetBlock(nn.Module):
    """Darknet-53's residual block (YOLOv3, arXiv 1804.02767): ``x + conv3x3(conv1x1(x))``.

    Both convolutions are activated; the sum is not.

    Shape: ``(N, channels, H, W) -> (N, channels, H, W)``.

    Args:
        channels: Channels of input and output.
        hidden: Channels between the two convolutions.
        act: Name of the activation.
    """

    def __init__(self, channels: int, hidden: int, *, act: str) -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, hidden, 1, act=act)
        self.expand = ConvNormAct(hidden, channels, 3, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Add the two convolutions' output to the input."""
        return x + self.expand(self.reduce(x))
