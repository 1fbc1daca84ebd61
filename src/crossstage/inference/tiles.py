"""Large images looked at tile by tile, so that small objects keep their pixels, and whole, so that large ones do.

Every tile becomes an input of its own. A box that ends where its tile ends, inside the image, belongs to an object that
was cut: it goes, since an object that is smaller than the overlap lies whole in another tile, and a larger one is seen
in the whole image. What is left of all views is suppressed together by the model's own rule.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import torch

from crossstage.errors import ConfigError
from crossstage.inference.model import DetectionModel
from crossstage.inference.pipeline import ahead
from crossstage.inference.predictor import Prediction, Predictor
from crossstage.inference.sources import Reader, Source, SourceImage, Unreadable
from crossstage.ops.nms import NMS, kept_of
from crossstage.structures import Instances, Placement

CUT = 2.0  # pixels of the image from a tile's border within which a box is taken to end there


class Tiling(NamedTuple):
    """How large images are cut.

    Attributes:
        side: Side of a tile in pixels of the image. One that is as large as the input shows the image at its own scale.
        overlap: The least share of a tile that its neighbour covers, too, from 0 to 0.9: objects of up to this share of
            a tile are seen whole.
    """

    side: int
    overlap: float = 0.2


class Tile(NamedTuple):
    """A piece of an image: its first row and column, and its rows and columns, in pixels."""

    top: int
    left: int
    height: int
    width: int


def tiles(size: tuple[int, int], tiling: Tiling) -> list[Tile]:
    """Cover an image with tiles of one size that overlap evenly.

    Args:
        size: Height and width of the image in pixels.
        tiling: How it is cut; along a side that is shorter than a tile, tiles are as long as the image.

    Returns:
        The tiles, row by row; none if one tile holds the image.
    """
    rows, columns = (_starts(length, tiling) for length in size)
    if len(rows) == len(columns) == 1:
        return []
    height, width = (min(tiling.side, length) for length in size)
    return [Tile(top, left, height, width) for top, left in product(rows, columns)]


def _starts(length: int, tiling: Tiling) -> list[int]:
    """Return where tiles begin along a side: the first at its start, the last at its end, the others evenly between."""
    if length <= tiling.side:
        return [0]
    most = max(1, math.floor(tiling.side * (1 - tiling.overlap)))
    count = 1 + math.ceil((length - tiling.side) / most)
    return [round(number * (length - tiling.side) / (count - 1)) for number in range(count)]


class TiledPredictor(Predictor):
    """A detection model that looks at every image whole and tile by tile.

    Args:
        model: Any detector.
        nms: How boxes become detections, in each view and of all views together; None takes the model's own way.
        tiling: How images are cut.
        imgsz: Side of the input, or height and width, in pixels; None takes the size the model was trained at.
        batch: Tiles that share a forward pass.

    Raises:
        ConfigError: An option is out of range.
    """

    def __init__(
        self,
        model: DetectionModel,
        nms: NMS | None,
        tiling: Tiling,
        *,
        imgsz: int | tuple[int, int] | None = None,
        batch: int = 1,
    ) -> None:
        super().__init__(model, nms, imgsz=imgsz, batch=batch)
        if tiling.side < 32:
            raise ConfigError(f"tiles={tiling.side}; expected a side of at least 32 pixels")
        if not 0 <= tiling.overlap <= 0.9:
            raise ConfigError(f"overlap={tiling.overlap}; expected a share of the tile from 0 to 0.9")
        self.tiling = tiling

    def detect_batch(
        self, images: Sequence[np.ndarray]
    ) -> list[tuple[Instances, Placement, tuple[float, float, float]]]:
        """Find objects in images, one after the other.

        Args:
            images: Each ``(H, W, 3)`` RGB uint8.

        Returns:
            For each its objects, in pixels of the image; a placement that moves nothing; milliseconds of all its views'
            preprocessing, forward passes and post-processing.
        """
        return [self._detect_image(image) for image in images]

    def _detect_image(self, image: np.ndarray) -> tuple[Instances, Placement, tuple[float, float, float]]:
        size = image.shape[0], image.shape[1]
        whole = Tile(0, 0, *size)
        views = [whole, *tiles(size, self.tiling)]
        found: list[Instances] = []
        times = np.zeros(3)
        for first in range(0, len(views), self.batch):
            group = views[first : first + self.batch]
            pieces = [np.ascontiguousarray(image[v.top : v.top + v.height, v.left : v.left + v.width]) for v in group]
            for view, (instances, placement, stages) in zip(group, super().detect_batch(pieces), strict=True):
                found.append(_laid(instances, placement, view, size))
                times += stages
        start = time.perf_counter()
        merged = _suppressed(_joined(found), self.nms, len(self.model.class_names))
        times[2] += (time.perf_counter() - start) * 1e3
        preparing, forward, selecting = times.tolist()
        return merged, Placement(size, (1.0, 1.0), (0, 0), size), (preparing, forward, selecting)

    def stream(self, images: Source, *, whole: bool = True) -> Generator[Prediction | Unreadable]:  # noqa: ARG002
        """Find objects in every image of a source, of which every pixel is read; the next are read meanwhile."""
        with closing(ahead(images.readers(), _read, depth=1 if images.live else 2)) as entries:
            yield from map(self._predicted, entries)

    def _predicted(self, entry: SourceImage | Unreadable) -> Prediction | Unreadable:
        return entry if isinstance(entry, Unreadable) else self(entry)


def _read(read: Reader) -> SourceImage | Unreadable:
    return read()


def _laid(found: Instances, placement: Placement, view: Tile, size: tuple[int, int]) -> Instances:
    """Move what was found in a view to pixels of its image, less what the view's inner borders cut."""
    boxes = placement.to_image(found.boxes_xyxy.cpu()) + torch.tensor([view.left, view.top] * 2)
    inner = (view.left > 0, view.top > 0, view.left + view.width < size[1], view.top + view.height < size[0])
    borders = (view.left, view.top, view.left + view.width, view.top + view.height)
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    for side, (inside, border) in enumerate(zip(inner, borders, strict=True)):
        if inside:
            cut |= (boxes[:, side] - border).abs() <= CUT
    kept = ~cut
    masks = None if found.masks is None else found.masks.cpu()[kept]
    return Instances(boxes[kept], found.scores.cpu()[kept], found.class_ids.cpu()[kept], masks)


