"""The convolution that every network here is made of."""

from __future__ import annotations

from torch import Tensor, nn

from crossstage.nn.activation import activation

BN_EPS = 1e-5  # Darknet's and PyTorch's; OpenCV's Darknet importer uses 1e-6


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, activation: ``act(bn(conv(x)))``.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))`` for odd kernels, which
    are padded by ``kernel_size // 2``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the square kernel.
        stride: Step in pixels.
        groups: Blocks of channels that are convolved apart; divides both channel counts.
        act: Name of the activation, see :func:`crossstage.nn.activation`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        act: str = "leaky",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=BN_EPS)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution, normalisation and activation."""
        return self.act(self.bn(self.conv(x)))
