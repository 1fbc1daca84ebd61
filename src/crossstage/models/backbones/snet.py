"""SNet, ThunderNet's backbone (arXiv 1903.11752, section 3.1): ShuffleNetV2 with 5x5 depthwise convolutions, and its
CSP form.

Widths, depths and the order of layers are those of the public codes, whose SNet146 takes 162 million multiply-adds at
224 pixels, not 146: channels are shuffled where a block begins, and a strided block's shortcut keeps its width. A
partial stage is split behind its strided block, and its other blocks run on the processed part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage
from crossstage.nn import ConvNormAct, ConvStyle, CrossStage, project_split, slice_split, transition

KERNEL = 5  # side of every depthwise convolution (section 3.1)


@dataclass(frozen=True, kw_only=True)
class SNetConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        stem: Channels of the strided 3x3 convolution before the max pooling.
        widths: Channels of each stage, even; what a partial stage's two parts share.
        depths: Blocks of each stage, the strided one among them.
        last: Channels of the 1x1 convolution that closes the network, or None.
        merge_widths: Channels of each partial stage's output where U exists; None for those of ``widths``.

    Raises:
        ConfigError: The tuples differ in length, or a width is odd.
    """

    stem: int = 24
    widths: tuple[int, ...]
    depths: tuple[int, ...] = (4, 8, 4)
    last: int | None = None
    merge_widths: tuple[int, ...] | None = None
    init: Literal["darknet", "fan_in", "fan_out"] = "fan_out"

    def __post_init__(self) -> None:
        super().__post_init__()
        for widths in (self.widths, self.merge_widths):
            if widths is not None:
                self.check_depths(self.depths, widths)
        if any(
            width % 2 or width <= given for width, given in zip(self.widths, (self.stem, *self.widths), strict=False)
        ):
            raise ConfigError(f"widths are {self.widths} after {self.stem}; expected even numbers that grow")

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


_SOURCE = "ThunderNet, arXiv 1903.11752"
BACKBONES: dict[str, SNetConfig] = {
    "snet49": SNetConfig(about=About("SNet49", _SOURCE), widths=(60, 120, 240), last=512),
    "snet146": SNetConfig(about=About("SNet146", _SOURCE), widths=(132, 264, 528)),
    "snet535": SNetConfig(about=About("SNet535", _SOURCE), stem=48, widths=(248, 496, 992)),
}


class ShuffleBlock(nn.Module):
    """ShuffleNetV2's block: of the shuffled channels half pass by, the others run through 1x1, depthwise and 1x1.

    Shape: ``(N, C, H, W)`` to the same, C even.

    Args:
        channels: Channels of input and output.
        style: Normalisation and activation of the 1x1 convolutions; the depthwise one is linear.
    """

    def __init__(self, channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        half = channels // 2
        self.body = _body(half, half, half, 1, style)

    def forward(self, x: Tensor) -> Tensor:
        """Shuffle the channels in two groups, process the second half, concatenate."""
        batch, channels, height, width = x.shape
        shuffled = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)
        kept, given = shuffled.chunk(2, dim=1)
        return torch.cat([kept, self.body(given)], dim=1)


class StridedShuffleBlock(nn.Module):
    """ShuffleNetV2's block in steps of 2: both paths read all channels.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, ceil(H / 2), ceil(W / 2))``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, more than those of the input.
        style: Normalisation and activation of the 1x1 convolutions; the depthwise ones are linear.
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(
            ConvNormAct(in_channels, in_channels, KERNEL, 2, groups=in_channels, style=style.linear),
            ConvNormAct(in_channels, in_channels, style=style),
        )
        self.body = _body(in_channels, out_channels // 2, out_channels - in_channels, 2, style)

    def forward(self, x: Tensor) -> Tensor:
        """Run both paths and concatenate."""
        return torch.cat([self.shortcut(x), self.body(x)], dim=1)


def _body(in_channels: int, hidden: int, out_channels: int, stride: int, style: ConvStyle) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(in_channels, hidden, style=style),
        ConvNormAct(hidden, hidden, KERNEL, stride, groups=hidden, style=style.linear),
        ConvNormAct(hidden, out_channels, style=style),
    )


def _build(config: SNetConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels, an even number of which are processed.
    """
    style = config.style
    stem = ConvNormAct(config.in_chans, config.stem, 3, 2, style=style)
    stages = [Stage(nn.MaxPool2d(3, 2, 1), config.stem, 4)]  # a stage, for pyramids that read a map of stride 4
    width, stride = config.stem, 4
    for index in range(len(config.widths)):
        stride *= 2
        module, width = (_plain_stage if config.partial is None else _partial_stage)(config, index, width)
        if config.last is not None and index == len(config.widths) - 1:
            module.append(ConvNormAct(width, config.last, style=style))
            width = config.last
        stages.append(Stage(module, width, stride))
    return stem, stages


def _plain_stage(config: SNetConfig, index: int, width: int) -> tuple[nn.Sequential, int]:
    out = config.widths[index]
    blocks = [ShuffleBlock(out, style=config.style) for _ in range(config.depths[index] - 1)]
    return nn.Sequential(StridedShuffleBlock(width, out, style=config.style), *blocks), out


def _partial_stage(config: SNetConfig, index: int, width: int) -> tuple[nn.Sequential, int]:
    partial, style, whole = config.partial, config.style, config.widths[index]
    assert partial is not None
    carried, processed = partial.widths(whole)
    if processed % 2:
        raise ConfigError(f"Partial.gamma = {partial.gamma} leaves {processed} channels to blocks that halve them")
    if width >= whole:
        raise ConfigError(f"stage {index} narrows {width} channels to {whole}; expected smaller merge_widths")
    sliced = partial.split == "slice"
    split = slice_split(whole, carried) if sliced else project_split(whole, carried, processed, style=style)
    merged = config.merge_widths[index] if config.merge_widths and partial.has_merge else whole
    transitioned = partial.transition_width(carried, processed, merged)
    joined = carried + transitioned
    out = merged if partial.has_merge else joined
    stage = CrossStage(
        split,
        nn.Sequential(*(ShuffleBlock(processed, style=style) for _ in range(config.depths[index] - 1))),
        transition(partial.has_transition, processed, transitioned, style=style),
        transition(partial.has_merge, joined, out, style=style),
    )
    return nn.Sequential(StridedShuffleBlock(width, whole, style=style), stage), out
