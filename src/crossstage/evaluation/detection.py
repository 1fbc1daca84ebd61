"""A detector run over a dataset: what it finds, in COCO's result format, and how well that scores."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from crossstage.data.records import DetectionData, ImageRef
from crossstage.errors import DataError
from crossstage.evaluation.coco import coco_metrics
from crossstage.evaluation.report import CocoReport
from crossstage.evaluation.thresholds import ConfidenceCurve, confidence_curves, thresholds_of
from crossstage.files import whole_text
from crossstage.inference.class_names import plain
from crossstage.inference.images import load_image
from crossstage.inference.model import DetectionModel
from crossstage.inference.predictor import Predictor, StageTimes
from crossstage.inference.tiles import Tiling, predictor_for
from crossstage.ops import rle
from crossstage.ops.masks import packed_in_image
from crossstage.ops.nms import NMS, for_evaluation
from crossstage.reading.text import visible
from crossstage.structures import Instances, Placement


@dataclass(frozen=True, eq=False)
class Measured:
    """A detector's measurement, and what it rests on.

    Attributes:
        report: How well it does.
        found: All detections in COCO's result format, with the dataset's own ids of images and categories.
        curves: Precision, recall and F1 by confidence: of all objects, and of each class.
    """

    report: CocoReport
    found: list[dict[str, Any]]
    curves: list[ConfidenceCurve]


def evaluate(
    model: DetectionModel,
    dataset: DetectionData,
    *,
    imgsz: int | tuple[int, int] | None = None,
    nms: NMS | None = None,
    tiling: Tiling | None = None,
    batch: int = 1,
    progress: bool = False,
    model_name: str = "",
) -> CocoReport:
    """Run a detector over a dataset and score what it finds: boxes, and masks where both have them.

    Args:
        model: Any detector; its classes are matched to the dataset's by name.
        dataset: The images and the boxes that are to be found in them.
        imgsz: Side of the input, or height and width, in pixels; None takes the size the model was trained at.
        nms: How decoded boxes become detections; None keeps the model's own suppression and, since average precision
            integrates over all scores, nearly all of them.
        tiling: How large images are cut into tiles, which are looked at beside the whole image.
        batch: How many images, or tiles, share a forward pass.
        progress: Whether a progress bar is shown on stderr.
        model_name: The model's name in the report.

    Raises:
        DataError: No class of the model is in the dataset, an image cannot be read, or it has another size than the
            annotations say.
        ConfigError: An option is out of range.
    """
    how: dict[str, Any] = {"imgsz": imgsz, "nms": nms, "tiling": tiling, "batch": batch}
    return measure(model, dataset, **how, progress=progress, model_name=model_name).report


def measure(
    model: DetectionModel,
    dataset: DetectionData,
    *,
    imgsz: int | tuple[int, int] | None = None,
    nms: NMS | None = None,
    tiling: Tiling | None = None,
    batch: int = 1,
    progress: bool = False,
    model_name: str = "",
) -> Measured:
    """Do what :func:`evaluate` does, with the same arguments, and return the detections and curves as well."""
    category_of = match_classes(model.class_names, dataset.categories)
    predictor = predictor_for(
        model,
        replace(
            nms or for_evaluation(model.nms), class_ids=tuple(category_of)
        ),  # those that the dataset lacks would use up max_detections
        tiling,
        imgsz=imgsz,
        batch=batch,
    )
    results, times = coco_results(predictor, dataset, category_of, progress=progress)
    medians = {stage.name: statistics.median(getattr(t, stage.name) for t in times) for stage in fields(StageTimes)}
    missed = tuple(name for id_, name in dataset.categories.items() if id_ not in category_of.values())
    known = {"model_name": model_name, "milliseconds": medians, "unknown_classes": missed}
    report = coco_metrics(results, dataset, masks=scores_masks(model, dataset), **known)
    curves = confidence_curves(results, dataset)
    return Measured(replace(report, confidence=thresholds_of(curves)), results, curves)


def save_found(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write detections as a file in COCO's result format, which COCO's own tools read.

    Args:
        found: The detections.
        path: The file.

    Raises:
        DataError: The file cannot be written.
    """
    with whole_text(path) as file:
        file.write("[" + ",\n".join(json.dumps(entry, allow_nan=False) for entry in found) + "]\n")


def scores_masks(model: object, dataset: DetectionData) -> bool:
    """Return whether a model's masks are scored on a dataset: both have to have some."""
    return bool(getattr(model, "finds_masks", False)) and dataset.has_masks


