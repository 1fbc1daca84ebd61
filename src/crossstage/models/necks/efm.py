"""The Exact Fusion Model (CSPNet, arXiv 1911.11929, section 3.3 and figure 6c). A reconstruction.

A ground truth has one prior; one that stands on level s sees an object between the fields of view of s - 1 and s + 1.
So each level fuses these three maps and no other, and the heads are reached from the finest level upwards.

The authors released neither code nor configuration. What is sure: the wiring of figure 6, Maxout before concatenations,
the cost of each layer (figure 7), and that the neck's cost and size depend on the backbone's last map alone (table 4
has it on three backbones), so that other maps are read without weights. What the bars leave open is which layer reads
what: this reading has a bar for each convolution and a convolution for each bar. Its cost is the figure's; its weights
with SAM are the published 4.31M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.models.contracts import Neck
from crossstage.models.necks.base import NeckConfig, check_strides, check_widths, upsample
from crossstage.models.necks.fusion import Ascent, FusionConfig, Narrow, deepest_path, halve, widened
from crossstage.nn import Attend, ConvNormAct, ConvStyle


@dataclass(frozen=True, kw_only=True)
class EFMConfig(FusionConfig):
    """An Exact Fusion Model; ``attention="pointwise"`` is the paper's EFM(SAM)."""

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return EFM(channels, strides, self, style=style)


class Level(nn.Module):
    """The fused map of a level that has one above it.

    Args:
        here: Channels of the backbone's map of this level.
        below: Channels of its map one level finer.
        above: Channels of the fused map one level coarser.
        width: Channels of this level's 3x3 convolution.
        inner: Whether this is not the finest level. Inner ones read twice the channels (119), and smooth what came of
            this level and the one below together (124, 125).
        config: The row.
        style: Normalisation and activation of every convolution.

    Attributes:
        out_channels: Channels of the fused map.
    """

    def __init__(
        self, here: int, below: int, above: int, width: int, *, inner: bool, config: EFMConfig, style: ConvStyle
    ) -> None:
        super().__init__()
        half = width // 2
        self.from_above = Narrow(above, width, config.maxout)
        read = Narrow(here, 2 * width if inner else width, config.maxout)
        self.here = nn.Sequential(  # 119 to 121, 129 to 131
            read, widened(read.out_channels, width, style), ConvNormAct(width, half, style=style)
        )
        self.narrow_below = Narrow(below, half, config.maxout)
        self.below = ConvNormAct(self.narrow_below.out_channels, half, 3, style=style)  # 123, 133
        self.refine = None
        if inner:
            self.refine = nn.Sequential(ConvNormAct(width, half, style=style), ConvNormAct(half, half, 3, style=style))
        self.out_channels = self.from_above.out_channels + width
        self.attend = Attend(config.attention, self.out_channels, half, style=style)

    def forward(self, here: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """Fuse three scales."""
        own = self.here(here)
        beside = self.below(halve(self.narrow_below(below)))
        if self.refine is not None:
            beside = self.refine(torch.cat([own, beside], dim=1))
        return self.attend(torch.cat([upsample(self.from_above(above)), own, beside], dim=1), own)


class Deepest(nn.Module):
    """The fused map of the deepest level, which has none above it.

    Args:
        here: Channels of the backbone's deepest map.
        below: Channels of its map one level finer.
        width: Channels of this level's 3x3 convolution.
        config: The row.
        style: Normalisation and activation of every convolution.

    Attributes:
        out_channels: Channels of the fused map.
    """

    def __init__(self, here: int, below: int, width: int, *, config: EFMConfig, style: ConvStyle) -> None:
        super().__init__()
        half = width // 2
        self.here = deepest_path(here, width, config.spp, style)
        self.narrow_below = Narrow(below, half, config.maxout)
        self.out_channels = half + self.narrow_below.out_channels
        self.attend = Attend(config.attention, self.out_channels, half, style=style)

    def forward(self, here: Tensor, below: Tensor) -> Tensor:
        """Fuse two scales."""
        own = self.here(here)
        return self.attend(torch.cat([own, halve(self.narrow_below(below))], dim=1), own)


class EFM(nn.Module):
    """Exact fusion: top-down over the three scales around each level, then bottom-up to the heads.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to one of ``(N, channels[i], H_{i+1}, W_{i+1})``: no output at
    the finest scale.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: EFMConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        widths = config.neck_channels
        check_widths("EFM", widths, len(in_channels) - 1)
        last = len(widths) - 1
        self.deepest = Deepest(in_channels[-1], in_channels[-2], widths[-1], config=config, style=style)
        fused = [self.deepest.out_channels]
        levels: list[Level] = []
        for i in range(last - 1, -1, -1):
            here, below = in_channels[i + 1], in_channels[i]
            level = Level(here, below, fused[0], widths[i], inner=i > 0, config=config, style=style)
            levels.insert(0, level)
            fused.insert(0, level.out_channels)
        self.levels = nn.ModuleList(levels)
        self.ascent = Ascent(fused, widths, maxout=config.maxout, style=style)
        self.channels, self.strides = self.ascent.channels, list(strides[1:])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse each level with its neighbours, deep to shallow, then ascend."""
        fused = [self.deepest(features[-1], features[-2])]
        for index in range(len(features) - 2, 0, -1):
            fused.insert(0, self.levels[index - 1](features[index], features[index - 1], fused[0]))
        return self.ascent(fused)


NECKS: dict[str, NeckConfig] = {
    "efm": EFMConfig(),
    "efm_sam": EFMConfig(attention="pointwise"),
    "efm_spp": EFMConfig(spp=True),
    "efm_sam_spp": EFMConfig(attention="pointwise", spp=True),
}
