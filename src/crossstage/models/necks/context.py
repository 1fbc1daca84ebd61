"""ThunderNet's Context Enhancement Module as it is released (arXiv 1903.11752, section 3.2): one map, plain layers.

The necks of :mod:`crossstage.models.necks.gfm` are what CSPNet's authors made of it for the YOLO head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import PyramidConfig, check_strides
from crossstage.nn import ConvStyle


@dataclass(frozen=True, kw_only=True)
class ContextConfig(PyramidConfig):
    """A Context Enhancement Module without norms and activations.

    Attributes:
        reads: Strides of the two maps.
        context_channels: Channels of the output; 245 are 5 for each of 7 x 7 cells of a region.

    Raises:
        ConfigError: There are not two strides, or no channel.
    """

    reads: tuple[int, ...] = (16, 32)
    context_channels: int = 245

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.reads) != 2 or self.context_channels < 1:
            raise ConfigError(
                f"the neck reads strides {self.reads} and yields {self.context_channels} channels; "
                "expected two strides and at least one channel"
            )

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        del style
        return ContextEnhancement(channels, strides, self)


class ContextEnhancement(nn.Module):
    """The sum of two maps and of the deeper one's mean, each projected, at the finer scale.

    Shape: two maps ``(N, in_channels[i], H_i, W_i)`` to one of ``(N, context_channels, H_0, W_0)``.

    Args:
        in_channels: Channels of the backbone's maps, the finer first.
        strides: Their strides, the second twice the first.
        config: The row.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: ContextConfig) -> None:
        super().__init__()
        check_strides(strides)
        fine, deep = in_channels
        self.channels, self.strides = [config.context_channels], [strides[0]]
        self.fine = nn.Conv2d(fine, config.context_channels, 1)
        self.deep = nn.Conv2d(deep, config.context_channels, 1)
        self.everywhere = nn.Conv2d(deep, config.context_channels, 1)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Add the maps; the deeper one is enlarged to the finer one's size, whatever that is."""
        fine, deep = features
        context = F.interpolate(self.deep(deep), size=fine.shape[2:], mode="nearest")
        return [self.fine(fine) + context + self.everywhere(F.adaptive_avg_pool2d(deep, 1))]


NECKS: dict[str, ContextConfig] = {"context": ContextConfig()}
