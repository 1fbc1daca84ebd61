"""The modified CSPDarknet of YOLOX (arXiv 2107.08430, section 2.1; the release of its authors).

It opens with pixels of two by two folded into channels, and a 3x3 convolution. A stage is a strided 3x3 convolution and
a cross stage partial stage with one transition, U, behind the concatenation; in the last stage the map is pooled over
several windows first, and blocks have no shortcut. The smallest network's 3x3 convolutions are separable.

``partial=None`` builds the plain network, whose blocks have the bottleneck of Darknet-53; it is not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from crossstage.models.backbones.base import About, BackboneConfig, Stage, stepped
from crossstage.nn import (
    ConvNormAct,
    CrossStage,
    Partial,
    Residual,
    SPPBottleneck,
    project_split,
    slice_split,
    spatial_conv,
    transition,
)
from crossstage.nn.init import Init
from crossstage.nn.residual import darknet_body

_YOLOX = "YOLOX, arXiv 2107.08430, and its authors' release"


@dataclass(frozen=True, kw_only=True)
class CSPDarknetXConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        stem: Channels of the convolution that opens the network.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        depthwise: Whether 3x3 convolutions are separable, but for the first.

    Raises:
        ConfigError: Widths and depths differ in number.
    """

    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    depthwise: bool = False
    partial: Partial | None = field(default=Partial(gamma=0.5, fusion="first", split="project"))
    act: str = "silu"
    momentum: float = 0.03
    eps: float = 1e-3
    init: Init = "torch"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths(self.depths, self.widths)

    def has_residuals(self) -> bool:
        """See :meth:`BackboneConfig.has_residuals`."""
        return True

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


def _row(size: str, base: int, blocks: int, *, depthwise: bool = False) -> CSPDarknetXConfig:
    """Return the row of a size: ``base`` channels of the stem double from stage to stage."""
    return CSPDarknetXConfig(
        about=About(f"YOLOX's CSPDarknet, {size}", _YOLOX),
        stem=base,
        widths=(2 * base, 4 * base, 8 * base, 16 * base),
        depths=(blocks, 3 * blocks, 3 * blocks, blocks),
        depthwise=depthwise,
    )


BACKBONES: dict[str, CSPDarknetXConfig] = {
    "cspdarknet_x_nano": _row("nano", 16, 1, depthwise=True),
    "cspdarknet_x_micro": replace(
        _row("micro", 16, 1), about=About("CSPDarknet as wide as YOLOX's nano, with whole convolutions", "CrossStage")
    ),
    "cspdarknet_x_tiny": _row("tiny", 24, 1),
    "cspdarknet_x_s": _row("s", 32, 1),
    "cspdarknet_x_m": _row("m", 48, 2),
    "cspdarknet_x_l": _row("l", 64, 3),
    "cspdarknet_x_x": _row("x", 80, 4),
}


class PixelsToChannels(nn.Module):
    """Fold two by two pixels into channels: those of the upper left ones first, then lower left, upper and lower right.

    Shape: ``(N, C, H, W) -> (N, 4 * C, H / 2, W / 2)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange the pixels."""
        rows = x[..., ::2, :], x[..., 1::2, :]
        return torch.cat([row[..., start::2] for start in (0, 1) for row in rows], dim=1)


def _build(config: CSPDarknetXConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels.
    """
    stem = nn.Sequential(PixelsToChannels(), ConvNormAct(4 * config.in_chans, config.stem, 3, style=config.style))
    stages: list[Stage] = []
    width, stride = config.stem, 2
    for index, out in enumerate(config.widths):
        stride *= 2
        module = nn.Sequential(spatial_conv(width, out, 2, depthwise=config.depthwise, style=config.style))
        if index == len(config.widths) - 1:
            module.append(SPPBottleneck(out, out, style=config.style))
        if config.partial is None:
            body, width = _blocks(config, index, out, out // 2), out
        else:
            body, width = _partial(config, config.partial, index)
        stages.append(Stage(module.append(body), width, stride))
    return stem, stages


def _partial(config: CSPDarknetXConfig, partial: Partial, index: int) -> tuple[CrossStage, int]:
    style, width = config.style, config.widths[index]
    carried, processed = partial.widths(width)
    slice_it = partial.split == "slice"
    split = slice_split(width, carried) if slice_it else project_split(width, carried, processed, style=style)
    transitioned = partial.transition_width(carried, processed, width)
    joined = carried + transitioned
    out = width if partial.has_merge else joined
    stage = CrossStage(
        split,
        _blocks(config, index, processed, processed),
        transition(partial.has_transition, processed, transitioned, style=style),
        transition(partial.has_merge, joined, out, style=style),
    )
    return stage, out


def _blocks(config: CSPDarknetXConfig, index: int, channels: int, hidden: int) -> nn.Sequential:
    """Build a stage's blocks; those of the last stage have no shortcut."""
    depth, before = config.depths[index], sum(config.depths[:index])
    bodies = [darknet_body(channels, hidden, depthwise=config.depthwise, style=config.style) for _ in range(depth)]
    if index == len(config.depths) - 1:
        return nn.Sequential(*bodies)
    rates = stepped(config.drop_path, sum(config.depths[:-1]))[before : before + depth]
    return nn.Sequential(
        *[
            Residual(body, nn.Identity(), nn.Identity(), drop_path=rate)
            for body, rate in zip(bodies, rates, strict=True)
        ]
    )
