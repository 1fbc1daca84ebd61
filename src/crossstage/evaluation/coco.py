"""COCO's metrics of boxes and masks, of any detections, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
import math
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from crossstage.data.masks import checked_segmentation, no_masks, packed
from crossstage.data.records import DetectionData
from crossstage.errors import DataError
from crossstage.evaluation.report import ClassScore, CocoReport
from crossstage.ops import rle

Scored = Literal["bbox", "segm"]
"""What is scored, in COCO's words: boxes or masks."""


def coco_metrics(
    results: Sequence[Mapping[str, Any]],
    dataset: DetectionData,
    *,
    model_name: str = "",
    milliseconds: Mapping[str, float] | None = None,
    unknown_classes: Sequence[str] = (),
    masks: bool | None = None,
) -> CocoReport:
    """Score detections by COCO's metrics; those of categories that the dataset lacks do not count.

    Masks are scored as torchvision and detectron2 do it: whether a mask is small or large is told by its own area, and
    whether an object is by the area that its annotation states. An object without a mask is neither wanted nor wrong
    where masks are scored.

    Args:
        results: Detections in COCO's result format, see :func:`~crossstage.evaluation.detection.coco_result`.
        dataset: The images and the boxes that are to be found in them.
        model_name: The model's name in the report.
        milliseconds: The median time of each stage, for the report.
        unknown_classes: Classes of the dataset that the model does not know, for the report.
        masks: Whether masks are scored as well as boxes; None scores them if there are any in both.

    Raises:
        DataError: A detection lacks a field, has one of a wrong type, or is on an image that the dataset lacks.
    """
    if masks is None:
        masks = dataset.has_masks and any("segmentation" in entry for entry in results)
    checked = _checked(results, dataset, masks=masks)
    stats, of_class = _scores(_run(checked, dataset, "bbox"))
    mask_stats, of_mask_class = (
        _scores(_run(checked, dataset, "segm")) if masks else (None, [(None, None)] * len(of_class))
    )
    images = _images_of_classes(dataset)
    classes = tuple(
        ClassScore(name, *of_class[index], images[index], int(dataset.counts[index]), *of_mask_class[index])
        for index, name in enumerate(dataset.class_names)
    )
    return CocoReport(
        model=model_name,
        data=str(dataset.path),
        images=len(dataset),
        detections=len(results),
        **stats,
        classes=classes,
        unknown_classes=tuple(unknown_classes),
        milliseconds=dict(milliseconds or {}),
        masks=mask_stats,
    )


def _scores(evaluation: Any) -> tuple[dict[str, Any], list[tuple[float | None, float | None]]]:
    """Return the twelve metrics by name, and AP and AP50 of each class."""
    stats = [_defined(float(value)) for value in evaluation.stats[:12]]
    precision = np.asarray(evaluation.eval["precision"])  # (IoU thresholds, recalls, classes, areas, max detections)
    of_class = [
        (_mean(precision[:, :, index, 0, -1]), _mean(precision[0, :, index, 0, -1]))
        for index in range(precision.shape[2])
    ]
    return dict(zip(CocoReport.metric_names(), stats, strict=True)), of_class


def _checked(
    results: Sequence[Mapping[str, Any]], dataset: DetectionData, *, masks: bool = False
) -> list[dict[str, Any]]:
    """Return copies of the detections, since COCO's tools write into what they are given."""
    sizes = {image.id: (image.height, image.width) for image in dataset.images}
    checked = []
    for number, entry in enumerate(results):
        copy = _plain_result(entry)
        if copy is not None and copy["image_id"] in sizes and masks:
            size = sizes[copy["image_id"]]
            copy["segmentation"] = _checked_mask(entry.get("segmentation"), size, number)
        if copy is None or copy["image_id"] not in sizes:
            raise DataError(
                f"detection {number}: {reprlib.repr(entry)}; expected image_id of an image of {dataset.path}, "
                "category_id, bbox of x, y, width, height, and score, all finite numbers"
            )
        checked.append(copy)
    return checked


def _checked_mask(value: Any, size: tuple[int, int], number: int) -> dict[str, Any]:
    try:
        mask = checked_segmentation(value, size)
    except DataError as error:
        raise DataError(f"detection {number}: segmentation: {error}") from None
    if mask is None:
        raise DataError(f"detection {number}: no segmentation; expected a mask, as masks are scored")
    return rle.as_coco(packed(mask, size), size)


