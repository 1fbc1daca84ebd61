"""Labels that a model makes, for a person to correct: what a detector finds in images, as a dataset."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossstage.data.fitting import fit_box
from crossstage.data.formats import FORMATS
from crossstage.data.masks import LEAST_NUMBERS, Mask
from crossstage.data.records import Box, DetectionBuilder, DetectionData
from crossstage.data.writing import check_target, write_dataset
from crossstage.errors import ConfigError, DataError
from crossstage.inference.predictor import Prediction, Predictor
from crossstage.inference.sources import Source, Unreadable
from crossstage.ops import rle

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Prelabelled:
    """What a model found.

    Attributes:
        data: The images and what was found in them.
        scores: The score of each box.
        unreadable: The images that could not be read.
    """

    data: DetectionData
    scores: list[float]
    unreadable: list[Unreadable]


def label_images(
    predictor: Predictor, source: str, folder: Path, format: str, *, link: bool = False, progress: bool = False
) -> Prelabelled:
    """Find objects in images, and write them as a dataset that label tools open and trainings read.

    Args:
        predictor: A detector, ready for images.
        source: An image, folder, glob or list.
        folder: The folder for the dataset, which is new or empty.
        format: The format.
        link: Whether images are linked instead of copied.
        progress: Whether progress is shown on stderr.

    Raises:
        ConfigError: The format cannot be written, or the source is a video.
        DataError: The folder holds something, no image can be read, or nothing can be written.
    """
    check_target(folder, format)
    found = prelabel(predictor, source, pixels="masks" in FORMATS[format].holds, progress=progress)
    write_dataset({"train": found.data}, folder, format, link=link, scores={"train": found.scores}, progress=progress)
    return found


def prelabel(predictor: Predictor, source: str, *, pixels: bool = False, progress: bool = False) -> Prelabelled:
    """Find objects in images.

    Args:
        predictor: A detector, ready for images.
        source: An image, folder, glob or list.
        pixels: Whether masks are kept pixel for pixel; else each becomes the polygon around its largest piece.
        progress: Whether progress is shown on stderr.

    Raises:
        ConfigError: The source is a video or camera.
        DataError: No image can be read.
    """
    from rich.console import Console
    from rich.progress import track

    images = Source(source)
    console = Console(stderr=True)
    found, scores, unreadable = DetectionBuilder(), [], []
    with closing(predictor.stream(images, whole=False)) as stream:
        bar = {"console": console, "transient": True, "disable": not (progress and console.is_terminal)}
        for entry in track(stream, "label", total=images.total, **bar):
            if isinstance(entry, Unreadable):
                unreadable.append(entry)
                continue
            if entry.image.frame is not None:
                raise ConfigError(f"{entry.image.name}: a video; expected images, such as its frames")
            boxes = _boxes(entry, pixels=pixels)
            found.add(Path(entry.image.name), entry.image.size, [box for box, _ in boxes])
            scores += [score for _, score in boxes]
    data = found.build(Path(source), predictor.model.class_names)
    if data is None:
        raise DataError(f"{source}: no image that can be read; expected at least one")
    return Prelabelled(data, scores, unreadable)


def _boxes(entry: Prediction, *, pixels: bool) -> list[tuple[Box, float]]:
    """Return the objects of an image with their scores; those without an area are left out."""
    detections, size, boxes = entry.detections, entry.image.size, []
    if not len(detections):
        return boxes
    assert detections.class_id is not None and detections.confidence is not None
    masks = detections.mask
    for at, (corners, class_id) in enumerate(zip(detections.xyxy.tolist(), detections.class_id.tolist(), strict=True)):
        try:
            box, _ = fit_box(tuple(corners), size, lambda: "a box")
        except DataError:
            continue
        mask = None if masks is None else _mask(np.asarray(masks[at], np.bool_), pixels=pixels)
        boxes.append((Box(class_id, box, mask=mask), float(detections.confidence[at])))
    return boxes


def _mask(drawn: NDArray[np.bool_], *, pixels: bool) -> Mask:
    """Return a drawn mask ``(H, W)`` as runs or as a polygon; None if nothing of it is left."""
    from supervision import mask_to_polygons

    if not drawn.any():
        return None
    if pixels:
        return rle.pack(drawn)
    polygons = [polygon for polygon in mask_to_polygons(drawn) if polygon.size >= LEAST_NUMBERS]
    if not polygons:
        return None
    return [max(polygons, key=_area).astype(np.float64).ravel()]


def _area(polygon: NDArray[np.int32]) -> float:
    x, y = polygon[:, 0].astype(float), polygon[:, 1].astype(float)
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2
