"""Darknet-53 (YOLOv3, arXiv 1804.02767), CSPDarknet-53 (CSPNet authors' release) and YOLOv4-tiny's backbone.

One table, one code path: ``partial=None`` builds the plain network of a row, ``partial=Partial(...)`` its cross stage
partial variant. Modules run in the order of the authors' Darknet files, so that Darknet weights load in file order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn import ConvNormAct, ConvPair, CrossStage, DarknetBlock, Partial, ProjectSplit, SliceSplit

MAX_BLOCKS = 1_000  # a row comes from files as well, whose depths must not decide how long we build


@dataclass(frozen=True)
class DarknetConfig:
    """One row of the family.

    Attributes:
        stem: ``(width, stride)`` of each 3x3 convolution before the first stage.
        widths: Channels of each stage's entry convolution.
        depths: Residual blocks of each stage; ignored by ``"pair"`` stages, which hold one pair of convolutions.
        stage: ``"residual"``: strided 3x3 entry, residual blocks. ``"pair"``: 2x2 max pooling (but before the first
            stage), 3x3 entry, one :class:`~crossstage.nn.ConvPair`.
        last: Width of a pooled 3x3 convolution after the last stage, or None.
        partial: How the stages are made partial; None for a plain network.
        whole_first: Both parts of the first stage keep its full width, and its blocks their bottleneck of a half, as
            in the authors' csdarknet53. Applies to projected splits.
        act: Activation of every convolution.

    Raises:
        ConfigError: Widths and depths differ in number, there are more than 1,000 blocks, or ``partial`` is no
            :class:`~crossstage.nn.Partial`.
    """

    stem: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stage: Literal["residual", "pair"] = "residual"
    last: int | None = None
    partial: Partial | None = None
    whole_first: bool = False
    act: str = "leaky"

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths):
            raise ConfigError(f"widths {self.widths} and depths {self.depths}; expected as many of one as of the other")
        if self.partial is not None and not isinstance(self.partial, Partial):
            raise ConfigError(f"partial is {self.partial!r}; expected a Partial, or None for the plain network")
        if sum(self.depths) > MAX_BLOCKS:
            raise ConfigError(f"depths {self.depths} add up to more than {MAX_BLOCKS} blocks")


DARKNETS: dict[str, DarknetConfig] = {
    "darknet53": DarknetConfig(
        stem=((32, 1),),
        widths=(64, 128, 256, 512, 1024),
        depths=(1, 2, 8, 8, 4),
    ),
    "cspdarknet53": DarknetConfig(
        stem=((32, 1),),
        widths=(64, 128, 256, 512, 1024),
        depths=(1, 2, 8, 8, 4),
        partial=Partial(gamma=0.5, fusion="both", split="project"),
        whole_first=True,
    ),
    "cspdarknet53_tiny": DarknetConfig(
        stem=((32, 2), (64, 2)),
        widths=(64, 128, 256),
        depths=(1, 1, 1),
        stage="pair",
        last=512,
        partial=Partial(gamma=0.5, fusion="last", split="slice"),
    ),
}


@dataclass(frozen=True)
class _Stage:
    """A built stage, its output channels, and how many of them, counted from the end, a neck reads."""

    module: nn.Module
    channels: int
    feature_channels: int


class Darknet(nn.Module):
    """A Darknet backbone.

    Shape: ``(N, 3, H, W)`` to a list of ``(N, channels[i], H / strides[i], W / strides[i])``, shallow to deep, for
    heights and widths that are multiples of 32.

    Args:
        config: A row of ``DARKNETS``.
        out_indices: Which stages' maps to return, counted from 0, negative from the end; the default is the last.

    Attributes:
        channels: Channels of the returned maps.
        strides: Pixels of the input per pixel of the returned maps.

    Raises:
        ConfigError: An index is out of range, or ``config.partial`` does not cut a stage into whole channels.
    """

    def __init__(self, config: DarknetConfig, *, out_indices: Sequence[int] = (-1,)) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        width, stride = 3, 1
        for out, step in config.stem:
            self.stem.append(ConvNormAct(width, out, 3, step, act=config.act))
            width, stride = out, stride * step

        stages: list[_Stage] = []
        strides: list[int] = []
        for index in range(len(config.widths)):
            build = _residual_stage if config.stage == "residual" else _pair_stage
            stages.append(build(config, index, width))
            stride *= 1 if config.stage == "pair" and index == 0 else 2
            strides.append(stride)
            width = stages[-1].channels
        if config.last is not None:
            closing = nn.Sequential(nn.MaxPool2d(2, 2), ConvNormAct(width, config.last, 3, act=config.act))
            stages.append(_Stage(closing, config.last, config.last))
            strides.append(stride * 2)

        self.out_indices = _resolve(out_indices, len(stages))
        self.stages = nn.ModuleList(stage.module for stage in stages[: self.out_indices[-1] + 1])
        self.channels = [stages[i].feature_channels for i in self.out_indices]
        self.strides = [strides[i] for i in self.out_indices]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the chosen maps, shallow to deep."""
        features: list[Tensor] = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                features.append(x[:, -self.channels[len(features)] :])
        return features


