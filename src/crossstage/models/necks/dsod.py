"""DSOD's dense prediction layers (arXiv 1708.01241, section 3.2.4) and the plain ones that it compares with.

Each extra map is half made anew of the map before, by a pre-activated 1x1 and a strided 3x3 convolution, and half of
that map itself, pooled and projected; so is the second source, beside the backbone's last map. Poolings round up. All
maps are L2-normalised before they are returned; the extra ones are made of those that are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import PyramidConfig
from crossstage.models.necks.ssd_extras import L2Norm, at_least
from crossstage.nn import ConvStyle, NormActConv
from crossstage.nn.init import xavier_


@dataclass(frozen=True, kw_only=True)
class DSODConnectionsConfig(PyramidConfig):
    """DSOD's maps.

    Attributes:
        reads: Strides of the backbone's maps, at least two, each twice the one before.
        dense: Whether half of each extra map comes from the one before by pooling; else all of it is convolved.
        bridge: Channels that the second map gets from the first where connections are dense.
        second_width: Channels that the second map is first brought to by a 1x1 convolution; None leaves it as it is.
        dense_widths: Channels of the extra maps.
        l2_scale: What the scales of the maps' L2 normalisation start from.

    Raises:
        ConfigError: There are less than two maps, a stride is not twice the one before, or a width is out of range.
    """

    reads: tuple[int, ...] = (8, 16)
    dense: bool = True
    bridge: int = 256
    second_width: int | None = None
    dense_widths: tuple[int, ...] = (512, 256, 256, 256)
    l2_scale: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.reads) < 2:
            raise ConfigError(f"the neck reads strides {list(self.reads)}; expected at least two")
        if (
            self.bridge < 1
            or (self.second_width or 1) < 1
            or any(width < 2 or width % 2 for width in self.dense_widths)
        ):
            found = f"bridge is {self.bridge}, second_width {self.second_width}, dense_widths are {self.dense_widths}"
            raise ConfigError(f"{found}; expected numbers of channels, the latter even")

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return DSODConnections(channels, strides, self, style=style)


class DSODConnections(nn.Module):
    """Maps of a backbone and extra ones, all L2-normalised.

    Shape: maps ``(N, in_channels[i], H_i, W_i)`` to more such; those of DSOD's DenseNet for 300 pixels have 38 and 19
    cells, and of the extra ones 10, 5, 3 and 2. Strides of extra maps are nominal: each is twice the one before.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides.
        config: The row.
        style: Normalisation and activation.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: DSODConnectionsConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        first, second, *deeper = in_channels
        given = config.second_width
        self.narrow = NormActConv(second, given, style=style) if given else nn.Identity()
        self.bridge = _pooled(first, config.bridge, style) if config.dense else None
        joined = (given or second) + (config.bridge if config.dense else 0)
        self.channels, self.strides = [first, joined, *deeper], list(strides)
        self.extras = nn.ModuleList()
        for width in config.dense_widths:
            build = DenseConnection if config.dense else _convolved
            self.extras.append(build(self.channels[-1], width // 2, width, style))
            self.channels.append(width)
            self.strides.append(2 * self.strides[-1])
        self.norms = nn.ModuleList(L2Norm(width, config.l2_scale) for width in self.channels)
        xavier_(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Join the second map with the first, add the extra maps and normalise all."""
        first, second, *deeper = features
        second = self.narrow(second)
        height, width = second.shape[2:]
        if self.bridge is not None:  # whose map has a row or column more where the backbone's poolings round down
            second = torch.cat([second, self.bridge(first)[:, :, :height, :width]], dim=1)
        maps = [first, second, *deeper]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return [norm(x) for norm, x in zip(self.norms, maps, strict=True)]


class DenseConnection(nn.Module):
    """A map of half the size: concat(pool -> 1x1, 1x1 -> 3x3 in steps of 2), each convolution pre-activated.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2))``.

    Args:
        in_channels: Channels of the input.
        half: Channels of each part.
        out_channels: Channels of the output, twice ``half``.
        style: Normalisation and activation.
    """

    def __init__(self, in_channels: int, half: int, out_channels: int, style: ConvStyle) -> None:
        super().__init__()
        assert out_channels == 2 * half
        self.pooled = _pooled(in_channels, half, style)
        self.convolved = _convolved(in_channels, half, half, style)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate ``[pooled, convolved]``."""
        return torch.cat([self.pooled(at_least(x, 2)), self.convolved(x)], dim=1)


def _pooled(in_channels: int, out: int, style: ConvStyle) -> nn.Sequential:
    return nn.Sequential(nn.MaxPool2d(2, 2, ceil_mode=True), NormActConv(in_channels, out, style=style))


def _convolved(in_channels: int, hidden: int, out: int, style: ConvStyle) -> nn.Sequential:
    reduce = NormActConv(in_channels, hidden, style=style)
    conv = nn.Conv2d(hidden, out, 3, 2, 1, bias=style.bias)
    return nn.Sequential(reduce, style.normalise(hidden), style.activate(), conv)


NECKS = {
    "dsod": DSODConnectionsConfig(),
    "dsod_plain": DSODConnectionsConfig(dense=False),
    "dsod_three": DSODConnectionsConfig(reads=(8, 16, 32), bridge=128, second_width=128, dense_widths=(256,) * 3),
}
