"""RTMDet's neck (arXiv 2212.07784, section 3.2): a path aggregation network of cross stage partial stages.

It is YOLOX's with blocks of the kind that the backbone CSPNeXt has, though without shortcuts or gates, and a 3x3
convolution that brings all maps to one width, since RTMDet's head shares its convolutions over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import MAX_CHANNELS
from crossstage.models.contracts import Neck
from crossstage.models.necks.csp_pafpn import CSPPAFPN, CSPPAFPNConfig
from crossstage.nn import ConvStyle, spatial_conv
from crossstage.nn.residual import cspnext_body

MOST_DERIVED = 320  # channels of outputs whose width is not given: those of RTMDet-x


@dataclass(frozen=True, kw_only=True)
class CSPNeXtPAFPNConfig(CSPPAFPNConfig):
    """RTMDet's neck.

    Attributes:
        out_width: Channels of every output; None takes those of the shallowest map, as RTMDet does, 320 at most.

    Raises:
        ConfigError: A value is out of range.
    """

    out_width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out_width is not None and not 1 <= self.out_width <= MAX_CHANNELS:
            raise ConfigError(f"out_width is {self.out_width}; expected 1 to {MAX_CHANNELS}, or None")

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return CSPNeXtPAFPN(channels, strides, self, style=style)


class CSPNeXtPAFPN(CSPPAFPN):
    """Top-down, then bottom-up again, then to one width.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, out_width, H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: CSPNeXtPAFPNConfig, *, style: ConvStyle
    ) -> None:
        depthwise, widths = config.neck_depthwise, config.widths(in_channels)
        super().__init__(
            in_channels,
            strides,
            widths,
            blocks=config.neck_blocks,
            block=lambda width: cspnext_body(width, depthwise=depthwise, style=style),
            shrink=lambda width: spatial_conv(width, width, 2, depthwise=depthwise, style=style),
            style=style,
        )
        out = config.out_width or min(widths[0], MOST_DERIVED)
        self.out = nn.ModuleList(spatial_conv(width, out, depthwise=depthwise, style=style) for width in widths)
        self.channels = [out] * len(widths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow and back."""
        return [out(x) for out, x in zip(self.out, super().forward(features), strict=True)]


NECKS: dict[str, CSPNeXtPAFPNConfig] = {"cspnext_pafpn": CSPNeXtPAFPNConfig()}
