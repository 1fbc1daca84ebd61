"""Spatial pyramid pooling of the deepest map, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crossstage.models.contracts import Neck
from crossstage.models.necks.base import NeckConfig, PyramidConfig, check_strides
from crossstage.nn import ConvNormAct, ConvStyle, SpatialPyramidPool


@dataclass(frozen=True, kw_only=True)
class SPPConfig(PyramidConfig):
    """Spatial pyramid pooling.

    Attributes:
        windows: Sides of the windows, odd.
    """

    windows: tuple[int, ...] = (5, 9, 13)

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return SPP(channels, strides, self, style=style)


class SPP(nn.Module):
    """Halve the deepest map's channels, pool it over windows of several sizes, project it back (YOLOv3-SPP).

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to the same; all maps but the deepest pass.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: SPPConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        self.channels, self.strides = list(in_channels), list(strides)
        width = in_channels[-1]
        self.pool = nn.Sequential(
            ConvNormAct(width, width // 2, style=style),
            SpatialPyramidPool(config.windows),
            ConvNormAct(width // 2 * (1 + len(config.windows)), width, style=style),
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Pool the deepest map."""
        return [*features[:-1], self.pool(features[-1])]


NECKS: dict[str, NeckConfig] = {
    "spp": SPPConfig(),
}
