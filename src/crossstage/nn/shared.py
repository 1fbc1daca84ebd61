"""Layers that several maps share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from crossstage.nn.conv import ConvStyle


class SharedConvNormAct(nn.Module):
    """One convolution for all maps, each of which has a norm of its own: ``act(norm_i(conv(x_i)))`` (RTMDet).

    Shape: a list of ``(N, in_channels, H_i, W_i)`` to a list of ``(N, out_channels, H_i, W_i)``.

    Args:
        in_channels: Channels of each map.
        out_channels: Channels of each output.
        kernel_size: Side of the square kernel, odd.
        maps: Number of maps.
        style: Normalisation and activation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, maps: int, style: ConvStyle
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=style.bias)
        self.norms = nn.ModuleList(style.normalise(out_channels) for _ in range(maps))
        self.act = style.activate()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Apply the convolution, and each map's norm and the activation."""
        return [self.act(norm(self.conv(x))) for norm, x in zip(self.norms, maps, strict=True)]


class PerMap(nn.ModuleList):
    """A layer for each map: what :class:`SharedConvNormAct` becomes when norms are folded into its convolution.

    Shape: a list of ``(N, in_channels, H_i, W_i)`` to a list of ``(N, out_channels, H_i, W_i)``.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__(layers)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Apply each layer to its map."""
        return [layer(x) for layer, x in zip(self, maps, strict=True)]
