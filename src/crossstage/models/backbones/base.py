"""What all families of backbones share. Adding a family takes one file in this room, and no line anywhere else.

The file of a family holds, in this order:

1. A docstring: the papers, and where the network deliberately differs from them.
2. A frozen, keyword-only dataclass that extends :class:`BackboneConfig` by the family's own settings. Each field is a
   plain value, a tuple of such or a :class:`~crossstage.nn.Partial`, so that a model file can store it, and may be
   changed by its name in ``create_model(name, field=value)``. ``__post_init__`` refuses values that do not fit with a
   :class:`~crossstage.errors.ConfigError` that says what was found and what is expected.
3. ``BACKBONES``, a dictionary of rows by name: lower case, without a suffix that is a neck's or head's name. The tables
   of all files are joined to :data:`crossstage.models.backbones.BACKBONES`, so that every row is listed, built, saved,
   profiled and exported by its name, and ``<row>_<neck>`` is a detector.
4. :meth:`BackboneConfig.build_stages`, which turns a row into a stem and :class:`Stage` objects. It builds every
   convolution with ``style=self.style``, which brings normalisation and activation, and heeds ``self.partial``: with
   None it builds the plain network, else its stages as :class:`~crossstage.nn.CrossStage`. Random numbers are drawn
   elsewhere: :class:`StagedBackbone` initialises all of the network as ``init`` says.

A family whose blocks are residual overrides :meth:`BackboneConfig.has_residuals` and takes the blocks' drop rates from
:func:`stepped`. A stage's map is what its module returns; detectors read the last stage of each stride, closing
ones left out.

A program may add a row of its own while it runs: ``BACKBONES["mine"] = MyConfig(...)`` before the name is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn import BN_EPS, ConvStyle, Partial
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
class BackboneConfig(ABC):
    """Settings that every row has, whatever its family.

    Attributes:
        about: What the network is.
        partial: How the stages are made partial; None for a plain network.
        act: Activation of every convolution.
        norm: Normalisation of every convolution: ``"batch"``, ``"group"``, ``"frozen"`` or ``"none"``, see
            :class:`~crossstage.nn.ConvStyle`.
        momentum: Share of the newest batch in batch norm's running statistics, in [0, 1].
        eps: What norms add to a variance before its root is taken.
        init: The scheme that weights are drawn by: ``"darknet"``, ``"fan_in"``, ``"fan_out"`` or ``"torch"``, see
            :func:`~crossstage.nn.init.initialise`.
        zero_init: Whether each residual block starts as its shortcut, see :func:`~crossstage.nn.init.initialise`.
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
    eps: float = BN_EPS
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

    @abstractmethod
    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """Build the stem and the stages, in the order in which they run.

        Raises:
            ConfigError: The values do not fit each other, such as a ``partial`` that does not cut a stage into whole
                channels.
        """

    @property
    def style(self) -> ConvStyle:
        """Normalisation and activation, which all convolutions have in common."""
        return ConvStyle(self.act, self.norm, self.momentum, self.eps)

    def has_residuals(self) -> bool:
        """Tell whether there are residual blocks for ``drop_path`` to leave out."""
        return False

    def check_depths(self, depths: Sequence[int], widths: Sequence[object]) -> None:
        """Refuse a row whose tuples differ in length, are empty, or add up to too many blocks.

        Args:
            depths: Number of blocks of each stage.
            widths: A setting that has one value for each stage.

        Raises:
            ConfigError: The row is refused.
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
        module: The module that runs, from the map of the stage before to its own.
        channels: Number of channels of its output.
        stride: Pixels of the network's input per pixel of its output.
        feature_channels: How many of its channels, counted from the end, a neck reads; None for all.
        closing: Whether it is there for a classifier alone: detectors leave it out.
    """

    module: nn.Module
    channels: int
    stride: int
    feature_channels: int | None = None
    closing: bool = False


def stepped(rate: float, count: int) -> list[float]:
    """Return the drop rates of ``count`` blocks in a row, which rise linearly from 0 to ``rate``."""
    return [rate * index / max(1, count - 1) for index in range(count)]


class StagedBackbone(nn.Module):
    """A stem and stages in a row.

    Shape: ``(N, in_chans, H, W)`` to a list of ``(N, channels[i], H / strides[i], W / strides[i])``, shallow to deep,
    for heights and widths that are multiples of the last stride.

    Args:
        config: The row it was built from.
        stem: The module that runs before the first stage.
        stages: The stages, in the order in which they run.
        out_indices: Indices of the stages whose maps are returned, ascending, counted from 0, negative from the end;
            the default is the last alone. Later stages are left out.

    Attributes:
        in_chans: Number of channels of the input.
        channels: Number of channels of each returned map.
        strides: Pixels of the input per pixel of each returned map.

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
        self.config, self.in_chans = config, config.in_chans
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


def build_backbone(
    config: BackboneConfig, *, out_indices: Sequence[int] = (-1,), strides: Sequence[int] | None = None
) -> StagedBackbone:
    """Turn a row of a family's table, or a changed copy of one, into a backbone.

    Args:
        config: The row.
        out_indices: Indices of the stages whose maps are returned, counted from 0, negative from the end.
        strides: Strides of the maps to return instead; of each stride, the last stage's map is taken but
            for a classifier's closing one.

    Raises:
        ConfigError: A value of the row does not fit the others, an index is out of range, or there is no map of a
            stride.

    Example:
        >>> backbone = build_backbone(BACKBONES["cspresnet50"], out_indices=(1, 2, 3))
        >>> backbone.channels, backbone.strides
        ([256, 512, 1024], [8, 16, 32])
    """
    stem, stages = config.build_stages()
    if strides is not None:
        last = {stage.stride: index for index, stage in enumerate(stages) if not stage.closing}
        if not set(strides) <= last.keys():
            raise ConfigError(f"maps of strides {list(strides)} are asked for; this backbone's are at {sorted(last)}")
        out_indices = [last[stride] for stride in strides]
    return StagedBackbone(config, stem, stages, out_indices=out_indices)


def _resolve(out_indices: Sequence[int], count: int) -> tuple[int, ...]:
    resolved = [index + count if index < 0 else index for index in out_indices]
    if not resolved or resolved != sorted(set(resolved)) or resolved[0] < 0 or resolved[-1] >= count:
        raise ConfigError(
            f"out_indices {tuple(out_indices)} do not fit: expected ascending indices of the {count} stages, "
            f"0 to {count - 1}"
        )
    return tuple(resolved)
