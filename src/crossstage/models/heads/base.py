"""The contract of a head: a row of settings, and a module that alone knows what its raw tensors mean."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.ops.boxes import clip_to
from crossstage.ops.nms import NMS, postprocess
from crossstage.structures import Instances, Targets

Raw = Mapping[str, Tensor]
"""Raw tensors by name, in the order that an exported file gives them in."""

Anchors = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class HeadConfig(ABC):
    """Settings of a head. A subclass is a frozen dataclass with the fields of its own head.

    A field ``loss``, itself a frozen dataclass, holds the settings of the loss; ``TrainOptions.loss`` changes them.
    Fields are plain values, tuples or dataclasses of these, so that a file's header can hold them.
    """

    @abstractmethod
    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> Head:
        """Build the module.

        Args:
            channels: Channels of the neck's maps, shallow to deep.
            strides: Strides of the neck's maps, shallow to deep.
            num_classes: Number of classes to tell apart, at least 1.

        Raises:
            ConfigError: The row does not fit the maps.
        """

    def for_strides(self, strides: Sequence[int]) -> Self:
        """Return the row that a composition takes for maps of these strides; by default the row itself."""
        del strides
        return self

    @property
    def anchors(self) -> tuple[tuple[float, float], ...]:
        """Widths and heights of the head's anchors in pixels of the input; empty for a head that has none."""
        return ()

    def with_anchors(self, anchors: Anchors) -> Self:
        """Return the row with other anchors, as many as :attr:`anchors` holds, sorted by area.

        Raises:
            ConfigError: The head has no anchors.
        """
        raise ConfigError(f"{type(self).__name__} has no anchors, so that there are none to replace by {anchors}")


