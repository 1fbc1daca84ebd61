"""EfficientNet-Lite (Google's release for edge devices, after EfficientNet, arXiv 1905.11946), and its CSP form.

Inverted residuals of MobileNetV2 with kernels of 3 or 5 pixels and ReLU6, without squeeze-and-excitation. Widths and
depths scale by compound factors, but for the stem, the closing convolution and the depths of the first and last group.
Steps of 2 are padded as TensorFlow does it. Google's weights, which this file's plain rows take, were trained with
``drop_path=0.2``.

The closing convolution to 1280 channels is a stage of its own, which detectors leave out.

In the CSP form, which is ours, a group's first block, which changes width and resolution, comes before the split, and
its other blocks process a share of ``1 - gamma``. Transitions are linear, as is all that blocks of this kind read and
give (MobileNetV2, section 3.2); so a second one, T or a projection, would do nothing that U alone does not: the rows
slice and fuse first. LiteGroups of one block stay plain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from torch import nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, Stage, stepped
from crossstage.nn import ConvNormAct, ConvStyle, CrossStage, Partial, Residual, project_split, slice_split, transition
from crossstage.nn.residual import inverted_body

_SOURCE = "EfficientNet-Lite, Google's release, after arXiv 1905.11946"

LiteGroup = tuple[int, int, int, int]
LiteGroups = tuple[LiteGroup, ...]


@dataclass(frozen=True, kw_only=True)
class EfficientNetLiteConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        stem: Channels of the strided 3x3 convolution that opens the network.
        stages: For each stage, its groups ``(kernel, expansion, channels, blocks)``: side of the depthwise kernels,
            factor of the 1x1 expansion (1 leaves it out), channels and number of the inverted residuals. A stage's
            first block strides, but for the first stage's.
        last: Channels of the 1x1 convolution that closes a classifier.

    Raises:
        ConfigError: A setting does not fit another.
    """

    stem: int = 32
    stages: tuple[LiteGroups, ...]
    last: int = 1280
    act: str = "relu6"
    eps: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_depths([sum(group[3] for group in groups) for groups in self.stages], self.stages)
        for kernel, expansion, channels, blocks in (group for groups in self.stages for group in groups):
            if kernel % 2 == 0 or min(kernel, expansion, channels, blocks) < 1:
                raise ConfigError(
                    f"stages hold {(kernel, expansion, channels, blocks)}; expected an odd kernel, expansion, "
                    "channels and blocks of at least 1"
                )

    def has_residuals(self) -> bool:
        """See :meth:`BackboneConfig.has_residuals`."""
        return True

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


_GROUPS: tuple[LiteGroups, ...] = (
    ((3, 1, 16, 1),),
    ((3, 6, 24, 2),),
    ((5, 6, 40, 2),),
    ((3, 6, 80, 3), (5, 6, 112, 3)),
    ((5, 6, 192, 4), (3, 6, 320, 1)),
)


def _lite(number: int, width: float, depth: float, size: int, dropout: float) -> EfficientNetLiteConfig:
    """Return a row whose groups are scaled by factors of width and depth."""
    return EfficientNetLiteConfig(
        about=About(f"EfficientNet-Lite{number}", _SOURCE),
        stages=tuple(
            tuple(
                (kernel, expansion, _whole(width * channels), ceil(depth * blocks) if blocks > 1 else 1)
                for kernel, expansion, channels, blocks in groups
            )
            for groups in _GROUPS
        ),
        size=size,
        dropout=dropout,
    )


def _whole(channels: float) -> int:
    """Round to a multiple of eight that is at least nine tenths, as EfficientNet does."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8


_PLAIN = {
    "efficientnet_lite0": _lite(0, 1.0, 1.0, 224, 0.2),
    "efficientnet_lite1": _lite(1, 1.0, 1.1, 240, 0.2),
    "efficientnet_lite2": _lite(2, 1.1, 1.2, 260, 0.3),
    "efficientnet_lite3": _lite(3, 1.2, 1.4, 280, 0.3),
    "efficientnet_lite4": _lite(4, 1.4, 1.8, 300, 0.3),
}
_HALF = Partial(gamma=0.5, fusion="first", split="slice")
BACKBONES: dict[str, EfficientNetLiteConfig] = {
    **_PLAIN,
    **{
        f"csp{name}": replace(row, about=About(f"CSP{row.about.summary}", f"ours, after {_SOURCE}"), partial=_HALF)
        for name, row in _PLAIN.items()
    },
}


def _build(config: EfficientNetLiteConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a group into whole channels.
    """
    stem = ConvNormAct(config.in_chans, config.stem, 3, 2, same=True, style=config.style)
    rates = iter(stepped(config.drop_path, sum(group[3] for groups in config.stages for group in groups)))
    stages: list[Stage] = []
    width, stride = config.stem, 2
    for index, groups in enumerate(config.stages):
        module = nn.Sequential()
        for number, group in enumerate(groups):
            step = 2 if index > 0 and number == 0 else 1
            stride *= step
            drop = [next(rates) for _ in range(group[3])]
            module.append(_group(config, group, width, step, drop))
            width = group[2]
        stages.append(Stage(module, width, stride))
    stages.append(Stage(ConvNormAct(width, config.last, style=config.style), config.last, stride, closing=True))
    return stem, stages


def _group(
    config: EfficientNetLiteConfig, group: LiteGroup, in_channels: int, step: int, rates: list[float]
) -> nn.Sequential:
    """Build blocks of one width: the first that leads there, and the others, which may be partial."""
    channels, style = group[2], config.style
    first = _block(group, in_channels, channels, step, rates[0], style)
    if config.partial is None or len(rates) == 1:
        return nn.Sequential(first, *(_block(group, channels, channels, 1, rate, style) for rate in rates[1:]))
    partial, linear = config.partial, style.linear
    carried, processed = partial.widths(channels)
    split = (
        slice_split(channels, carried)
        if partial.split == "slice"
        else project_split(channels, carried, processed, style=linear)
    )
    transitioned = partial.transition_width(carried, processed, channels)
    stage = CrossStage(
        split,
        nn.Sequential(*(_block(group, processed, processed, 1, rate, style) for rate in rates[1:])),
        transition(partial.has_transition, processed, transitioned, style=linear),
        transition(partial.has_merge, carried + transitioned, channels, style=linear),
    )
    return nn.Sequential(first, stage)


def _block(
    group: LiteGroup, in_channels: int, out_channels: int, step: int, rate: float, style: ConvStyle
) -> nn.Module:
    """Build an inverted residual; only where shapes agree is there a shortcut."""
    kernel, expansion = group[0], group[1]
    hidden = in_channels * expansion
    expanded = hidden if expansion > 1 else None
    body = inverted_body(in_channels, expanded, hidden, out_channels, step, kernel_size=kernel, same=True, style=style)
    if in_channels != out_channels or step > 1:
        return body
    return Residual(body, nn.Identity(), nn.Identity(), drop_path=rate, in_place=True)