def _resolve(out_indices: Sequence[int], count: int) -> tuple[int, ...]:
    resolved = [index + count if index < 0 else index for index in out_indices]
    if not resolved or resolved != sorted(set(resolved)) or resolved[0] < 0 or resolved[-1] >= count:
        raise ConfigError(
            f"out_indices {tuple(out_indices)} do not fit: expected ascending indices of the {count} stages, "
            f"0 to {count - 1}"
        )
    return tuple(resolved)


def _residual_stage(config: DarknetConfig, index: int, in_channels: int) -> _Stage:
    """Strided 3x3 convolution, then residual blocks on all channels or on the processed part."""
    width, depth, partial, act = config.widths[index], config.depths[index], config.partial, config.act
    entry = ConvNormAct(in_channels, width, 3, 2, act=act)
    if partial is None:
        blocks = [DarknetBlock(width, width // 2, act=act) for _ in range(depth)]
        return _Stage(nn.Sequential(entry, *blocks), width, width)

    if config.whole_first and index == 0 and partial.split == "project":
        carried, processed, hidden = width, width, width // 2
    else:
        carried, processed = partial.widths(width)
        hidden = processed  # with fewer channels a bottleneck no longer pays (CSPNet, figure 5)
    out = width if partial.has_merge else carried + processed
    stage = CrossStage(
        _split(partial, width, carried, processed, act),
        nn.Sequential(*[DarknetBlock(processed, hidden, act=act) for _ in range(depth)]),
        ConvNormAct(processed, processed, act=act) if partial.has_transition else nn.Identity(),
        ConvNormAct(carried + processed, out, act=act) if partial.has_merge else nn.Identity(),
    )
    return _Stage(nn.Sequential(entry, stage), out, out)


def _pair_stage(config: DarknetConfig, index: int, in_channels: int) -> _Stage:
    """3x3 convolution, then a pair of convolutions; doubles the entry's width.

    A sliced stage carries its whole input, as YOLOv4-tiny does, and its neck reads x_T, not the concatenation.
    """
    width, partial, act = config.widths[index], config.partial, config.act
    pool = nn.MaxPool2d(2, 2) if index > 0 else nn.Identity()
    entry = ConvNormAct(in_channels, width, 3, act=act)
    if partial is None:
        pair = nn.Sequential(ConvPair(width, act=act), ConvNormAct(2 * width, 2 * width, act=act))
        return _Stage(nn.Sequential(pool, entry, pair), 2 * width, 2 * width)

    carried, processed = partial.widths(width)
    transitioned = width if partial.has_transition else 2 * processed
    joined = transitioned + (width if partial.split == "slice" else carried)
    out = 2 * width if partial.has_merge else joined
    stage = CrossStage(
        _split(partial, width, carried, processed, act, carry_all=True),
        ConvPair(processed, act=act),
        ConvNormAct(2 * processed, transitioned, act=act) if partial.has_transition else nn.Identity(),
        ConvNormAct(joined, out, act=act) if partial.has_merge else nn.Identity(),
        carried_first=True,
    )
    return _Stage(nn.Sequential(pool, entry, stage), out, out if partial.has_merge else transitioned)


def _split(
    partial: Partial, width: int, carried: int, processed: int, act: str, *, carry_all: bool = False
) -> nn.Module:
    if partial.split == "slice":
        return SliceSplit(carried, carry_all=carry_all)
    return ProjectSplit(width, carried, processed, act=act)
