"""Global fusion: ThunderNet's CEM, and the GFM that CSPNet compares EFM with (figure 6b). Reconstructions.

Of both the paper tells what is fused and what they cost; layers are made to fit that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.contracts import Neck
from crossstage.models.necks.base import NeckConfig, PyramidConfig, check_strides, check_widths, upsample
from crossstage.models.necks.fusion import Ascent, FusionConfig, Narrow, deepest_path, halve
from crossstage.nn import Attend, Attention, ConvNormAct, ConvStyle


@dataclass(frozen=True, kw_only=True)
class CEMConfig(PyramidConfig):
    """A Context Enhancement Module.

    Attributes:
        context_channels: Channels of the fused map; outputs have half of them.
        attention: The gate of the map that each output reads, see :mod:`crossstage.nn.attention`.
    """

    reads: tuple[int, ...] = (16, 32)
    context_channels: int = 256
    attention: Attention = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.reads) != 2 or self.context_channels < 2 or self.context_channels % 2:
            raise ConfigError(
                f"CEM reads strides {self.reads} and fuses them to {self.context_channels} channels; expected two "
                "strides and an even number"
            )

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return CEM(channels, strides, self, style=style)


class CEM(nn.Module):
    """Context Enhancement Module (ThunderNet, arXiv 1903.11752, section 3.2), with a second output.

    The sum of two maps and of the deeper one's mean, at the finer scale. A strided 3x3 convolution leads to the coarser
    output.

    Shape: two maps ``(N, in_channels[i], H_i, W_i)`` to two of ``(N, context_channels / 2, H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, the finer first.
        strides: Their strides, the second twice the first.
        config: The row.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: CEMConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        fine, deep = in_channels
        width, half = config.context_channels, config.context_channels // 2
        self.channels, self.strides = [half, half], list(strides)
        self.lateral = ConvNormAct(fine, width, style=style)
        self.deep = ConvNormAct(deep, width, style=style)
        self.everywhere = nn.Conv2d(deep, width, 1)  # without norm: a training batch of one has a single value here
        self.shrink = ConvNormAct(width, width, 3, 2, style=style)
        self.smooth = ConvNormAct(width, width, 3, style=style)
        self.attend = nn.ModuleList(Attend(config.attention, width, width, style=style) for _ in strides)
        self.heads = nn.ModuleList(
            nn.Sequential(ConvNormAct(width, half, style=style), ConvNormAct(half, half, 3, style=style))
            for _ in strides
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse everything at the finer scale, then shrink."""
        fine, deep = features
        context = upsample(self.deep(deep))
        fused = self.lateral(fine) + context + self.everywhere(F.adaptive_avg_pool2d(deep, 1))
        fused = self.attend[0](fused, context)
        shrunk = self.shrink(fused)
        coarse = self.attend[1](self.smooth(shrunk), shrunk)
        return [head(x) for head, x in zip(self.heads, (fused, coarse), strict=True)]


@dataclass(frozen=True, kw_only=True)
class GFMConfig(FusionConfig):
    """A Global Fusion Model."""

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return GFM(channels, strides, self, style=style)


class GFM(nn.Module):
    """Global fusion: all maps and the deepest one's mean become one, which every level then reads.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to one of ``(N, channels[i], H_{i+1}, W_{i+1})``: no output at
    the finest scale. The maps are fused at the last scale but one.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: GFMConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        widths = config.neck_channels
        check_widths("GFM", widths, len(in_channels) - 1)
        if len(widths) < 2:
            raise ConfigError(f"GFM reads strides {list(strides)}; expected three or more")
        width, wide = widths[-2], widths[-1]
        self.deepest = deepest_path(in_channels[-1], wide, config.spp, style)
        self.everywhere = nn.Conv2d(in_channels[-1], width // 4, 1)
        narrowed = [width >> (len(in_channels) - 2 - i) for i in range(len(in_channels) - 1)]
        narrows = [
            Narrow(channels, max(1, out), config.maxout)
            for channels, out in zip(in_channels[:-1], narrowed, strict=True)
        ]
        self.narrow = nn.ModuleList(narrows)
        read = wide // 2 + width // 4 + sum(narrow.out_channels for narrow in narrows)
        self.fuse = nn.Sequential(
            ConvNormAct(read, width, style=style),
            ConvNormAct(width, width, 3, style=style),
            ConvNormAct(width, wide, style=style),
        )
        self.attend = Attend(config.attention, wide, wide // 2, style=style)
        self.shared = Narrow(wide, width, config.maxout)
        self.ascent = Ascent(
            [*[self.shared.out_channels] * (len(widths) - 1), wide], widths, maxout=config.maxout, style=style
        )
        self.channels, self.strides = self.ascent.channels, list(strides[1:])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse everything, hand it to each level, ascend."""
        *shallow, deep = features
        context = upsample(self.deepest(deep))
        maps = [context, self.everywhere(F.adaptive_avg_pool2d(deep, 1)).expand(-1, -1, *context.shape[2:])]
        for index, (narrow, feature) in enumerate(zip(self.narrow, shallow, strict=True)):
            times = len(shallow) - 1 - index
            maps.append(halve(narrow(feature), times) if times else narrow(feature))
        whole = self.attend(self.fuse(torch.cat(maps, dim=1)), context)
        shared = self.shared(whole)
        levels = [shared]
        for _ in range(len(self.strides) - 2):
            levels.insert(0, upsample(levels[0]))
        return self.ascent([*levels, halve(whole)])


NECKS: dict[str, NeckConfig] = {
    "cem": CEMConfig(),
    "cem_sam": CEMConfig(attention="pointwise"),
    "gfm": GFMConfig(),
}
