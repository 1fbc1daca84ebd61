"""Deformable convolution, version 2 (arXiv 1811.11168), by torchvision's operator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from crossstage.nn.conv import ConvStyle


class DeformConv(nn.Module):
    """A convolution whose taps each read at an offset and with a weight of their own, both predicted from the input.

    One plain convolution predicts for each of the ``k * k`` taps the offset, rows before columns, and after all offsets
    the logits of the taps' weights. It starts at zero: as a plain convolution with half of its weights.

    Where a graph is recorded it consists of a grid sample and a product, as ONNX knows deformable convolution in
    newer versions alone and OpenVINO not at all.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side ``k`` of the square kernel, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.offsets = nn.Conv2d(in_channels, 3 * kernel_size**2, kernel_size, padding=kernel_size // 2)
        bound = 1 / math.sqrt(in_channels * kernel_size**2)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.offsets.weight)
        assert self.offsets.bias is not None
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Predict offsets and weights, and convolve."""
        rows_columns, logits = self.offsets(x).split([2 * self.kernel_size**2, self.kernel_size**2], dim=1)
        weights = logits.sigmoid()
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            return sampled_deform_conv(x, rows_columns, weights, self.weight, self.bias)
        pad = self.kernel_size // 2
        return deform_conv2d(x, rows_columns, self.weight, self.bias, padding=(pad, pad), mask=weights)

    def extra_repr(self) -> str:
        """Return the settings that ``repr`` shows."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"


def sampled_deform_conv(x: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Compute a deformable convolution in steps of 1 by operations that all runtimes know.

    Args:
        x: ``(N, C, H, W)``.
        offsets: ``(N, 2 * k * k, H, W)``, for each tap of the kernel how many rows and columns it is moved.
        weights: ``(N, k * k, H, W)``, factors of the taps.
        kernel: ``(D, C, k, k)``, ``k`` odd; the input is padded by zeros.
        bias: ``(D,)``.

    Returns:
        ``(N, D, H, W)``.
    """
    batch, channels, height, width = x.shape
    side = kernel.shape[-1]
    taps = side * side
    away = torch.arange(taps, device=x.device, dtype=x.dtype).view(taps, 1, 1)
    row = torch.arange(height, device=x.device, dtype=x.dtype).view(1, height, 1)
    column = torch.arange(width, device=x.device, dtype=x.dtype)
    above = (away / side).floor()
    rows = offsets[:, ::2] + (above - side // 2 + row)  # (N, k * k, H, W), in cells
    columns = offsets[:, 1::2] + (away - above * side - side // 2 + column)
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    read = F.grid_sample(x, grid.flatten(1, 2), align_corners=False)  # (N, C, k * k * H, W)
    read = read * weights.flatten(1, 2).unsqueeze(1)
    read = read.view(batch, channels * taps, height, width)  # channel after channel, in each tap after tap
    return F.conv2d(read, kernel.flatten(1).unsqueeze(-1).unsqueeze(-1), bias)


class DeformConvNormAct(nn.Module):
    """Deformable convolution with bias, normalisation and activation.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        style: Normalisation and activation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.conv = DeformConv(in_channels, out_channels)
        self.bn = style.normalise(out_channels)
        self.act = style.activate()

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise and activate."""
        return self.act(self.bn(self.conv(x)))
