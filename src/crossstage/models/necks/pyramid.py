"""The feature pyramid of two-stage and dense detectors (FPN, arXiv 1612.03144), by torchvision's module.

Unlike :class:`~crossstage.models.necks.fpn.FPN`, its convolutions have a bias and neither norm nor activation, as in
Mask R-CNN, RetinaNet and FCOS, and it may add coarser maps: P6 by pooling (Mask R-CNN), or P6 and P7 by convolutions
(RetinaNet, FCOS, CenterMask).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from crossstage.errors import ConfigError
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import PyramidConfig, check_strides
from crossstage.nn import ConvStyle

Extra = Literal["none", "pool", "convolve", "convolve_deepest"]


@dataclass(frozen=True, kw_only=True)
class PyramidFPNConfig(PyramidConfig):
    """A feature pyramid without activations.

    Attributes:
        reads: Strides of the backbone's maps.
        pyramid_channels: Channels of every output.
        extra: Coarser maps besides: ``"none"``; ``"pool"`` takes every second pixel of the last output (P6);
            ``"convolve"`` makes P6 and P7 of the last output by convolutions in steps of 2; ``"convolve_deepest"``
            makes P6 of the backbone's last map instead.
        pyramid_norm: What follows each convolution of the pyramid: ``"none"``, ``"batch"``, or ``"group"``, which has
            32 groups.

    Raises:
        ConfigError: A value is unknown.
    """

    reads: tuple[int, ...] = (4, 8, 16, 32)
    pyramid_channels: int = 256
    extra: Extra = "pool"
    pyramid_norm: Literal["none", "batch", "group"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.extra not in get_args(Extra) or self.pyramid_norm not in ("none", "batch", "group"):
            expected = f"expected one of {', '.join(get_args(Extra))}, and none, batch or group"
            raise ConfigError(f"extra is {self.extra!r} and pyramid_norm {self.pyramid_norm!r}; {expected}")

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        del style
        return PyramidFPN(channels, strides, self)


class PyramidFPN(nn.Module):
    """Each map, projected, plus the enlarged sum above it, then a 3x3 convolution; and coarser maps besides.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, pyramid_channels, H_i, W_i)``, which may be
    longer.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
    """

    def __init__(self, in_channels: Sequence[int], strides: Sequence[int], config: PyramidFPNConfig) -> None:
        super().__init__()
        check_strides(strides)
        width = config.pyramid_channels
        extra = {
            "none": lambda: None,
            "pool": LastLevelMaxPool,
            "convolve": partial(LastLevelP6P7, width, width),
            "convolve_deepest": partial(LastLevelP6P7, in_channels[-1], width),
        }[config.extra]()
        norm = {"none": None, "batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 32)}[config.pyramid_norm]
        self.fpn = FeaturePyramidNetwork(list(in_channels), width, extra_blocks=extra, norm_layer=norm)
        coarser = {"none": 0, "pool": 1}.get(config.extra, 2)
        self.strides = [*strides, *(strides[-1] * 2**step for step in range(1, coarser + 1))]
        self.channels = [width] * len(self.strides)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow."""
        return list(self.fpn({str(index): feature for index, feature in enumerate(features)}).values())


NECKS = {
    "rcnn_fpn": PyramidFPNConfig(),
    "rcnn_fpn_lite": PyramidFPNConfig(pyramid_channels=128),
    "retina_fpn": PyramidFPNConfig(reads=(8, 16, 32), extra="convolve"),
}
