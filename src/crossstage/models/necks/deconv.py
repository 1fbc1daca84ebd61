"""The way up from coarse maps to CenterNet's fine one (arXiv 1904.07850, section 5, and its release).

Two forms of the release: a row of transposed convolutions from the deepest map, each behind a deformable one (ResNet),
and iterative deep aggregation (DLA, arXiv 1707.06484) with deformable convolutions before and after each sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import NeckConfig, PyramidConfig, check_strides
from crossstage.nn import ConvStyle, DeconvNormAct, DeformConvNormAct
from crossstage.nn.deconv import bilinear_


@dataclass(frozen=True, kw_only=True)
class DeconvConfig(NeckConfig):
    """Transposed convolutions in a row, each of which doubles the map.

    Attributes:
        reads: Stride of the one map that is read.
        deconv_channels: Channels of each enlarged map; the last is the output.
        deformable: Whether a deformable 3x3 convolution, to the same channels, precedes each.

    Raises:
        ConfigError: There is more than one stride to read, or it cannot be halved as often as there are channels.
    """

    reads: tuple[int, ...] = (32,)
    deconv_channels: tuple[int, ...] = (256, 128, 64)
    deformable: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.reads) != 1 or self.reads[0] % 2 ** len(self.deconv_channels) or not self.deconv_channels:
            raise ConfigError(
                f"the neck reads strides {self.reads} and enlarges to {self.deconv_channels} channels; expected one "
                "stride, which can be halved as often as there are channels"
            )

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return Deconvolutions(channels, strides, self, style=style)


class Deconvolutions(nn.Module):
    """Transposed convolutions in a row.

    Shape: a list of one map ``(N, in_channels, H, W)`` to one of ``(N, deconv_channels[-1], 2**n H, 2**n W)`` for
    ``n`` of ``deconv_channels``.

    Args:
        in_channels: Channels of the backbone's map.
        strides: Its stride.
        config: The row.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: DeconvConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        width = in_channels[-1]
        self.layers = nn.Sequential()
        for channels in config.deconv_channels:
            if config.deformable:
                self.layers.append(DeformConvNormAct(width, channels, style=style))
                width = channels
            self.layers.append(DeconvNormAct(width, channels, style=style))
            width = channels
        self.channels, self.strides = [width], [strides[-1] // 2 ** len(config.deconv_channels)]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Enlarge the map."""
        return [self.layers(features[-1])]


@dataclass(frozen=True, kw_only=True)
class AggregationConfig(PyramidConfig):
    """Iterative deep aggregation of all maps to the finest, with deformable convolutions.

    Attributes:
        reads: Strides of the maps. The coarsest only lends to the others what it knows.
    """

    reads: tuple[int, ...] = (4, 8, 16, 32)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.reads) < 3:
            raise ConfigError(f"the neck reads strides {self.reads}; expected three or more")

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return DeepAggregation(channels, strides, style=style)


class Ascending(nn.Module):
    """Add coarser maps to a map, one after the other, each enlarged to its size and then smoothed with the sum.

    Shape: ``(N, width, H, W)`` and a list of ``(N, channels[i], H / factors[i], W / factors[i])`` to as many
    ``(N, width, H, W)``, the sums after each addition.

    Args:
        width: Channels of the map and of all sums.
        channels: Channels of the coarser maps.
        factors: How many times they are smaller than the map, powers of 2.
        style: Normalisation and activation of every convolution.
    """

    def __init__(self, width: int, channels: Sequence[int], factors: Sequence[int], *, style: ConvStyle) -> None:
        super().__init__()
        self.project = nn.ModuleList(DeformConvNormAct(given, width, style=style) for given in channels)
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(width, width, 2 * factor, factor, factor // 2, groups=width, bias=False)
            for factor in factors
        )
        self.smooth = nn.ModuleList(DeformConvNormAct(width, width, style=style) for _ in channels)
        for layer in self.enlarge:
            assert isinstance(layer, nn.ConvTranspose2d)
            bilinear_(layer)

    def forward(self, x: Tensor, coarser: Sequence[Tensor]) -> list[Tensor]:
        """Add the maps."""
        sums = []
        for feature, project, enlarge, smooth in zip(coarser, self.project, self.enlarge, self.smooth, strict=True):
            x = smooth(enlarge(project(feature)) + x)
            sums.append(x)
        return sums


class DeepAggregation(nn.Module):
    """DLA's up-sampling in CenterNet: every map takes up all coarser ones, then the finest takes up the others again.

    Shape: a list of ``(N, channels[i], H_i, W_i)``, shallow to deep, to one map of ``(N, channels[0], H_0, W_0)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        style: Normalisation and activation of every convolution.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> None:
        super().__init__()
        check_strides(strides)
        self.channels, self.strides = [in_channels[0]], [strides[0]]
        levels = range(len(in_channels) - 2, -1, -1)  # the coarsest but one first
        # A step's sums have its level's size and width, as the level's own map: the next finds all one step coarser.
        self.steps = nn.ModuleList(
            Ascending(
                in_channels[level],
                [in_channels[level + 1]] * (len(in_channels) - 1 - level),
                [2] * (len(in_channels) - 1 - level),
                style=style,
            )
            for level in levels
        )
        between = range(1, len(in_channels) - 1)
        self.last = Ascending(in_channels[0], [in_channels[i] for i in between], [2**i for i in between], style=style)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Aggregate, coarse to fine, then to the finest."""
        coarser, whole = [features[-1]], []
        for step, feature in zip(self.steps, reversed(features[:-1]), strict=True):
            sums = step(feature, coarser)
            coarser = [feature, *sums]
            whole.insert(0, sums[-1])
        return [self.last(whole[0], whole[1:])[-1]]


NECKS: dict[str, NeckConfig] = {
    "deform_deconv": DeconvConfig(),
    "deconv": DeconvConfig(deconv_channels=(256, 256, 256), deformable=False),
    "deform_dla": AggregationConfig(),
}
