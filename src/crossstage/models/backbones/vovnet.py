"""VoVNet (arXiv 1904.09730), VoVNetV2 (arXiv 1911.06667), and CSP on their one-shot-aggregation stages.

The first paper's table has a stem of stride 2 and pools after every stage; the released code strides in the stem's
third convolution instead, at a quarter of its cost (``stem_stride``). VoVNetV2's paper puts eSE into every module and
so does its code; timm keeps it in the last module of each stage (``attend="last"``).

A partial stage is an OSA stage of ``1 - gamma`` of the plain widths, layers included, beside the carried part: were
only its input narrower, as in a dense stage, the transitions would cost more than they save.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage, stepped
from crossstage.nn import (
    ConvNormAct,
    CrossStage,
    OneShotAggregation,
    Partial,
    SeparableConv,
    project_split,
    slice_split,
    transition,
)

_V1 = "VoVNet, arXiv 1904.09730"
_V2 = "VoVNetV2, arXiv 1911.06667"


@dataclass(frozen=True, kw_only=True)
class VoVNetConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        widths: Channels of each stage's 3x3 convolutions.
        outs: Channels of each stage's output.
        depths: OSA modules of each stage.
        layers: 3x3 convolutions of a module.
        stem: Channels of the stem's convolutions, the first of which strides.
        stem_stride: The way the stem comes to stride 4: ``"conv"``, by its last convolution (released code), or
            ``"pool"``, by 3x3 max pooling after it (the paper). ``"none"`` for 32x32 images: no stride at all.
        depthwise: Whether convolutions are separable, but for the stem's first.
        attend: The modules with eSE: ``"all"``, the ``"last"`` of each stage, or ``"none"`` (the first paper).
        identity: Whether a module's input is added to its output, from a stage's second module on.

    Raises:
        ConfigError: The tuples differ in length, or a value is unknown.
    """

    widths: tuple[int, ...]
    outs: tuple[int, ...]
    depths: tuple[int, ...]
    layers: int = 5
    stem: tuple[int, ...] = (64, 64, 128)
    stem_stride: Literal["conv", "pool", "none"] = "conv"
    depthwise: bool = False
    attend: Literal["all", "last", "none"] = "none"
    identity: bool = False
    init: Literal["darknet", "fan_in", "fan_out"] = "fan_in"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths(self.depths, self.widths)
        self.check_depths(self.depths, self.outs)
        if self.stem_stride not in ("conv", "pool", "none"):
            raise ConfigError(f"stem_stride is {self.stem_stride!r}; expected conv, pool or none")
        if self.attend not in ("all", "last", "none"):
            raise ConfigError(f"attend is {self.attend!r}; expected all, last or none")
        if not 0 < self.layers <= 100:
            raise ConfigError(f"layers is {self.layers}; expected 1 to 100")

    def has_residuals(self) -> bool:
        """See :meth:`BackboneConfig.has_residuals`."""
        return self.identity

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


_FULL = {"widths": (128, 160, 192, 224), "outs": (256, 512, 768, 1024)}
_SLIM = {"widths": (64, 80, 96, 112), "outs": (128, 256, 384, 512)}
_SLIM_V2 = {"widths": (64, 80, 96, 112), "outs": (112, 256, 384, 512)}  # 112 is in the released table
_DW = {"stem": (64, 64, 64), "depthwise": True}
_V2_MODULE = {"attend": "all", "identity": True}


def _v1(layers: str, depths: tuple[int, ...], widths: dict) -> VoVNetConfig:
    return VoVNetConfig(about=About(f"VoVNet-{layers}", _V1), depths=depths, **widths)


def _v2(layers: str, depths: tuple[int, ...], widths: dict, *, convs: int = 5, **extra: object) -> VoVNetConfig:
    row = VoVNetConfig(about=About(f"VoVNetV2-{layers}", _V2), depths=depths, layers=convs, **widths)
    return replace(row, **_V2_MODULE, **extra)


