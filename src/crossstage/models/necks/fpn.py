"""Top-down pyramids: FPN (arXiv 1612.03144), YOLOv3's (1804.02767) and that of the tiny YOLO detectors.

The plain FPN adds what comes from above; YOLO's concatenate it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import (
    NeckConfig,
    PyramidConfig,
    TinyEntry,
    check_strides,
    check_widths,
    squeeze_expand,
    upsample,
)
from crossstage.nn import ConvNormAct, ConvStyle, SpatialPyramidPool


@dataclass(frozen=True, kw_only=True)
class FPNConfig(PyramidConfig):
    """A plain FPN.

    Attributes:
        pyramid_channels: Channels of every output.
    """

    pyramid_channels: int = 256

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return FPN(channels, strides, self, style=style)


class FPN(nn.Module):
    """Each map, projected, plus the enlarged sum above it; then smoothed by a 3x3 convolution.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, pyramid_channels, H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation; the paper's has neither, here the sums are of linear, normalised maps.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: FPNConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        out = config.pyramid_channels
        self.channels, self.strides = [out] * len(strides), list(strides)
        self.lateral = nn.ModuleList(ConvNormAct(width, out, style=style.linear) for width in in_channels)
        self.smooth = nn.ModuleList(ConvNormAct(out, out, 3, style=style) for _ in in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow."""
        sums = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        for index in range(len(sums) - 2, -1, -1):
            sums[index] = sums[index] + upsample(sums[index + 1])
        return [smooth(x) for smooth, x in zip(self.smooth, sums, strict=True)]


@dataclass(frozen=True, kw_only=True)
class YoloFPNConfig(PyramidConfig):
    """YOLOv3's neck.

    Attributes:
        neck_channels: Channels of the outputs, shallow to deep; convolutions between have half of them.
        spp: Whether the deepest map is pooled over windows of 5, 9 and 13 pixels in the middle of its convolutions
            (YOLOv3-SPP).
    """

    neck_channels: tuple[int, ...] = (256, 512, 1024)
    spp: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(type(self).__name__, self.neck_channels, len(self.reads))

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return YoloFPN(channels, strides, self, style=style)


def deepest(in_channels: int, width: int, spp: bool, style: ConvStyle) -> nn.Sequential:
    """Build the convolutions on the deepest map: five, or three before and three after spatial pyramid pooling."""
    half = width // 2
    if not spp:
        return squeeze_expand(in_channels, half, width, 5, style)
    return nn.Sequential(
        squeeze_expand(in_channels, half, width, 3, style),
        SpatialPyramidPool(),
        squeeze_expand(4 * half, half, width, 3, style),
    )


class YoloFPN(nn.Module):
    """YOLOv3's neck: at each scale five convolutions, whose output goes to the 3x3 before the head and, halved, up.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, neck_channels[i], H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: YoloFPNConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        widths = config.neck_channels
        check_widths("YoloFPN", widths, len(in_channels))
        self.channels, self.strides = list(widths), list(strides)
        halves = [width // 2 for width in widths]
        self.convs = nn.ModuleList(
            squeeze_expand(in_channels[i] + halves[i], halves[i], widths[i], 5, style) for i in range(len(widths) - 1)
        )
        self.convs.append(deepest(in_channels[-1], widths[-1], config.spp, style))
        self.reduce = nn.ModuleList(
            ConvNormAct(above, below, style=style) for below, above in itertools.pairwise(halves)
        )
        self.smooth = nn.ModuleList(
            ConvNormAct(half, width, 3, style=style) for half, width in zip(halves, widths, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow."""
        carried = self.convs[-1](features[-1])
        outputs = [self.smooth[-1](carried)]
        for index in range(len(features) - 2, -1, -1):
            up = upsample(self.reduce[index](carried))
            carried = self.convs[index](torch.cat([up, features[index]], dim=1))
            outputs.insert(0, self.smooth[index](carried))
        return outputs


@dataclass(frozen=True, kw_only=True)
class TinyFPNConfig(PyramidConfig):
    """The neck of the tiny YOLO detectors.

    Attributes:
        neck_channels: Channels of the outputs, shallow to deep.
        narrow: Channels of the deepest map once it is narrowed; the next map gets half of them from above.
        entry: Channels of YOLOv3-tiny's last trunk convolution, see :class:`TinyEntry`; None has none.
    """

    reads: tuple[int, ...] = (16, 32)
    neck_channels: tuple[int, ...] = (256, 512)
    narrow: int = 256
    entry: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(type(self).__name__, (*self.neck_channels, self.narrow), len(self.reads) + 1)

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return TinyFPN(channels, strides, self, style=style)


class TinyFPN(nn.Module):
    r"""Top-down fusion: each map is joined with the upsampled map above it, then smoothed by a 3x3 convolution.

    With maps :math:`C_1 \dots C_L` and outputs :math:`O_1 \dots O_L`, shallow to deep:

    .. math::
        P_L &= narrow(C_L), \quad O_L = smooth_L(P_L)                                       \\
        O_i &= smooth_i([up(reduce_i(P_{i+1})), C_i]), \quad P_i = O_i \quad (i < L)

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, neck_channels[i], H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides; each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution.

    Raises:
        ConfigError: The lists differ in length or a stride is not twice the one before.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: TinyFPNConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        channels = config.neck_channels
        if not len(in_channels) == len(strides) == len(channels):
            raise ConfigError(
                f"the neck got {len(in_channels)} maps, {len(strides)} strides and {len(channels)} widths; "
                "expected as many of each"
            )
        self.channels, self.strides = list(channels), list(strides)
        deep, top = in_channels[-1], config.narrow
        self.entry = None
        if config.entry is not None:
            self.entry, deep = TinyEntry(deep, config.entry, shortcut=False, style=style), config.entry
        above = [*channels[1:-1], top]
        self.narrow = ConvNormAct(deep, top, style=style)
        self.reduce = nn.ModuleList(ConvNormAct(width, width // 2, style=style) for width in above)
        joined = [width // 2 + lateral for width, lateral in zip(above, in_channels[:-1], strict=True)]
        self.smooth = nn.ModuleList(
            ConvNormAct(width, out, 3, style=style) for width, out in zip([*joined, top], channels, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow."""
        carried = self.narrow(features[-1] if self.entry is None else self.entry(features[-1]))
        outputs = [self.smooth[-1](carried)]
        for index in range(len(features) - 2, -1, -1):
            up = upsample(self.reduce[index](carried))
            carried = self.smooth[index](torch.cat([up, features[index]], dim=1))
            outputs.insert(0, carried)
        return outputs


NECKS: dict[str, NeckConfig] = {
    "fpn": FPNConfig(),
    "yolo_fpn": YoloFPNConfig(),
    "yolo_fpn_spp": YoloFPNConfig(spp=True),
    "tiny_fpn": TinyFPNConfig(),
}
