"""What all families share: the settings of a row, the stages it turns into, and the backbone that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn import ConvStyle, Partial
from crossstage.nn.conv import Norm
from crossstage.nn.init import Init, initialise

MAX_BLOCKS = 1_000  # a row comes from files as well, whose depths must not decide how long we build
MAX_CHANNELS = 65_536


@dataclass(frozen=True)
class About:
    """What a row's network is, for people.

    Attributes:
        summary: What it is, in a line.
        source: Paper or release that it follows.
        reconstruction: The authors published sizes but no structure: this one is ours, made to fit them.
        classes: Classes of the published classifier.
    """

    summary: str
    source: str
    reconstruction: bool = False
    classes: int = 1000


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Settings that every row has.

    Attributes:
        about: What the network is.
        partial: How the stages are made partial; None for a plain network.
        act: Activation of every convolution.
        norm: Normalisation of every convolution, ``"batch"`` or ``"group"``.
        momentum: Of batch norm, see :class:`~crossstage.nn.ConvStyle`.
        init: How weights are drawn, see :func:`~crossstage.nn.init.initialise`.
        zero_init: Start each residual block as its shortcut, see :func:`~crossstage.nn.init.initialise`.
        in_chans: Channels of the input.
        drop_path: Probability that a residual block is left out in training (stochastic depth); it rises linearly from
            0 at the first block to this at the last.
        dropout: Probability that a pooled feature is zeroed in training, before the classifier's linear layer.
        size: Side of the square input that the published figures refer to, in pixels.

    Raises:
        ConfigError: A value is out of range.
    """

    about: About = field(default=About("", ""), compare=False)
    partial: Partial | None = None
    act: str = "relu"
    norm: Norm = "batch"
    momentum: float = 0.1
    init: Init = "fan_out"
    zero_init: bool = False
    in_chans: int = 3
    drop_path: float = 0.0
    dropout: float = 0.0
    size: int = 224

    def __post_init__(self) -> None:
        if self.partial is not None and not isinstance(self.partial, Partial):
            raise ConfigError(f"partial is {self.partial!r}; expected a Partial, or None for the plain network")
        if not 0 < self.in_chans <= MAX_CHANNELS:
            raise ConfigError(f"in_chans is {self.in_chans}; expected 1 to {MAX_CHANNELS}")
        for name in ("drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a probability from 0 to below 1")
        if self.drop_path and not self.has_residuals():
            raise ConfigError("drop_path leaves out residual blocks, and this network has none; expected 0")
        _ = self.style.activate()

    @property
    def style(self) -> ConvStyle:
        """What all convolutions have in common."""
        return ConvStyle(self.act, self.norm, self.momentum)

    def has_residuals(self) -> bool:
        """Whether there are residual blocks for ``drop_path`` to leave out."""
        return False

    def check_depths(self, depths: Sequence[int], widths: Sequence[object]) -> None:
        """Refuse a row whose tuples differ in length, are empty, or add up to too many blocks.

        Raises:
            ConfigError: See above.
        """
        if len(depths) != len(widths) or not depths:
            raise ConfigError(
                f"widths {tuple(widths)} and depths {tuple(depths)}; expected as many of one as of the other"
            )
        if min(depths) < 1 or sum(depths) > MAX_BLOCKS:
            raise ConfigError(
                f"depths {tuple(depths)}; expected at least 1 each and at most {MAX_BLOCKS} blocks in all"
            )


@dataclass(frozen=True)
class Stage:
    """A built stage.

    Attributes:
        module: What runs.
        channels: Channels of its output.
        stride: Pixels of the network's input per pixel of its output.
        feature_channels: How many of its channels, counted from the end, a neck reads; None for all.
    """

    module: nn.Module
    channels: int
    stride: int
    feature_channels: int | None = None


def stepped(rate: float, count: int) -> list[float]:
    """Drop rates of ``count`` blocks, from 0 to ``rate``."""
    return [rate * index / max(1, count - 1) for index in range(count)]


class StagedBackbone(nn.Module):
    """A stem and stages in a row.

    Shape: ``(N, in_chans, H, W)`` to a list of ``(N, channels[i], H / strides[i], W / strides[i])``, shallow to deep,
    for heights and widths that are multiples of the last stride.

    Args:
        config: The row it was built from.
        stem: What runs before the first stage.
        stages: The stages.
        out_indices: Which stages' maps to return, counted from 0, negative from the end; the default is the last. Later
            stages are left out.

    Attributes:
        channels: Channels of the returned maps.
        strides: Pixels of the input per pixel of the returned maps.

    Raises:
        ConfigError: An index is out of range.
    """

    def __init__(
        self,
        config: BackboneConfig,
        stem: nn.Module,
        stages: Sequence[Stage],
        *,
        out_indices: Sequence[int] = (-1,),
    ) -> None:
        super().__init__()
        self.config = config
        self.out_indices = _resolve(out_indices, len(stages))
        chosen = [stages[i] for i in self.out_indices]
        self.read_channels = [stage.feature_channels for stage in chosen]
        self.channels = [stage.feature_channels or stage.channels for stage in chosen]
        self.strides = [stage.stride for stage in chosen]
        self.stem = stem
        self.stages = nn.ModuleList(stage.module for stage in stages[: self.out_indices[-1] + 1])
        initialise(self, config.init, zero_last=config.zero_init)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the chosen maps, shallow to deep."""
        features: list[Tensor] = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.out_indices:
                read = self.read_channels[len(features)]
                features.append(x if read is None else x[:, -read:])
        return features


def _resolve(out_indices: Sequence[int], count: int) -> tuple[int, ...]:
    resolved = [index + count if index < 0 else index for index in out_indices]
    if not resolved or resolved != sorted(set(resolved)) or resolved[0] < 0 or resolved[-1] >= count:
        raise ConfigError(
            f"out_indices {tuple(out_indices)} do not fit: expected ascending indices of the {count} stages, "
            f"0 to {count - 1}"
        )
    return tuple(resolved)
