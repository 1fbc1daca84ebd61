"""COCO's metrics of boxes and masks, of a model or of any detections, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
import math
import reprlib
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import islice
from typing import Any, Literal

import numpy as np

from crossstage.data.masks import checked_segmentation, no_masks, packed
from crossstage.data.records import DetectionData, ImageRef
from crossstage.errors import DataError
from crossstage.evaluation.report import ClassScore, CocoReport
from crossstage.inference.images import load_image
from crossstage.inference.model import DetectionModel
from crossstage.inference.predictor import Predictor, StageTimes
from crossstage.ops import rle
from crossstage.ops.masks import packed_in_image
from crossstage.ops.nms import NMS, for_evaluation
from crossstage.structures import Instances, Placement

Scored = Literal["bbox", "segm"]
"""What is scored, in COCO's words: boxes or masks."""

# Darknet's class list keeps names of PASCAL VOC where COCO has others.
_OLD_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def evaluate(
    model: DetectionModel,
    dataset: DetectionData,
    *,
    imgsz: int | tuple[int, int] | None = None,
    nms: NMS | None = None,
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
        batch: How many images share a forward pass.
        progress: Whether a progress bar is shown on stderr.
        model_name: The model's name in the report.

    Raises:
        DataError: No class of the model is in the dataset, an image cannot be read, or it has another size than the
            annotations say.
        ConfigError: An option is out of range.
    """
    category_of = match_classes(model.class_names, dataset.categories)
    predictor = Predictor(
        model,
        replace(
            nms or for_evaluation(model.nms), class_ids=tuple(category_of)
        ),  # those that the dataset lacks would use up max_detections
        imgsz=imgsz,
        batch=batch,
    )
    results, times = coco_results(predictor, dataset, category_of, progress=progress)
    medians = {stage.name: statistics.median(getattr(t, stage.name) for t in times) for stage in fields(StageTimes)}
    missed = tuple(name for id_, name in dataset.categories.items() if id_ not in category_of.values())
    known = {"model_name": model_name, "milliseconds": medians, "unknown_classes": missed}
    return coco_metrics(results, dataset, masks=scores_masks(model, dataset), **known)


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
        results: Detections in COCO's result format, see :func:`coco_result`.
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


def match_classes(class_names: Sequence[str], categories: Mapping[int, str]) -> dict[int, int]:
    """Return category ids by class ids, matched by name; letters' case and Darknet's old COCO names do not matter.

    Args:
        class_names: The model's names by class id.
        categories: The dataset's names by category id.

    Raises:
        DataError: No name is in both.
    """
    ids = {_plain(name): id_ for id_, name in categories.items()}
    matched = {index: ids[_plain(name)] for index, name in enumerate(class_names) if _plain(name) in ids}
    if not matched:
        raise DataError(
            f"the model knows {_some(class_names)}; the dataset has {_some(list(categories.values()))}: "
            "expected a common class"
        )
    return matched


def _plain(name: str) -> str:
    name = name.strip().lower()
    return _OLD_NAMES.get(name, name)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


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