def _plain_result(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the fields of a detection as Python's own numbers; None if one is missing or of another kind."""
    try:
        box, score = [float(side) for side in entry["bbox"]], float(entry["score"])
        image, category = int(entry["image_id"]), int(entry["category_id"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if len(box) != 4 or not all(map(math.isfinite, (*box, score))):
        return None
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def run_coco(results: Sequence[Mapping[str, Any]], dataset: DetectionData) -> Any:
    """Return COCO's own evaluation object, accumulated.

    Args:
        results: Detections in COCO's result format.
        dataset: The images and the boxes that are to be found in them.

    Raises:
        DataError: See :func:`coco_metrics`.
    """
    return _run(_checked(results, dataset), dataset, "bbox")


def _run(results: Sequence[Mapping[str, Any]], dataset: DetectionData, kind: Scored) -> Any:
    from faster_coco_eval import COCO, COCOeval_faster

    # With a box beside it, COCO's tools would take a mask's area to be the box's.
    other = "segmentation" if kind == "bbox" else "bbox"
    copies = [{key: value for key, value in entry.items() if key != other} for entry in results]
    with contextlib.redirect_stdout(io.StringIO()):
        content = coco_content(dataset, masks=kind == "segm")
        truth = COCO(content)
        found = truth.loadRes(copies) if copies else COCO({**content, "annotations": []})
        evaluation = COCOeval_faster(truth, found, iouType=kind)
        evaluation.params.catIds = list(dataset.category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def coco_content(dataset: DetectionData, *, masks: bool = False) -> dict[str, Any]:
    """Return a dataset as COCO's JSON has it, with the image and category ids of its source.

    Annotations are numbered from 1: in COCO's evaluation the id 0 means "no match", which makes a find a miss.

    Args:
        dataset: The images and their boxes.
        masks: Whether annotations have masks, as run-length encodings. One that has none gets its box, and becomes a
            crowd: it can be scored on no mask.
    """
    boxes = dataset.boxes
    image_ids = [dataset.images[index].id for index in boxes.image_index.tolist()]
    category_ids = [dataset.category_ids[class_id] for class_id in boxes.class_ids.tolist()]
    rows = zip(image_ids, category_ids, boxes.xywh.tolist(), boxes.areas.tolist(), boxes.crowd.tolist(), strict=True)
    annotations: list[dict[str, Any]] = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for number, (image, category, box, area, crowd) in enumerate(rows, start=1)
    ]
    if masks:
        _add_masks(annotations, dataset)
    return {
        "images": [
            {"id": image.id, "file_name": image.path.name, "width": image.width, "height": image.height}
            for image in dataset.images
        ],
        "categories": [{"id": id_, "name": name} for id_, name in dataset.categories.items()],
        "annotations": annotations,
    }


def _add_masks(annotations: Sequence[dict[str, Any]], dataset: DetectionData) -> None:
    masks = dataset.boxes.masks or no_masks(len(annotations))
    for entry, mask, position in zip(annotations, masks, dataset.boxes.image_index.tolist(), strict=True):
        size = dataset.images[position].height, dataset.images[position].width
        known = mask
        if known is None:
            x, y, width, height = entry["bbox"]
            known = [np.array([x, y, x, y + height, x + width, y + height, x + width, y])]
            entry["iscrowd"] = 1
        entry["segmentation"] = rle.as_coco(packed(known, size), size)


def _images_of_classes(dataset: DetectionData) -> list[int]:
    """Return how many images have a box of each class, crowds not counted."""
    boxes = dataset.boxes
    pairs = np.unique((boxes.class_ids * len(dataset) + boxes.image_index)[~boxes.crowd])
    return np.bincount(pairs // len(dataset), minlength=len(dataset.class_names)).tolist()


def _defined(value: float) -> float | None:
    """Return a metric; None for COCO's -1, which means that there is nothing to score on."""
    return None if value < 0 else value


def _mean(precision: np.ndarray) -> float | None:
    """Return the mean over thresholds and recalls; None where -1 marks that there is no ground truth."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
