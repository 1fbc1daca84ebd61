"""The neck of YOLOX (arXiv 2107.08430, and its release): a path aggregation network of cross stage partial stages.

It is PANet's way down and up again (arXiv 1803.01534), joined by concatenation; wherever two maps are joined, a cross
stage partial stage follows, whose blocks have no shortcut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import MAX_BLOCKS
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import PyramidConfig, check_strides, check_widths, upsample
from crossstage.nn import ConvNormAct, ConvStyle, CrossStage, project_split, spatial_conv
from crossstage.nn.residual import darknet_body

Block = Callable[[int], nn.Module]
"""Builds a block that keeps so many channels."""


@dataclass(frozen=True, kw_only=True)
class CSPPAFPNConfig(PyramidConfig):
    """YOLOX's neck.

    Attributes:
        neck_channels: Channels of the outputs, shallow to deep; None takes those of the backbone's maps, as YOLOX does.
        neck_blocks: Blocks of each stage.
        neck_depthwise: Whether 3x3 convolutions are separable.

    Raises:
        ConfigError: A value is out of range.
    """

    neck_channels: tuple[int, ...] | None = None
    neck_blocks: int = 1
    neck_depthwise: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.reads) < 2:
            raise ConfigError(f"the neck reads strides {list(self.reads)}; expected at least two, which it joins")
        if self.neck_channels is not None:
            check_widths(type(self).__name__, self.neck_channels, len(self.reads))
        if not 0 <= self.neck_blocks <= MAX_BLOCKS:
            raise ConfigError(f"neck_blocks is {self.neck_blocks}; expected 0 to {MAX_BLOCKS}")

    def widths(self, channels: Sequence[int]) -> Sequence[int]:
        """Return the channels of the outputs for maps of so many channels: those of the maps, rounded up to even."""
        return self.neck_channels or [width + width % 2 for width in channels]

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        widths = self.widths(channels)

        def block(width: int) -> nn.Module:
            return darknet_body(width, width, depthwise=self.neck_depthwise, style=style)

        def shrink(width: int) -> nn.Module:
            return spatial_conv(width, width, 2, depthwise=self.neck_depthwise, style=style)

        return CSPPAFPN(channels, strides, widths, blocks=self.neck_blocks, block=block, shrink=shrink, style=style)


class CSPPAFPN(nn.Module):
    """Top-down, then bottom-up again; wherever two maps are joined, a stage follows.

    Layers stand in the order in which they run: on the way down from the deepest map, on the way up from the
    shallowest.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, widths[i], H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        widths: Channels of the outputs, even.
        blocks: Blocks of each stage.
        block: Builds one.
        shrink: Builds what halves a map of so many channels.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        widths: Sequence[int],
        *,
        blocks: int,
        block: Block,
        shrink: Block,
        style: ConvStyle,
    ) -> None:
        super().__init__()
        check_strides(strides)
        self.channels, self.strides = list(widths), list(strides)
        above = [*widths[1:-1], in_channels[-1]]  # of what comes down to each map but the deepest
        steps = range(len(widths) - 1)

        def stage(wide: int, out: int) -> CrossStage:
            return partial_stage(wide, out, [block(out // 2) for _ in range(blocks)], style=style)

        self.reduce = nn.ModuleList(ConvNormAct(above[i], widths[i], style=style) for i in reversed(steps))
        self.down = nn.ModuleList(stage(widths[i] + in_channels[i], widths[i]) for i in reversed(steps))
        self.shrink = nn.ModuleList(shrink(widths[i]) for i in steps)
        self.up = nn.ModuleList(stage(2 * widths[i], widths[i + 1]) for i in steps)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow and back."""
        x, laterals = features[-1], []
        for reduce, stage, feature in zip(self.reduce, self.down, features[-2::-1], strict=True):
            laterals.insert(0, reduce(x))
            x = stage(torch.cat([upsample(laterals[0]), feature], dim=1))
        maps = [x]
        for shrink, stage, lateral in zip(self.shrink, self.up, laterals, strict=True):
            maps.append(stage(torch.cat([shrink(maps[-1]), lateral], dim=1)))
        return maps


def partial_stage(in_channels: int, out_channels: int, blocks: Sequence[nn.Module], *, style: ConvStyle) -> CrossStage:
    """Build a cross stage partial stage whose parts are half as wide as its output, with U alone.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, even.
        blocks: What processes half as many channels as the output has.
        style: Normalisation and activation.
    """
    half = out_channels // 2
    split = project_split(in_channels, half, half, style=style)
    return CrossStage(split, nn.Sequential(*blocks), nn.Identity(), ConvNormAct(2 * half, out_channels, style=style))


_ROW = CSPPAFPNConfig()
NECKS: dict[str, CSPPAFPNConfig] = {
    "csp_pafpn": _ROW,
    "pafpn": _ROW,
    "pafpn_slim": CSPPAFPNConfig(neck_channels=(64, 128, 256)),
}
