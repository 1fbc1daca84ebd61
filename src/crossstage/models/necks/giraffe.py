"""DAMO-YOLO's neck, an efficient RepGFPN (arXiv 2211.15444, section 3.2), in the depthwise form of its small networks.

A map is joined with those of the scales below and above it, on the way down as well as on the way up. The stages behind
the joints carry one half of their channels past the blocks, and keep what every block gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import MAX_BLOCKS
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import PyramidConfig, check_strides, check_widths, upsample
from crossstage.nn import ConvNormAct, ConvStyle, CrossStage, Residual, project_split, spatial_conv
from crossstage.nn.residual import inverted_body, rounded

EXPANSION = 3.0  # of the blocks' depthwise convolutions
KERNEL = 5


@dataclass(frozen=True, kw_only=True)
class GiraffeConfig(PyramidConfig):
    """DAMO-YOLO's neck.

    Attributes:
        neck_channels: Channels of the outputs, shallow to deep; None takes those of the backbone's maps, as its small
            networks do.
        neck_blocks: Blocks of each stage.

    Raises:
        ConfigError: A value is out of range.
    """

    neck_channels: tuple[int, ...] | None = None
    neck_blocks: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.reads) < 2:
            raise ConfigError(f"the neck reads strides {list(self.reads)}; expected at least two, which it joins")
        if self.neck_channels is not None:
            check_widths(type(self).__name__, self.neck_channels, len(self.reads))
        if not 1 <= self.neck_blocks <= MAX_BLOCKS:
            raise ConfigError(f"neck_blocks is {self.neck_blocks}; expected 1 to {MAX_BLOCKS}")

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return Giraffe(channels, strides, self, style=style)


class Giraffe(nn.Module):
    """Top-down, then bottom-up again, with a finer map's detail at each joint of both ways.

    Down, from the deepest map: ``d_i = stage([x_i, shrink(x_{i-1}), enlarged d_{i+1}])``. Up, from the shallowest, of
    which ``u_0 = d_0``: ``u_i = stage([d_i, shrink(d_{i-1}), shrink(u_{i-1})])``, without the middle one for ``u_1``.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, neck_channels[i], H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: GiraffeConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        widths = list(config.neck_channels or in_channels)
        self.channels, self.strides = widths, list(strides)
        own, top = list(in_channels), len(widths) - 1
        down_out = [widths[0], *own[1:]]

        def stage(parts: Sequence[int], out: int) -> CrossStage:
            return _stage(sum(parts), out, config.neck_blocks, style)

        self.detail = nn.ModuleList(_halved(own[i], style) for i in range(top))
        self.down = nn.ModuleList(
            stage([*own[max(i - 1, 0) : i + 1], *down_out[i + 1 : i + 2]], down_out[i]) for i in range(top + 1)
        )
        self.kept = nn.ModuleList(_halved(down_out[i], style) for i in range(1, top))
        self.shrink = nn.ModuleList(_halved(widths[i], style) for i in range(top))
        self.up = nn.ModuleList(
            stage([down_out[i], *down_out[max(i - 1, 1) : i], widths[i - 1]], widths[i]) for i in range(1, top + 1)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow and back."""
        fused: list[Tensor] = []
        for index in range(len(features) - 1, -1, -1):
            parts = [features[index]]
            if index:
                parts.append(self.detail[index - 1](features[index - 1]))
            if fused:
                parts.append(upsample(fused[0]))
            fused.insert(0, self.down[index](torch.cat(parts, dim=1)))
        outputs = [fused[0]]
        for index in range(1, len(features)):
            parts = [fused[index]]
            if index > 1:
                parts.append(self.kept[index - 2](fused[index - 1]))
            parts.append(self.shrink[index - 1](outputs[-1]))
            outputs.append(self.up[index - 1](torch.cat(parts, dim=1)))
        return outputs


class InRow(nn.Module):
    """Blocks in a row, of which each one's output is kept: ``[b_1(x), b_2(b_1(x)), ...]``.

    Shape: ``(N, C, H, W) -> (N, len(blocks) * C, H, W)`` for blocks that keep the shape.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks and concatenate."""
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return torch.cat(outputs, dim=1)


def _halved(channels: int, style: ConvStyle) -> nn.Module:
    return spatial_conv(channels, channels, 2, depthwise=True, style=style)


def _stage(in_channels: int, out_channels: int, blocks: int, style: ConvStyle) -> CrossStage:
    carried, processed = out_channels // 2, math.ceil(out_channels / 2)
    return CrossStage(
        project_split(in_channels, carried, processed, style=style),
        InRow([_block(processed, style) for _ in range(blocks)]),
        nn.Identity(),
        ConvNormAct(carried + blocks * processed, out_channels, style=style),
        carried_first=True,
    )


def _block(channels: int, style: ConvStyle) -> Residual:
    expanded = rounded(channels * EXPANSION)
    body = inverted_body(channels, expanded, expanded, channels, kernel_size=KERNEL, style=style)
    return Residual(body, nn.Identity(), nn.Identity(), in_place=True)


NECKS: dict[str, GiraffeConfig] = {"giraffe": GiraffeConfig()}
