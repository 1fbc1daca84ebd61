"""PANet (arXiv 1803.01534) as CSPNet's authors and YOLOv4 use it: by concatenation, with spatial pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.models.contracts import Neck
from crossstage.models.necks.base import NeckConfig, check_strides, check_widths, squeeze_expand, upsample
from crossstage.models.necks.fpn import YoloFPNConfig, deepest
from crossstage.nn import ConvNormAct, ConvStyle


@dataclass(frozen=True, kw_only=True)
class PANetConfig(YoloFPNConfig):
    """A PANet; its settings are those of YOLOv3's neck."""

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return PANet(channels, strides, self, style=style)


class PANet(nn.Module):
    """Top-down, then bottom-up again.

    Both ways every map is joined with a projection of its own level and passes five convolutions; a 3x3 convolution
    leads to each output.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, neck_channels[i], H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: PANetConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        widths = config.neck_channels
        check_widths("PANet", widths, len(in_channels))
        self.channels, self.strides = list(widths), list(strides)
        halves, steps = [width // 2 for width in widths], range(len(widths) - 1)
        self.top = deepest(in_channels[-1], widths[-1], config.spp, style)
        self.reduce = nn.ModuleList(ConvNormAct(halves[i + 1], halves[i], style=style) for i in steps)
        self.lateral = nn.ModuleList(ConvNormAct(in_channels[i], halves[i], style=style) for i in steps)
        self.down = nn.ModuleList(squeeze_expand(widths[i], halves[i], widths[i], 5, style) for i in steps)
        self.shrink = nn.ModuleList(ConvNormAct(halves[i], halves[i + 1], 3, 2, style=style) for i in steps)
        self.up = nn.ModuleList(squeeze_expand(widths[i + 1], halves[i + 1], widths[i + 1], 5, style) for i in steps)
        self.smooth = nn.ModuleList(
            ConvNormAct(half, width, 3, style=style) for half, width in zip(halves, widths, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow and back."""
        maps = [self.top(features[-1])]
        for index in range(len(features) - 2, -1, -1):
            above = upsample(self.reduce[index](maps[0]))
            maps.insert(0, self.down[index](torch.cat([self.lateral[index](features[index]), above], dim=1)))
        carried = maps[0]
        outputs = [self.smooth[0](carried)]
        for index in range(len(features) - 1):
            carried = self.up[index](torch.cat([self.shrink[index](carried), maps[index + 1]], dim=1))
            outputs.append(self.smooth[index + 1](carried))
        return outputs


NECKS: dict[str, NeckConfig] = {
    "panet": PANetConfig(),
    "panet_spp": PANetConfig(spp=True),
}
