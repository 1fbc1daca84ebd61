"""MobileNetV2 (arXiv 1801.04381) as torchvision and as CSPNet's authors build it, and CSPMobileNetV2.

The authors stride one group later than the paper: its 64 channels are at stride 8, not 16. CSPMobileNetV2 lets both
parts of a stage read the whole input, each through a strided depthwise convolution of its own, and leaves half of the
expansion to the depthwise convolution, which doubles the channels. It has no 1280-channel layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage, stepped
from crossstage.nn import ConvNormAct, CrossStage, Partial, Residual, Split, transition
from crossstage.nn.partial import Channels
from crossstage.nn.residual import inverted_body

_MOBILENET = "MobileNetV2, arXiv 1801.04381"
_CSPNET = "CSPNet, arXiv 1911.11929, and its authors' release"
EXPANSION = 6  # of every inverted residual but the first (MobileNetV2, table 2)


@dataclass(frozen=True, kw_only=True)
class MobileNetV2Config(BackboneConfig):
    """One row of the family.

    Attributes:
        stem: Channels of the strided 3x3 convolution that opens the network.
        stages: For each stage, its groups of inverted residuals ``(channels, blocks)``. A stage's first block strides,
            but for the first stage's, which does not expand either.
        last: Channels of the 1x1 convolution that closes the network, or None.
        expand_first: Whether the first block has a 1x1 convolution of unchanged width, as in Darknet's networks; the
            paper's has none.
        multiplier: Factor by which the depthwise convolutions multiply their channels; the 1x1 expansion does the rest
            of six.
        merge_widths: Channels of each partial stage's output where U exists.
        whole: Whether both parts read the whole input, strided; the carried one through a depthwise convolution. In
            the first stage that is a convolution in groups, to the processed part's width.

    Raises:
        ConfigError: A setting does not fit another.
    """

    stem: int = 32
    stages: tuple[tuple[tuple[int, int], ...], ...]
    last: int | None = None
    expand_first: bool = True
    multiplier: int = 1
    merge_widths: tuple[int, ...] = (48, 72, 192, 288, 640)
    whole: bool = False
    act: str = "relu"
    momentum: float = 0.01
    init: Literal["darknet", "fan_in", "fan_out"] = "darknet"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths([sum(blocks for _, blocks in groups) for groups in self.stages], self.stages)
        if self.partial is not None:
            self.check_depths([1] * len(self.stages), self.merge_widths)
        if EXPANSION % self.multiplier:
            raise ConfigError(f"multiplier is {self.multiplier}; expected a divisor of the expansion, {EXPANSION}")
        if self.whole and self.partial is not None and self.partial.split != "project":
            raise ConfigError("whole parts are read by layers of their own; expected Partial(split='project')")

    def has_residuals(self) -> bool:
        """See :meth:`BackboneConfig.has_residuals`."""
        return True

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


_SHIFTED = (((16, 1),), ((24, 2),), ((32, 3), (64, 4)), ((96, 3),), ((160, 3), (320, 1)))
_PAPER = (((16, 1),), ((24, 2),), ((32, 3),), ((64, 4), (96, 3)), ((160, 3), (320, 1)))

_MOBILENETV2 = MobileNetV2Config(
    about=About("MobileNetV2, its 64-channel blocks at stride 8", f"{_MOBILENET}, as CSPNet's authors trained it"),
    stages=_SHIFTED,
    last=1280,
)
BACKBONES: dict[str, MobileNetV2Config] = {
    "mobilenetv2": _MOBILENETV2,
    "mobilenetv2_torchvision": replace(
        _MOBILENETV2,
        about=About("MobileNetV2", f"{_MOBILENET}, as in torchvision"),
        stages=_PAPER,
        expand_first=False,
        act="relu6",
        momentum=0.1,
        init="fan_out",
        dropout=0.2,
    ),
    "cspmobilenetv2": replace(
        _MOBILENETV2,
        about=About("CSPMobileNetV2", _CSPNET),
        last=None,
        multiplier=2,
        partial=Partial(gamma=0.5, fusion="first", split="project"),
        whole=True,
    ),
}


def _build(config: MobileNetV2Config) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a stage into whole channels.
    """
    stem = ConvNormAct(config.in_chans, config.stem, 3, 2, style=config.style)
    stages: list[Stage] = []
    width, stride = config.stem, 2
    for index in range(len(config.stages)):
        step = 1 if index == 0 else 2
        stride *= step
        build = _plain_stage if config.partial is None else _partial_stage
        module, width = build(config, index, width, step)
        if config.last is not None and index == len(config.stages) - 1:
            module = nn.Sequential(module, ConvNormAct(width, config.last, style=config.style))
            width = config.last
        stages.append(Stage(module, width, stride))
    return stem, stages


def _plain_stage(config: MobileNetV2Config, index: int, in_channels: int, step: int) -> tuple[nn.Module, int]:
    return _blocks(config, index, in_channels, step), config.stages[index][-1][0]


def _partial_stage(config: MobileNetV2Config, index: int, in_channels: int, step: int) -> tuple[nn.Module, int]:
    partial, style = config.partial, config.style
    assert partial is not None
    processed = config.stages[index][-1][0]
    if config.whole:
        carried = given = in_channels
        if step == 1:
            carried = processed
            bypass = ConvNormAct(in_channels, carried, 3, groups=carried, style=style)
        else:
            bypass = ConvNormAct(in_channels, carried, 3, step, groups=carried, style=style)
        split = Split(bypass, nn.Identity())
    else:
        carried, given = partial.widths(in_channels)
        slice_it = partial.split == "slice"
        read = Channels(0, carried) if slice_it else ConvNormAct(in_channels, carried, style=style)
        down = nn.Identity() if step == 1 else ConvNormAct(carried, carried, 3, step, groups=carried, style=style)
        split = Split(
            nn.Sequential(read, down),
            Channels(carried, in_channels) if slice_it else ConvNormAct(in_channels, given, style=style),
        )
    transitioned = partial.transition_width(carried, processed, config.merge_widths[index])
    joined = carried + transitioned
    out = config.merge_widths[index] if partial.has_merge else joined
    stage = CrossStage(
        split,
        _blocks(config, index, given, step),
        transition(partial.has_transition, processed, transitioned, style=style),
        transition(partial.has_merge, joined, out, style=style),
    )
    return stage, out


def _blocks(config: MobileNetV2Config, index: int, in_channels: int, step: int) -> nn.Sequential:
    """Build a stage's inverted residuals; only where shapes agree is there a shortcut."""
    counts = [sum(blocks for _, blocks in groups) for groups in config.stages]
    rates = stepped(config.drop_path, sum(counts))[sum(counts[:index]) :]
    outs = [channels for channels, blocks in config.stages[index] for _ in range(blocks)]
    blocks = nn.Sequential()
    width = in_channels
    for number, (out, rate) in enumerate(zip(outs, rates, strict=False)):
        first = number == 0
        body = inverted_body(
            width, *_expansion(config, index, first, width), out, step if first else 1, style=config.style
        )
        if width == out and not first:
            blocks.append(Residual(body, nn.Identity(), nn.Identity(), drop_path=rate, in_place=True))
        else:
            blocks.append(body)
        width = out
    return blocks


def _expansion(config: MobileNetV2Config, index: int, first: bool, width: int) -> tuple[int | None, int]:
    """Return the channels after the 1x1 expansion, if there is one, and after the depthwise convolution."""
    if index == 0:
        return (width if config.expand_first else None), width
    if first and config.multiplier > 1:
        return None, width * config.multiplier
    return width * (EXPANSION // config.multiplier), width * EXPANSION
