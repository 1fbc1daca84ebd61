"""Feature pyramid of the tiny YOLO detectors (YOLOv3-tiny, YOLOv4-tiny): top-down, by concatenation.

A plain FPN (arXiv 1612.03144) adds; YOLO's concatenates, and the deepest map is narrowed before it is passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn import ConvNormAct, ConvStyle


class TinyFPN(nn.Module):
    r"""Top-down fusion: each map is joined with the upsampled map above it, then smoothed by a 3x3 convolution.

    With maps :math:`C_1 \dots C_L` and outputs :math:`O_1 \dots O_L`, shallow to deep:

    .. math::
        P_L &= narrow(C_L), \quad O_L = smooth_L(P_L)                                       \\
        O_i &= smooth_i([up(reduce_i(P_{i+1})), C_i]), \quad P_i = O_i \quad (i < L)

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, channels[i], H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides; each twice the one before.
        channels: Channels of the outputs, shallow to deep; :math:`P_L` has half of the last.
        style: Normalisation and activation of every convolution.

    Raises:
        ConfigError: The lists differ in length or a stride is not twice the one before.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], channels: Sequence[int], *, style: ConvStyle
    ) -> None:
        super().__init__()
        if not len(in_channels) == len(strides) == len(channels):
            raise ConfigError(
                f"the neck got {len(in_channels)} maps, {len(strides)} strides and {len(channels)} widths; "
                "expected as many of each"
            )
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise ConfigError(f"the neck got strides {list(strides)}; expected each to be twice the one before")
        self.channels = list(channels)
        self.strides = list(strides)
        top = channels[-1] // 2
        above = [*channels[1:-1], top]
        self.narrow = ConvNormAct(in_channels[-1], top, style=style)
        self.reduce = nn.ModuleList(ConvNormAct(width, width // 2, style=style) for width in above)
        joined = [width // 2 + lateral for width, lateral in zip(above, in_channels[:-1], strict=True)]
        self.smooth = nn.ModuleList(
            ConvNormAct(width, out, 3, style=style) for width, out in zip([*joined, top], channels, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow."""
        carried = self.narrow(features[-1])
        outputs = [self.smooth[-1](carried)]
        for index in range(len(features) - 2, -1, -1):
            up = F.interpolate(self.reduce[index](carried), scale_factor=2, mode="nearest")
            carried = self.smooth[index](torch.cat([up, features[index]], dim=1))
            outputs.insert(0, carried)
        return outputs