def _joined(parts: Sequence[Instances]) -> Instances:
    """Return the objects of all views of an image."""
    boxes, scores, classes = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("boxes_xyxy", "scores", "class_ids")
    )
    grids = [part.masks for part in parts if part.masks is not None]
    return Instances(boxes, scores, classes, torch.cat(grids) if len(grids) == len(parts) else None)


def _suppressed(found: Instances, nms: NMS, classes: int) -> Instances:
    """Return the best of objects that several views have found, also of a head that finds each once in a view."""
    rule = replace(nms, kind="iou") if nms.kind == "none" else nms
    kept = kept_of(found.boxes_xyxy, found.scores, found.class_ids, rule, num_classes=classes)
    masks = None if found.masks is None else found.masks[kept]
    return Instances(found.boxes_xyxy[kept], found.scores[kept], found.class_ids[kept], masks)


def predictor_for(
    model: DetectionModel,
    nms: NMS | None = None,
    tiling: Tiling | None = None,
    *,
    imgsz: int | tuple[int, int] | None = None,
    batch: int = 1,
    streams: int = 1,
) -> Predictor:
    """Return a model ready for images, whole or in tiles.

    Args:
        model: Any detector.
        nms: How boxes become detections; None takes the model's own way.
        tiling: How large images are cut; None looks at images whole only.
        imgsz: Side of the input, or height and width, in pixels; None takes the size the model was trained at.
        batch: Images, or tiles, that share a forward pass.
        streams: Passes that are computed side by side, for whole images.

    Raises:
        ConfigError: An option is out of range.
    """
    if tiling is None:
        return Predictor(model, nms, imgsz=imgsz, batch=batch, streams=streams)
    return TiledPredictor(model, nms, tiling, imgsz=imgsz, batch=batch)
