"""The backbones of DAMO-YOLO's small networks (arXiv 2211.15444, section 3.1, and its release): searched MobileNets.

Stages are inverted residuals with depthwise 5x5 kernels, whose expansion grows from stage to stage. In the last stage
the map is pooled over several windows after the block that halves it.

A partial network has the block that opens a stage on all channels, and the others on the processed part.

Deliberately different: weights are drawn as torch draws them, where the authors' have a deviation of one over the
number of input channels; norms behind every convolution make up for it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage, stepped
from crossstage.nn import (
    ConvNormAct,
    CrossStage,
    Residual,
    SPPBottleneck,
    project_split,
    slice_split,
    transition,
)
from crossstage.nn.init import Init
from crossstage.nn.residual import inverted_body, rounded

_DAMO = "DAMO-YOLO, arXiv 2211.15444, and its release"
KERNEL = 5


@dataclass(frozen=True, kw_only=True)
class TinyNASConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        stem: Channels of the strided 3x3 convolution that opens the network.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        strides: Step of each stage's first block, 1 or 2.
        expansions: Channels of the depthwise convolutions of each stage, as multiples of the stage's; they are rounded
            to multiples of 8.

    Raises:
        ConfigError: The tuples differ in length, or a value is out of range.
    """

    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    strides: tuple[int, ...] = (2, 2, 2, 1, 2)
    expansions: tuple[float, ...] = (3.5, 4.0, 4.5, 5.0, 5.5)
    act: str = "silu"
    momentum: float = 0.03
    eps: float = 1e-3
    init: Init = "torch"
    size: int = 416

    def __post_init__(self) -> None:
        super().__post_init__()
        for widths in (self.widths, self.strides, self.expansions):
            self.check_depths(self.depths, widths)
        if not set(self.strides) <= {1, 2} or min(self.expansions) < 1:
            found = f"strides are {self.strides} and expansions {self.expansions}"
            raise ConfigError(f"{found}; expected 1 or 2, and at least 1")

    def has_residuals(self) -> bool:
        """See :meth:`BackboneConfig.has_residuals`."""
        return True

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


def _row(size: str, stem: int, widths: tuple[int, ...], depths: tuple[int, ...]) -> TinyNASConfig:
    return TinyNASConfig(about=About(f"DAMO-YOLO-{size}'s backbone", _DAMO), stem=stem, widths=widths, depths=depths)


BACKBONES: dict[str, TinyNASConfig] = {
    "tinynas_ns": _row("Ns", 16, (24, 40, 64, 80, 160), (1, 2, 2, 2, 2)),
    "tinynas_nm": _row("Nm", 16, (40, 64, 112, 128, 256), (2, 2, 2, 2, 1)),
    "tinynas_nl": _row("Nl", 24, (48, 80, 160, 160, 320), (1, 2, 2, 3, 2)),
}


def _build(config: TinyNASConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels.
    """
    stem = ConvNormAct(config.in_chans, config.stem, 3, 2, style=config.style)
    stages: list[Stage] = []
    width, stride = config.stem, 2
    for index, (out, step) in enumerate(zip(config.widths, config.strides, strict=True)):
        stride *= step
        before = sum(config.depths[:index])
        rates = stepped(config.drop_path, sum(config.depths))[before : before + config.depths[index]]
        module = nn.Sequential(_block(config, index, width, out, step, rates[0]))
        if index == len(config.widths) - 1:
            module.append(SPPBottleneck(out, out, style=config.style))
        if config.partial is None or len(rates) == 1:
            width = out
            module.extend(_block(config, index, out, out, 1, rate) for rate in rates[1:])
        else:
            partial, width = _partial(config, index, rates[1:])
            module.append(partial)
        stages.append(Stage(module, width, stride))
    return stem, stages


def _partial(config: TinyNASConfig, index: int, rates: list[float]) -> tuple[CrossStage, int]:
    partial, style, whole = config.partial, config.style, config.widths[index]
    assert partial is not None
    carried, processed = partial.widths(whole)
    sliced = partial.split == "slice"
    transitioned = partial.transition_width(carried, processed, whole)
    joined = carried + transitioned
    out = whole if partial.has_merge else joined
    stage = CrossStage(
        slice_split(whole, carried) if sliced else project_split(whole, carried, processed, style=style),
        nn.Sequential(*(_block(config, index, processed, processed, 1, rate) for rate in rates)),
        transition(partial.has_transition, processed, transitioned, style=style),
        transition(partial.has_merge, joined, out, style=style),
    )
    return stage, out


def _block(config: TinyNASConfig, index: int, in_channels: int, out: int, step: int, rate: float) -> nn.Module:
    """Build an inverted residual; only where shapes agree is there a shortcut."""
    expanded = rounded(out * config.expansions[index])
    body = inverted_body(in_channels, expanded, expanded, out, step, kernel_size=KERNEL, style=config.style)
    if step > 1 or in_channels != out:
        return body
    return Residual(body, nn.Identity(), nn.Identity(), drop_path=rate, in_place=True)
