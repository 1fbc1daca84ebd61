"""The verb that measures models on data: val."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say
from crossstage.cli.opening import declare_opening, open_given
from crossstage.cli.predict import declare_suppression, declare_tiles, tiling_of
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError

if TYPE_CHECKING:
    from crossstage.deploy.open import Opened
    from crossstage.ops.nms import NMS

MOST_DETECTIONS = 100  # of an image, which COCO counts
THRESHOLDS_ELSEWHERE = {
    "YOLOX": "test_conf 0.01, nmsthre 0.65",
    "RTMDet": "score_thr 0.001, iou_threshold 0.65, max_per_img 300",
    "ultralytics": "conf 0.001, iou 0.7, max_det 300",
    "Darknet": "thresh 0.005, nms 0.45",
}
"""What the authors of other detectors measure with, by their own names of it."""


def declare(parser: Parser) -> None:
    """Declare the arguments of val."""
    parser.option("data", 'The dataset, see "crossstage data check --help".', required=True)
    declare_opening(parser)
    parser.option(
        "split",
        "The part to measure on: train, val or test; by default val, else test. For a folder with several annotation "
        "files also a part of the name of one.",
    )
    parser.option(
        "conf", "Detections that score more than this are counted; average precision wants it near 0.", float, 0.001
    )
    declare_suppression(parser, MOST_DETECTIONS)
    declare_tiles(parser)
    parser.flag(
        "nms_sweep",
        "Measure at every threshold from 0.30 to 0.70 of iou, diou and agnostic instead, in one pass over the images.",
    )
    parser.option("on_bad_label", "Refuse broken labels, or skip them.", default="refuse", choices=names.on_bad_label())
    parser.option("json", "The file for the report.")
    parser.option(
        "save",
        "The folder for the report and what is behind it: precision, recall and F1 by confidence (a classifier's "
        "accuracy and coverage) as a table and an image, the precision-recall curve, the confusion of classes.",
    )
    parser.option(
        "save_json",
        "The file for all detections in COCO's result format, with the dataset's own ids, as COCO's tools and its "
        "server take it.",
    )


def run(given: Namespace) -> int:
    """Measure a model on a dataset of its task."""
    from crossstage.data.find import part_to_measure
    from crossstage.data.records import ClassificationData

    opened = open_given(given)
    dataset = part_to_measure(given.data, given.split, given.on_bad_label)
    holds_labels = isinstance(dataset, ClassificationData)
    if bool(opened.classifier) != holds_labels:
        held = "labels without boxes" if holds_labels else "boxes"
        raise ConfigError(f"{given.data} holds {held}, which {given.model} does not find; expected data of its task")
    return _classifier(given, opened, dataset) if opened.classifier else _detector(given, opened, dataset)


def _classifier(given: Namespace, opened: Opened, dataset: Any) -> int:
    from crossstage.evaluation import print_classification
    from crossstage.evaluation.classification import measure_classifier
    from crossstage.evaluation.saving import save_classified

    assert opened.classifier
    if given.nms_sweep or given.nms or given.tiles or given.save_json:
        raise ConfigError(f"{given.model} is a classifier; nms, nms_sweep, tiles and save_json are for detectors")
    shown = {"progress": not given.quiet, "model_name": given.model}
    report, found = measure_classifier(opened.classifier, dataset, imgsz=given.imgsz, batch=given.batch, **shown)
    print_classification(report, console())
    if given.json:
        report.save(Path(given.json))
    if given.save:
        _say_files(given.save, save_classified(report, found, dataset, Path(given.save)))
    return 0


def _say_files(folder: str, names: list[str]) -> None:
    say(f"{folder}: {', '.join(names)}")


def _detector(given: Namespace, opened: Opened, dataset: Any) -> int:
    import numpy as np

    from crossstage.evaluation import print_report
    from crossstage.evaluation.detection import measure, save_found
    from crossstage.evaluation.saving import save_measured
    from crossstage.ops.nms import changed

    assert opened.detector
    settings = changed(opened.detector.nms, score=given.conf, max_detections=given.max_detections)
    if given.nms_sweep and given.tiles:
        raise ConfigError("nms_sweep and tiles exclude each other")
    if given.nms_sweep and (given.save or given.save_json):
        raise ConfigError("nms_sweep measures many thresholds; save and save_json are of one")
    if given.nms_sweep:
        return _sweep(given, opened, dataset, settings)
    settings = changed(settings, iou=given.iou, kind=given.nms)
    shown = {"progress": not given.quiet, "model_name": given.model}
    how = {"imgsz": given.imgsz, "nms": settings, "tiling": tiling_of(given), "batch": given.batch}
    measured = measure(opened.detector, dataset, **how, **shown)
    print_report(measured.report, console())
    console().print(thresholds(settings), markup=False, highlight=False, soft_wrap=True)
    most = int(np.diff(dataset.boxes.starts).max(initial=0))
    if most > settings.max_detections:
        say(f"an image has {most} objects, of which {settings.max_detections} can be found; see --max-detections")
    if given.json:
        measured.report.save(Path(given.json))
    if given.save_json:
        save_found(measured.found, Path(given.save_json))
    if given.save:
        _say_files(given.save, save_measured(measured, dataset, Path(given.save)))
    return 0


def thresholds(used: NMS) -> str:
    """Say what detections were kept for the measurement, by the options that change it, and what others keep."""
    overlap = "no box suppresses another" if used.kind == "none" else f"IoU {used.iou:g} ({used.kind}; --iou, --nms)"
    mine = f"score {used.score:g} (--conf), {overlap}, {used.max_detections} of an image (--max-detections)"
    others = "; ".join(f"{name} {words}" for name, words in THRESHOLDS_ELSEWHERE.items())
    return f"kept: {mine}\nelsewhere: {others}"


def _sweep(given: Namespace, opened: Opened, dataset: Any, settings: Any) -> int:
    from crossstage.evaluation.sweep import nms_sweep, print_sweep, save_sweep

    assert opened.detector
    rows = nms_sweep(opened.detector, dataset, imgsz=given.imgsz, nms=settings, progress=not given.quiet)
    print_sweep(rows, console())
    if given.json:
        save_sweep(rows, Path(given.json))
    return 0


VERB = Verb("Measure a detector's average precision, that of masks as well, or a classifier's accuracy.", declare, run)
