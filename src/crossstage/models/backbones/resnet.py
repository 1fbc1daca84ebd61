"""ResNet (arXiv 1512.03385) and ResNeXt (1611.05431) as CSPNet's authors and torchvision build them; their CSP forms.

The authors' Darknet networks have no projections: a shortcut between unequal shapes is partial
(:class:`~crossstage.nn.PartialShortcut`). The rows named ``..._torchvision`` and ``..._timm`` take those libraries'
weights. Modules run in the order of the authors' Darknet files.

A plain stage strides in its first block. A partial stage needs its stride before the split: a 3x3 convolution opens it.
Its parts share the channels of the plain stage, γ : 1 - γ, and its blocks keep the plain network's hidden width, so
that CSPResNet-50's have half the bottleneck and CSPResNeXt-50's none (CSPNet, figure 5).

CSPResNet-10 is a reconstruction: of it, only 2.73M weights and 1.905 BFLOPs are published. Against ResNet-10 its
weights fall by half and its cost by a sixth, so the saving lies in the deep stages. Here the first stage is plain, the
widths of the others grow in steps (192, 256, 384), and nothing follows the concatenation: 2.77M and 1.904.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage, stepped
from crossstage.nn import ConvNormAct, CrossStage, Partial, Residual, Split, slice_split, transition
from crossstage.nn.residual import ShortcutKind, basic_body, bottleneck_body, elastic, shortcut

_CSPNET = "CSPNet, arXiv 1911.11929, and its authors' release"
_RESNET = "ResNet, arXiv 1512.03385, as CSPNet's authors trained it in Darknet"
_RESNEXT = "ResNeXt, arXiv 1611.05431, as CSPNet's authors trained it in Darknet"
_TORCHVISION = "torchvision's resnet.py"
_TIMM = "timm's cspnet.py"


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        widths: Channels of each stage; what a partial stage's two parts share.
        depths: Blocks of each stage.
        hidden: Channels inside of each stage's bottlenecks; None for basic blocks.
        groups: Groups of the 3x3 convolutions.
        stem: Triples ``(width, kernel, stride)`` for each convolution before the pooling.
        pool: Side of the stem's max pooling, whose stride is 2: Darknet's 2, torchvision's 3.
        shortcut: Shortcuts between unequal shapes: ``"partial"`` or ``"project"``.
        merge_widths: Channels of each partial stage's output where U exists; None for those of ``widths``.
        split_linear: For each stage, whether its split convolutions go without activation; None: all with.
        narrow_first: Whether the first stage processes as many channels as the stem yields, and its first shortcut is
            partial, as released; the networks called "c" mend it.
        plain_first: Whether the first stage of a partial network is plain.
        stride_first: Whether a strided bottleneck strides in its first 1x1 convolution (the paper, Caffe's networks)
            instead of its 3x3 one (torchvision's), which costs a little more. Weights of one do not suit the other.
        elastic: Whether half of each block's channels have half the resolution; blocks then have no bottleneck.

    Raises:
        ConfigError: The tuples differ in length, or a setting does not fit another.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    hidden: tuple[int, ...] | None = None
    groups: int = 1
    stem: tuple[tuple[int, int, int], ...] = ((64, 7, 2),)
    pool: Literal[2, 3] = 2
    shortcut: ShortcutKind = "partial"
    merge_widths: tuple[int, ...] | None = None
    split_linear: tuple[bool, ...] | None = None
    narrow_first: bool = False
    plain_first: bool = False
    stride_first: bool = False
    elastic: bool = False
    act: str = "leaky"
    momentum: float = 0.01
    init: Literal["darknet", "fan_in", "fan_out"] = "darknet"
    size: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for widths in (self.widths, self.hidden, self.merge_widths, self.split_linear):
            if widths is not None:
                self.check_depths(self.depths, widths)
        if self.shortcut not in ("partial", "project"):
            raise ConfigError(f"shortcut is {self.shortcut!r}; expected partial or project")
        if self.hidden is None and self.groups != 1:
            raise ConfigError(f"groups is {self.groups}; basic blocks have none, expected 1")

    def has_residuals(self) -> bool:
        """See :meth:`BackboneConfig.has_residuals`."""
        return True

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


_WIDTHS = (256, 512, 1024, 2048)
_NARROW = (64, 128, 256, 512)  # hidden in ResNet, widths of its basic blocks
_HALF = (128, 256, 512, 1024)
_AS_TORCHVISION = {
    "pool": 3, "shortcut": "project", "act": "relu", "momentum": 0.1, "init": "fan_out", "size": 224,
}  # fmt: skip
_AS_TIMM = {
    "pool": 3, "narrow_first": False, "split_linear": (True,) * 4, "act": "leaky_relu", "momentum": 0.1,
    "init": "fan_out", "zero_init": True,
}  # fmt: skip


def _resnet(layers: int, depths: tuple[int, ...], *, basic: bool = False) -> ResNetConfig:
    return ResNetConfig(
        about=About(f"ResNet-{layers}, shortcuts without projection", _RESNET),
        widths=_NARROW if basic else _WIDTHS,
        depths=depths,
        hidden=None if basic else _NARROW,
    )


def _resnext(layers: int, depths: tuple[int, ...]) -> ResNetConfig:
    return ResNetConfig(
        about=About(f"ResNeXt-{layers} (32x4d), shortcuts without projection", _RESNEXT),
        widths=_WIDTHS,
        depths=depths,
        hidden=_HALF,
        groups=32,
    )


_PLAIN: dict[str, ResNetConfig] = {
    "resnet10": _resnet(10, (1, 1, 1, 1), basic=True),
    "resnet18": _resnet(18, (2, 2, 2, 2), basic=True),
    "resnet34": _resnet(34, (3, 4, 6, 3), basic=True),
    "resnet50": _resnet(50, (3, 4, 6, 3)),
    "resnet101": _resnet(101, (3, 4, 23, 3)),
    "resnet152": _resnet(152, (3, 8, 36, 3)),
    "resnext50": _resnext(50, (3, 4, 6, 3)),
    "resnext101": _resnext(101, (3, 4, 23, 3)),
}
_CSPRESNET50 = ResNetConfig(
    about=About("CSPResNet-50", _CSPNET),
    widths=_WIDTHS,
    depths=(3, 3, 5, 2),
    hidden=_NARROW,
    merge_widths=_HALF,
    partial=Partial(gamma=0.5, fusion="both", split="project"),
    split_linear=(False, True, True, False),
    narrow_first=True,
)
_CSPRESNEXT50 = replace(
    _CSPRESNET50,
    about=About("CSPResNeXt-50", _CSPNET),
    hidden=_HALF,
    groups=32,
    merge_widths=None,
)

BACKBONES: dict[str, ResNetConfig] = {
    **_PLAIN,
    **{
        f"{name}_torchvision": replace(
            row, about=About(row.about.summary.split(",")[0] + ", with projections", _TORCHVISION), **_AS_TORCHVISION
        )
        for name, row in _PLAIN.items()
        if name not in ("resnet10", "resnext101")
    },
    # torchvision's deeper ResNeXt has groups twice as wide.
    "resnext101_32x8d_torchvision": replace(
        _PLAIN["resnext101"],
        about=About("ResNeXt-101 (32x8d), with projections", _TORCHVISION),
        hidden=_WIDTHS,
        **_AS_TORCHVISION,
    ),
    "cspresnet10": replace(
        _PLAIN["resnet10"],
        about=About("CSPResNet-10", _CSPNET, reconstruction=True),
        widths=(64, 192, 256, 384),
        partial=Partial(gamma=0.5, fusion="last", split="project"),
        plain_first=True,
    ),
    "cspresnet50": _CSPRESNET50,
    "cspresnet50c": replace(_CSPRESNET50, about=About("CSPResNet-50c: 128 channels processed in stage 1", _CSPNET),
                            narrow_first=False),
    "cspresnet50_elastic": replace(_CSPRESNET50, about=About("CSPResNet-50-Elastic", _CSPNET), narrow_first=False,
                                   elastic=True),
    "cspresnet50_timm": replace(_CSPRESNET50, about=About("CSPResNet-50 as timm builds it", _TIMM), **_AS_TIMM),
    "cspresnet50w": replace(
        _CSPRESNET50,
        about=About("CSPResNet-50 with a three-layer stem, wider outputs and narrower bottlenecks", _TIMM),
        hidden=(32, 64, 128, 256),
        merge_widths=None,
        **{**_AS_TIMM, "stem": ((32, 3, 2), (32, 3, 1), (64, 3, 1))},
    ),
    "cspresnext50": _CSPRESNEXT50,
    "cspresnext50c": replace(_CSPRESNEXT50, about=About("CSPResNeXt-50c: 128 channels processed in stage 1", _CSPNET),
                             narrow_first=False),
    "cspresnext50_elastic": replace(_CSPRESNEXT50, about=About("CSPResNeXt-50-Elastic", _CSPNET), narrow_first=False,
                                    elastic=True),
    "cspresnext50_timm": replace(_CSPRESNEXT50, about=About("CSPResNeXt-50 as timm builds it", _TIMM), **_AS_TIMM),
}  # fmt: skip


def _build(config: ResNetConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels, or groups do not divide one.
    """
    stem = nn.Sequential()
    width, stride = config.in_chans, 1
    for out, kernel, step in config.stem:
        stem.append(ConvNormAct(width, out, kernel, step, style=config.style))
        width, stride = out, stride * step
    stem.append(nn.MaxPool2d(config.pool, 2, padding=config.pool // 3))
    stride *= 2

    build = _plain_stage if config.partial is None else _partial_stage
    stages: list[Stage] = []
    for index in range(len(config.widths)):
        stride *= 1 if index == 0 else 2
        stages.append(build(config, index, width, stride))
        width = stages[-1].channels
    return stem, stages


def _plain_stage(config: ResNetConfig, index: int, in_channels: int, stride: int) -> Stage:
    width = config.widths[index]
    return Stage(_blocks(config, index, in_channels, width, 1 if index == 0 else 2), width, stride)


def _partial_stage(config: ResNetConfig, index: int, in_channels: int, stride: int) -> Stage:
    partial, width, style = config.partial, config.widths[index], config.style
    assert partial is not None
    if config.plain_first and index == 0:
        return _plain_stage(config, index, in_channels, stride)
    entry = nn.Identity()
    if index > 0:
        entry = ConvNormAct(in_channels, in_channels, 3, 2, groups=config.groups, style=style)
    carried, processed = partial.widths(width)
    if partial.split == "slice":
        carried, given = partial.widths(in_channels)
        split = slice_split(in_channels, carried)
    else:
        given = in_channels if config.narrow_first and index == 0 else processed
        split_style = style.linear if config.split_linear and config.split_linear[index] else style
        split = Split(
            ConvNormAct(in_channels, carried, style=split_style), ConvNormAct(in_channels, given, style=split_style)
        )
    merged = config.merge_widths[index] if config.merge_widths and partial.has_merge else width
    transitioned = partial.transition_width(carried, processed, merged)
    joined = carried + transitioned
    out = merged if partial.has_merge else joined
    stage = CrossStage(
        split,
        _blocks(config, index, given, processed, 1),
        transition(partial.has_transition, processed, transitioned, style=style),
        transition(partial.has_merge, joined, out, style=style),
    )
    return Stage(nn.Sequential(entry, stage), out, stride)


def _blocks(config: ResNetConfig, index: int, in_channels: int, width: int, stride: int) -> nn.Sequential:
    before, style = sum(config.depths[:index]), config.style
    rates = stepped(config.drop_path, sum(config.depths))[before : before + config.depths[index]]

    def body(given: int, step: int) -> nn.Module:
        hidden, groups = (config.hidden[index] if config.hidden else None), config.groups
        if config.elastic and step == 1:
            half_groups = max(1, groups // 2)
            return elastic(
                lambda inner, out: (
                    basic_body(inner, out, style=style)
                    if hidden is None
                    else bottleneck_body(inner, out, out, groups=half_groups, style=style)
                ),
                given,
                width,
            )
        if hidden is None:
            return basic_body(given, width, step, style=style)
        return bottleneck_body(given, hidden, width, step, groups=groups, stride_first=config.stride_first, style=style)

    blocks = nn.Sequential()
    for number, rate in enumerate(rates):
        given, step = (in_channels, stride) if number == 0 else (width, 1)
        bypass = shortcut(config.shortcut, given, width, step, style)
        blocks.append(Residual(body(given, step), bypass, style.activate(), drop_path=rate, in_place=True))
    return blocks
