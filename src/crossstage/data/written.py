"""What writers of dataset formats share: objects as plain numbers, and how they are put."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crossstage.data.masks import Mask
from crossstage.data.records import DetectionData, ImageRef

BoxScores = Mapping[str, Sequence[float]]
"""The score of each box of a part, by the part's name, where a model found them."""


class Stated(NamedTuple):
    """An object that is to be written.

    Attributes:
        class_id: The class's id.
        name: The class's name.
        xywh: Left, top, width and height in pixels.
        crowd: Whether it is difficult or a crowd.
        area: Its area in square pixels.
        mask: Its mask; None where it has none.
        score: How sure a model was of it, from 0 to 1; None where a person said so.
    """

    class_id: int
    name: str
    xywh: tuple[float, float, float, float]
    crowd: bool
    area: float
    mask: Mask
    score: float | None

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """Corners in pixels."""
        left, top, width, height = self.xywh
        return left, top, left + width, top + height

    @property
    def points(self) -> list[tuple[float, float]] | None:
        """The corners of its mask, where that is a single polygon; else None."""
        if self.mask is None or isinstance(self.mask, str) or len(self.mask) != 1:
            return None
        numbers = self.mask[0].tolist()
        return list(zip(numbers[::2], numbers[1::2], strict=True))


def images_of(
    data: DetectionData, scores: Sequence[float] | None = None, *, crowds: bool = False
) -> Iterator[tuple[ImageRef, list[Stated]]]:
    """Yield each image with its objects.

    Args:
        data: The part.
        scores: The score of each of its boxes.
        crowds: Whether difficult objects and crowds are among them, which most formats cannot tell from others.
    """
    boxes = data.boxes
    for at, image in enumerate(data.images):
        own = range(int(boxes.starts[at]), int(boxes.starts[at + 1]))
        yield image, [_stated(data, i, scores) for i in own if crowds or not boxes.crowd[i]]


def _stated(data: DetectionData, at: int, scores: Sequence[float] | None) -> Stated:
    boxes = data.boxes
    class_id = int(boxes.class_ids[at])
    left, top, width, height = boxes.xywh[at].tolist()
    return Stated(
        class_id,
        data.class_names[class_id],
        (left, top, width, height),
        bool(boxes.crowd[at]),
        float(boxes.areas[at]),
        None if boxes.masks is None else boxes.masks[at],
        None if scores is None else float(scores[at]),
    )


def text_of(content: Any) -> str:
    """Return content as JSON, letters of all languages as they are."""
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def describe(folder: Path, format: str, places: Mapping[str, str], names: Sequence[str], **more: Any) -> None:
    """Write the ``data.yaml`` that names the parts of a dataset and its classes in their order; JSON is YAML, too.

    Args:
        folder: The dataset's folder.
        format: The name of its format.
        places: Where each part lies, from the folder on.
        names: The names of the classes by class id.
        **more: Further entries.
    """
    content = {"format": format, **places, "names": list(names), **more}
    (folder / "data.yaml").write_text(text_of(content), "utf-8")