_ONES = (1, 1, 1, 1)
_PLAIN: dict[str, VoVNetConfig] = {
    "vovnet27_slim": _v1("27-slim", _ONES, _SLIM),
    "vovnet39": _v1("39", (1, 1, 2, 2), _FULL),
    "vovnet57": _v1("57", (1, 1, 4, 3), _FULL),
    "vovnet19_slim_dw_v2": _v2("19-slim-dw", _ONES, _SLIM_V2, convs=3, **_DW),
    "vovnet19_dw_v2": _v2("19-dw", _ONES, _FULL, convs=3, **_DW),
    "vovnet19_slim_v2": _v2("19-slim", _ONES, _SLIM_V2, convs=3),
    "vovnet19_v2": _v2("19", _ONES, _FULL, convs=3),
    "vovnet39_v2": _v2("39", (1, 1, 2, 2), _FULL),
    "vovnet57_v2": _v2("57", (1, 1, 4, 3), _FULL),
    "vovnet99_v2": _v2("99", (1, 3, 9, 3), _FULL),
}

# DenseNet-40 with each dense block of twelve layers replaced by one OSA module that leads to the same width.
_SMALL = VoVNetConfig(
    widths=(20, 20, 20),
    outs=(160, 304, 448),
    depths=(1, 1, 1),
    layers=12,
    stem=(16,),
    stem_stride="none",
    size=32,
)

BACKBONES: dict[str, VoVNetConfig] = {
    **_PLAIN,
    **{
        f"csp{name}": replace(
            row, about=About(f"CSP{row.about.summary}", f"{row.about.source}; CSP is ours"), partial=Partial()
        )
        for name, row in _PLAIN.items()
    },
    "osanet40_12x20": replace(
        _SMALL,
        about=About("DenseNet-40's blocks as OSA, 12 layers of 20 channels", _V1, reconstruction=True, classes=10),
    ),
    "osanet40_5x43": replace(
        _SMALL,
        about=About("DenseNet-40's blocks as OSA, 5 layers of 43 channels", _V1, reconstruction=True, classes=10),
        widths=(43, 43, 43),
        layers=5,
    ),
}


def _build(config: VoVNetConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels.
    """
    style = config.style
    stem = nn.Sequential()
    width, stride = config.in_chans, 1
    for index, out in enumerate(config.stem):
        strided = config.stem_stride != "none" and (
            index == 0 or (config.stem_stride == "conv" and index == len(config.stem) - 1)
        )
        step = 2 if strided else 1
        if config.depthwise and index > 0:
            stem.append(SeparableConv(width, out, step, style=style))
        else:
            stem.append(ConvNormAct(width, out, 3, step, style=style))
        width, stride = out, stride * step
    if config.stem_stride == "pool":
        stem.append(_pool())
        stride *= 2

    stages: list[Stage] = []
    for index in range(len(config.depths)):
        entry = nn.Identity() if index == 0 else _pool()
        stride *= 1 if index == 0 else 2
        if config.partial is None:
            stage = _modules(config, index, width, config.widths[index], config.outs[index])
            width = config.outs[index]
        else:
            stage, width = _partial(config, config.partial, index, width)
        stages.append(Stage(nn.Sequential(entry, stage), width, stride))
    return stem, stages


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _partial(config: VoVNetConfig, partial: Partial, index: int, in_channels: int) -> tuple[nn.Module, int]:
    style = config.style
    carried, given = partial.widths(in_channels)
    _, width = partial.widths(config.widths[index])
    _, processed = partial.widths(config.outs[index])
    if partial.split == "slice":
        split = slice_split(in_channels, carried)
    else:
        split = project_split(in_channels, carried, given, style=style)
    transitioned = partial.transition_width(carried, processed, config.outs[index])
    joined = carried + transitioned
    out = config.outs[index] if partial.has_merge else joined
    stage = CrossStage(
        split,
        _modules(config, index, given, width, processed),
        transition(partial.has_transition, processed, transitioned, style=style),
        transition(partial.has_merge, joined, out, style=style),
    )
    return stage, out


def _modules(config: VoVNetConfig, index: int, in_channels: int, width: int, out: int) -> nn.Sequential:
    depth, before = config.depths[index], sum(config.depths[:index])
    rates = stepped(config.drop_path, sum(config.depths))[before : before + depth]
    return nn.Sequential(
        *[
            OneShotAggregation(
                in_channels if number == 0 else out,
                width,
                out,
                config.layers,
                style=config.style,
                depthwise=config.depthwise,
                attend=config.attend == "all" or (config.attend == "last" and number == depth - 1),
                identity=config.identity and number > 0,
                drop_path=rate,
            )
            for number, rate in enumerate(rates)
        ]
    )
