"""DLA (Deep Layer Aggregation, arXiv 1707.06484) as timm and CenterNet build it, and its CSP form.

The projections of stages with several levels, which the authors' code has and never uses, are left out. A partial stage
needs its stride before the split: a 3x3 convolution opens it, and its tree runs on the processed part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage, stepped
from crossstage.nn import ConvNormAct, ConvStyle, CrossStage, Residual, project_split, slice_split, transition
from crossstage.nn.residual import basic_body

_MAX_LEVELS = 8  # of a tree, whose blocks double with each


@dataclass(frozen=True, kw_only=True)
class DLAConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        stem: Triples ``(width, kernel, stride)`` for each convolution before the first stage.
        widths: Channels of each stage; what a partial stage's two parts share.
        levels: Levels of each stage's tree, which has two residual blocks to the power of that.
        merge_widths: Channels of each partial stage's output where U exists; None for those of ``widths``.

    Raises:
        ConfigError: The tuples differ in length, or a tree has no level or too many.
    """

    stem: tuple[tuple[int, int, int], ...] = ((16, 7, 1), (16, 3, 1), (32, 3, 2))
    widths: tuple[int, ...] = (64, 128, 256, 512)
    levels: tuple[int, ...] = (1, 2, 2, 1)
    merge_widths: tuple[int, ...] | None = None
    init: Literal["darknet", "fan_in", "fan_out"] = "fan_out"

    def __post_init__(self) -> None:
        super().__post_init__()
        for widths in (self.widths, self.merge_widths):
            if widths is not None:
                self.check_depths(self.levels, widths)
        if max(self.levels) > _MAX_LEVELS:
            raise ConfigError(f"levels are {self.levels}; expected at most {_MAX_LEVELS}")

    def has_residuals(self) -> bool:
        """See :meth:`BackboneConfig.has_residuals`."""
        return True

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


BACKBONES: dict[str, DLAConfig] = {
    "dla34": DLAConfig(about=About("DLA-34", "Deep Layer Aggregation, arXiv 1707.06484, as in timm and CenterNet")),
}


class Tree(nn.Module):
    """Two parts in a row, each two residual blocks or a tree, and a 1x1 convolution over all that a root collects.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)``.

    Args:
        levels: 1 for two blocks, else the parts are trees with a level less; only those of one level have a root.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Step of the first block.
        collects: Whether the root reads the input, max-pooled by ``stride``, as well.
        collected: Channels that the root reads from outside.
        rates: Drop rates of the blocks, in order.
        style: Normalisation and activation of every convolution.
    """

    def __init__(
        self,
        levels: int,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        collects: bool,
        collected: int = 0,
        rates: Iterator[float],
        style: ConvStyle,
    ) -> None:
        super().__init__()
        self.collects = collects
        self.pool = nn.MaxPool2d(stride, stride) if collects and stride > 1 else None
        collected += in_channels if collects else 0
        if levels == 1:
            self.parts = nn.ModuleList(
                Residual(
                    basic_body(given, out_channels, step, style=style),
                    _shortcut(given, out_channels, step, style),
                    style.activate(),
                    drop_path=next(rates),
                    in_place=True,
                )
                for given, step in ((in_channels, stride), (out_channels, 1))
            )
            self.root = ConvNormAct(2 * out_channels + collected, out_channels, style=style)
        else:
            first = Tree(levels - 1, in_channels, out_channels, stride, collects=False, rates=rates, style=style)
            second = Tree(
                levels - 1, out_channels, out_channels, 1,
                collects=False, collected=collected + out_channels, rates=rates, style=style,
            )  # fmt: skip
            self.parts = nn.ModuleList([first, second])
            self.root = None

    def forward(self, x: Tensor, collected: Sequence[Tensor] = ()) -> Tensor:
        """Run both parts; the root reads the second's output, the first's, and what is collected."""
        first, second = self.parts
        if self.collects:
            collected = [*collected, x if self.pool is None else self.pool(x)]
        y = first(x)
        if self.root is None:
            return second(y, [*collected, y])
        return self.root(torch.cat([second(y), y, *collected], dim=1))


def _shortcut(in_channels: int, out_channels: int, stride: int, style: ConvStyle) -> nn.Module:
    """Build a shortcut: max pooling where the block strides, a linear 1x1 convolution where the widths differ."""
    layers: list[nn.Module] = []
    if stride > 1:
        layers.append(nn.MaxPool2d(stride, stride))
    if in_channels != out_channels:
        layers.append(ConvNormAct(in_channels, out_channels, style=style.linear))
    return nn.Sequential(*layers) if layers else nn.Identity()


def _build(config: DLAConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels.
    """
    stem = nn.Sequential()
    width, stride = config.in_chans, 1
    for out, kernel, step in config.stem:
        stem.append(ConvNormAct(width, out, kernel, step, style=config.style))
        width, stride = out, stride * step
    rates = iter(stepped(config.drop_path, sum(2**levels for levels in config.levels)))
    stages: list[Stage] = []
    for index in range(len(config.widths)):
        stride *= 2
        module, width = (_plain_stage if config.partial is None else _partial_stage)(config, index, width, rates)
        stages.append(Stage(module, width, stride))
    return stem, stages


def _plain_stage(config: DLAConfig, index: int, width: int, rates: Iterator[float]) -> tuple[nn.Module, int]:
    out = config.widths[index]
    tree = Tree(config.levels[index], width, out, 2, collects=index > 0, rates=rates, style=config.style)
    return tree, out


def _partial_stage(config: DLAConfig, index: int, width: int, rates: Iterator[float]) -> tuple[nn.Module, int]:
    partial, style = config.partial, config.style
    assert partial is not None
    whole = config.widths[index]
    carried, processed = partial.widths(whole)
    entry = ConvNormAct(width, whole, 3, 2, style=style)
    sliced = partial.split == "slice"
    split = slice_split(whole, carried) if sliced else project_split(whole, carried, processed, style=style)
    merged = config.merge_widths[index] if config.merge_widths and partial.has_merge else whole
    transitioned = partial.transition_width(carried, processed, merged)
    joined = carried + transitioned
    out = merged if partial.has_merge else joined
    stage = CrossStage(
        split,
        Tree(config.levels[index], processed, processed, 1, collects=index > 0, rates=rates, style=style),
        transition(partial.has_transition, processed, transitioned, style=style),
        transition(partial.has_merge, joined, out, style=style),
    )
    return nn.Sequential(entry, stage), out
