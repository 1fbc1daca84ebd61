"""Pooling across channels and over several windows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.nn.conv import ConvNormAct, ConvStyle


class Maxout(nn.Module):
    r"""The largest of every group of channels: EFM's cross-channel pooling (CSPNet, section 3.3; arXiv 1302.4389).

    Darknet's ``maxpool_depth``, whose groups are strided: :math:`y_g = \max(x_g, x_{g+n}, x_{g+2n}, \dots)` with
    :math:`n` channels of output. It has no weights, and what follows reads and writes :math:`n` channels alone.

    Shape: ``(N, C, H, W) -> (N, out_channels, H, W)`` for any C of at least ``out_channels``.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Take maxima; a last group that is not full counts what it has."""
        missing = -x.shape[1] % self.out_channels
        if missing:
            x = F.pad(x, (0, 0, 0, 0, 0, missing), value=-torch.inf)
        # Group by group: in channels-last order ten times as fast as a reduction, and the order is kept.
        return reduce(torch.maximum, x.split(self.out_channels, dim=1))

    def extra_repr(self) -> str:
        """Return the settings that ``repr`` shows."""
        return f"out_channels={self.out_channels}"


class SpatialPyramidPool(nn.Module):
    """Maxima over windows of several sizes, beside the input (YOLOv3-SPP; the idea is arXiv 1406.4729's).

    Shape: ``(N, C, H, W) -> (N, C * (1 + len(windows)), H, W)``; the largest window first, the input last.
    """

    def __init__(self, windows: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        self.windows = tuple(windows)

    def forward(self, x: Tensor) -> Tensor:
        """Pool and concatenate."""
        pooled = [F.max_pool2d(x, window, 1, window // 2) for window in sorted(self.windows, reverse=True)]
        return torch.cat([*pooled, x], dim=1)

    def extra_repr(self) -> str:
        """Return the settings that ``repr`` shows."""
        return f"windows={self.windows}"


class SPPBottleneck(nn.Module):
    """Maxima over windows of 5, 9 and 13 pixels between two 1x1 convolutions (YOLOX, RTMDet, DAMO-YOLO).

    Each window's maxima are those of 5 pixels over the maxima of the window before, which are the same at a third of
    the work.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.

    Args:
        in_channels: Channels of the input, of which half are pooled.
        out_channels: Channels of the output.
        style: Normalisation and activation.
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.reduce = ConvNormAct(in_channels, hidden, style=style)
        self.expand = ConvNormAct(4 * hidden, out_channels, style=style)

    def forward(self, x: Tensor) -> Tensor:
        """Narrow, pool, and concatenate with the input first and the largest window last."""
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
        return self.expand(torch.cat(maps, dim=1))