class Head(nn.Module, ABC):
    """What every head has in common.

    ``forward`` holds no Python branch on data, so that it can be traced and exported. Unless the head has a second
    stage, ``decode`` and ``class_rows`` depend on the row, the strides and the number of classes alone, never on a
    parameter or buffer: an exported file carries these, and its raw tensors are decoded by a head that is built from
    them without weights. A head with a ``second_stage`` uses its weights in ``decode`` and ``detect`` as well, so that
    its files hold both stages, and detections come out of them.

    Args:
        row: The head's settings.
        channels: Channels of the neck's maps, shallow to deep.
        strides: Strides of the neck's maps, shallow to deep.
        num_classes: Number of classes to tell apart, at least 1.

    Attributes:
        class_weights: ``(num_classes,)`` factors of the classes' losses; None weighs all alike. A head that heeds them
            sets ``weighs_classes``.

    Raises:
        ConfigError: There is no class.
    """

    nms: ClassVar[NMS] = NMS()
    """How decoded boxes become detections where nothing else is said."""
    clips: ClassVar[bool] = False
    """Whether boxes are clipped to their image before they suppress each other."""
    second_stage: ClassVar[bool] = False
    """Whether decoding runs layers of the head."""
    finds_masks: ClassVar[bool] = False
    """Whether detections have masks, and the loss wants those of the objects."""
    weighs_classes: ClassVar[bool] = False
    shared_rows: ClassVar[str] = "what classes share"
    """What the rows that belong to no class predict, for messages about weights that were carried over."""

    def __init__(self, row: HeadConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"num_classes is {num_classes}; expected at least 1")
        self.row = row
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.num_classes = num_classes
        self.class_weights: Tensor | None = None

    @property
    @abstractmethod
    def raw_names(self) -> tuple[str, ...]:
        """Names of the raw tensors, in the order of ``forward``."""

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the raw tensors by name.

        Args:
            features: The neck's maps ``(N, C_i, H_i, W_i)``, shallow to deep.
        """

    @abstractmethod
    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the parts of a batch's loss by name: weighted scalars, whose sum is minimised.

        Args:
            raw: What :meth:`forward` returned, in float32 or float64.
            targets: The objects, in pixels of the input.
            image_size: Height and width of the input in pixels.
        """

    @abstractmethod
    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Turn raw tensors into boxes and scores.

        Args:
            raw: What :meth:`forward` returned.
            image_size: Height and width of the input in pixels.

        Returns:
            Boxes ``(N, K, 4)`` as xyxy in pixels of the input, and scores ``(N, K, num_classes)`` in [0, 1].
        """

    def detect(
        self,
        raw: Raw,
        image_size: tuple[int, int],
        nms: NMS | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Instances]:
        """Return the objects of each image: decode, clip if the head does, and post-process.

        Args:
            raw: What :meth:`forward` returned.
            image_size: Height and width of the input in pixels.
            nms: Thresholds and kind of suppression; None takes :attr:`nms`.
            sizes: Height and width in pixels that each image has in the input, below and to the right of which it is
                padded; None where all images fill it.
        """
        boxes, scores = self.decode(raw, image_size)
        if self.clips:
            boxes = clip_to(boxes, sizes or [image_size] * len(boxes))
        return postprocess(boxes, self.candidates(raw, scores), nms or self.nms)

    def candidates(self, raw: Raw, scores: Tensor) -> Tensor:
        """Return the scores ``(N, K, C)`` with 0 for boxes that do not enter suppression; by default as they are.

        Args:
            raw: What :meth:`forward` returned.
            scores: What :meth:`decode` made of it.
        """
        del raw
        return scores

    @abstractmethod
    def class_rows(self, num_classes: int) -> Mapping[str, Sequence[Sequence[int]]]:
        """Tell which rows of which tensors belong to a class, so that weights carry over to other classes.

        Args:
            num_classes: Number of classes of the head that the tensors are of.

        Returns:
            For the name of each tensor of the head's state that depends on the classes, the rows of each class along
            its first dimension. The rows that are left belong to all classes and keep their order.
        """


def changes(row: HeadConfig, changed: HeadConfig) -> dict[str, Any]:
    """Return the fields in which a changed copy of a row differs from it."""
    names = (field.name for field in fields(row))
    return {name: getattr(changed, name) for name in names if getattr(changed, name) != getattr(row, name)}


def check_numbers(
    loss: object,
    *names: str,
    least: float = 0.0,
    most: float = math.inf,
    positive: bool = False,
    whole: bool = False,
) -> None:
    """Refuse settings of a loss that are no finite numbers from ``least`` to ``most``.

    Args:
        loss: The settings.
        *names: The fields to look at.
        least: The lowest number that fits.
        most: The highest.
        positive: Whether 0 does not fit.
        whole: Whether the number must be whole.

    Raises:
        ConfigError: One does not fit.
    """
    kinds = int if whole else (int, float)
    expected = f"{least:g} or more" if math.isinf(most) else f"{least:g} to {most:g}"
    for name in names:
        value = getattr(loss, name)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ConfigError(f"loss.{name} is {value!r}; expected a {'whole ' * whole}number")
        if not least <= value <= most or math.isinf(value) or (positive and not value):
            raise ConfigError(f"loss.{name} is {value}; expected {expected}{', not 0' * positive}")


def with_loss(row: HeadConfig, settings: Mapping[str, Any]) -> HeadConfig:
    """Return a row whose loss has other settings.

    Args:
        row: The row of a head.
        settings: Other values for fields of ``row.loss``.

    Raises:
        ConfigError: The head has no such setting, or a value does not fit.
    """
    if not settings:
        return row
    loss: Any = getattr(row, "loss", ())
    known = [field.name for field in fields(loss)] if loss else []
    if unknown := [name for name in settings if name not in known]:
        expected = f"expected one of {', '.join(known)}" if known else "the head has none"
        raise ConfigError(f"loss has no setting {unknown[0]!r} for {type(row).__name__}; {expected}")
    changed: Any = replace(row, **{"loss": replace(loss, **settings)})
    return changed