def coco_results(
    predictor: Predictor, dataset: DetectionData, category_of: Mapping[int, int], *, progress: bool = False
) -> tuple[list[dict[str, Any]], list[StageTimes]]:
    """Find objects in all images of a dataset.

    Args:
        predictor: The detector and its options.
        dataset: The images, which are read one after the other.
        category_of: The dataset's category ids by the model's class ids; classes without one are dropped.
        progress: Whether a progress bar is shown on stderr.

    Returns:
        The detections in COCO's result format, and the milliseconds that each image took.

    Raises:
        DataError: An image cannot be read, or has another size than the annotations say.
    """
    from rich.console import Console
    from rich.progress import track

    masks = scores_masks(predictor.model, dataset)
    results: list[dict[str, Any]] = []
    times: list[StageTimes] = []
    images = iter(track(dataset.images, "val", console=Console(stderr=True), transient=True, disable=not progress))
    while group := list(islice(images, predictor.batch)):
        start = time.perf_counter()
        pixels = [pixels_of(image, dataset) for image in group]
        decode_ms = (time.perf_counter() - start) * 1e3 / len(group)
        for image, (found, placement, stages) in zip(group, predictor.detect_batch(pixels), strict=True):
            times.append(StageTimes(decode_ms, *stages))
            results += results_of(found, placement, image.id, category_of, masks=masks)
    return results, times


def results_of(
    found: Instances, placement: Placement, image_id: int, category_of: Mapping[int, int], *, masks: bool = False
) -> list[dict[str, Any]]:
    """Return the objects found in one image in COCO's result format; masks are laid into the image one at a time.

    Args:
        found: The objects, in pixels of the input.
        placement: Where the image lies in the input.
        image_id: The image's id.
        category_of: The dataset's category ids by the model's class ids; classes without one are dropped.
        masks: Whether the masks of the objects, which have to have some, are wanted.
    """
    boxes = placement.to_image(found.boxes_xyxy.cpu())
    grids = found.masks.float().cpu() if masks and found.masks is not None else None
    results = []
    values = zip(boxes.tolist(), found.scores.tolist(), found.class_ids.tolist(), strict=True)
    for number, (box, score, class_id) in enumerate(values):
        if class_id not in category_of:
            continue
        result = coco_result(image_id, category_of[class_id], box, score)
        if grids is not None:
            counts = packed_in_image(grids[number], boxes[number], placement.image_size)
            result["segmentation"] = rle.as_coco(counts, placement.image_size)
        results.append(result)
    return results


def pixels_of(image: ImageRef, dataset: DetectionData) -> np.ndarray:
    """Read an image of a dataset.

    Args:
        image: The image.
        dataset: The dataset, for the message.

    Returns:
        ``(H, W, 3)`` RGB uint8.

    Raises:
        DataError: It cannot be read, or has another size than the annotations say.
    """
    pixels = load_image(image.path)
    if pixels.shape[:2] != (image.height, image.width):
        raise DataError(
            f"{dataset.path}: image {image.id} is {image.width} x {image.height}; "
            f"{image.path.name} has {pixels.shape[1]} x {pixels.shape[0]} pixels"
        )
    return pixels


def coco_result(image_id: int, category_id: int, box_xyxy: Sequence[float], score: float) -> dict[str, Any]:
    """Return one detection in COCO's result format, whose boxes are x, y, width, height in pixels.

    Args:
        image_id: The image's id.
        category_id: The category's id.
        box_xyxy: Left, top, right and bottom in pixels of the image.
        score: The detection's score in [0, 1].
    """
    x, y, right, bottom = box_xyxy
    return {"image_id": image_id, "category_id": category_id, "bbox": [x, y, right - x, bottom - y], "score": score}


def match_classes(class_names: Sequence[str], categories: Mapping[int, str]) -> dict[int, int]:
    """Return category ids by class ids.

    Where both lists are equal, classes are the same one by one, whatever they are called. Elsewhere they meet by name:
    first by the very name, the first class of a name with the first category of it, then what is left over without
    letters' case and with COCO's names for Darknet's old ones, if just one of either side is called so.

    Args:
        class_names: The model's names by class id.
        categories: The dataset's names by category id.

    Raises:
        DataError: No name is in both.
    """
    if list(class_names) == list(categories.values()):
        return dict(enumerate(categories))
    matched: dict[int, int] = {}
    by_name = defaultdict[str, list[int]](list)
    for id_, name in categories.items():
        by_name[name].append(id_)
    for index, name in enumerate(class_names):
        if by_name[name]:
            matched[index] = by_name[name].pop(0)
    taken = set(matched.values())
    there = Counter(plain(name) for id_, name in categories.items() if id_ not in taken)
    known = Counter(plain(name) for index, name in enumerate(class_names) if index not in matched)
    ids = {plain(name): id_ for id_, name in categories.items() if id_ not in taken}
    for index, name in enumerate(class_names):
        called = plain(name)
        if index not in matched and there[called] == known[called] == 1:
            matched[index] = ids[called]
    if not matched:
        raise DataError(
            f"the model knows {_some(class_names)}; the dataset has {_some(list(categories.values()))}: "
            "expected a common class"
        )
    return dict(sorted(matched.items()))


def _some(names: Sequence[str]) -> str:
    return visible(", ".join(names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
