"""CSPNeXt, the backbone of RTMDet (arXiv 2212.07784, section 3.2): depthwise 5x5 kernels inside of partial stages.

A stage is a strided 3x3 convolution and a cross stage partial stage whose concatenation is gated, channel by channel,
before U. In the last stage the map is pooled over several windows first, and blocks have no shortcut.

Norms are those of the released networks, whose configurations override the constants of the authors' class.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from crossstage.models.backbones.base import About, BackboneConfig, Stage, stepped
from crossstage.nn import (
    ConvNormAct,
    CrossStage,
    EffectiveSqueezeExcite,
    Partial,
    Residual,
    SPPBottleneck,
    project_split,
    slice_split,
    transition,
)
from crossstage.nn.init import Init
from crossstage.nn.residual import cspnext_body

_RTMDET = "RTMDet, arXiv 2212.07784"


@dataclass(frozen=True, kw_only=True)
class CSPNeXtConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        stem: Channels of the three 3x3 convolutions that open the network, the first of which strides.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        gated: Whether stages end with a gate of channels (eSE) before U, or without U at the end.

    Raises:
        ConfigError: Widths and depths differ in number.
    """

    stem: tuple[int, ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    gated: bool = True
    partial: Partial | None = field(default=Partial(gamma=0.5, fusion="first", split="project"))
    act: str = "silu"
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


def _row(size: str, stem: tuple[int, ...], widths: tuple[int, ...], depths: tuple[int, ...]) -> CSPNeXtConfig:
    return CSPNeXtConfig(about=About(f"CSPNeXt-{size}", _RTMDET), stem=stem, widths=widths, depths=depths)


BACKBONES: dict[str, CSPNeXtConfig] = {
    "cspnext_tiny": _row("tiny", (12, 12, 24), (48, 96, 192, 384), (1, 1, 1, 1)),
    "cspnext_s": _row("s", (16, 16, 32), (64, 128, 256, 512), (1, 2, 2, 1)),
    "cspnext_m": _row("m", (24, 24, 48), (96, 192, 384, 768), (2, 4, 4, 2)),
    "cspnext_l": _row("l", (32, 32, 64), (128, 256, 512, 1024), (3, 6, 6, 3)),
    "cspnext_x": _row("x", (40, 40, 80), (160, 320, 640, 1280), (4, 8, 8, 4)),
}


def _build(config: CSPNeXtConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels.
    """
    stem = nn.Sequential()
    width, stride = config.in_chans, 2
    for index, out in enumerate(config.stem):
        stem.append(ConvNormAct(width, out, 3, 2 if index == 0 else 1, style=config.style))
        width = out
    stages: list[Stage] = []
    for index, out in enumerate(config.widths):
        stride *= 2
        module = nn.Sequential(ConvNormAct(width, out, 3, 2, style=config.style))
        if index == len(config.widths) - 1:
            module.append(SPPBottleneck(out, out, style=config.style))
        body, width = _plain_stage(config, index) if config.partial is None else _partial_stage(config, index)
        stages.append(Stage(module.append(body), width, stride))
    return stem, stages


def _plain_stage(config: CSPNeXtConfig, index: int) -> tuple[nn.Sequential, int]:
    width = config.widths[index]
    body = nn.Sequential(*_blocks(config, index, width))
    return body.append(EffectiveSqueezeExcite(width)) if config.gated else body, width


def _partial_stage(config: CSPNeXtConfig, index: int) -> tuple[CrossStage, int]:
    partial, style, width = config.partial, config.style, config.widths[index]
    assert partial is not None
    carried, processed = partial.widths(width)
    slice_it = partial.split == "slice"
    split = slice_split(width, carried) if slice_it else project_split(width, carried, processed, style=style)
    transitioned = partial.transition_width(carried, processed, width)
    joined = carried + transitioned
    out = width if partial.has_merge else joined
    merge = transition(partial.has_merge, joined, out, style=style)
    stage = CrossStage(
        split,
        nn.Sequential(*_blocks(config, index, processed)),
        transition(partial.has_transition, processed, transitioned, style=style),
        nn.Sequential(EffectiveSqueezeExcite(joined), merge) if config.gated else merge,
    )
    return stage, out


def _blocks(config: CSPNeXtConfig, index: int, channels: int) -> list[nn.Module]:
    """Build a stage's blocks; those of the last stage have no shortcut."""
    bodies = [cspnext_body(channels, style=config.style) for _ in range(config.depths[index])]
    if index == len(config.depths) - 1:
        return list(bodies)
    before = sum(config.depths[:index])
    rates = stepped(config.drop_path, sum(config.depths[:-1]))[before:]
    return [
        Residual(body, nn.Identity(), nn.Identity(), drop_path=rate) for body, rate in zip(bodies, rates, strict=False)
    ]
