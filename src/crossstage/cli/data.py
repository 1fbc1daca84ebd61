"""The verbs that look at datasets: data check, stats, anchors and show; and the group of all data verbs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.cli import data_view, data_writing, names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say, table
from crossstage.cli.verb import FOUND_FAULTS, Group, Verb
from crossstage.errors import ConfigError

if TYPE_CHECKING:
    from rich.text import Text

    from crossstage.data.anchors import Sizes
    from crossstage.data.find import DataSource
    from crossstage.structures import Preprocessing

SAMPLES = 16  # images on a sheet


def _declare_data(parser: Parser) -> None:
    parser.positional(
        "data",
        "A folder or file of labels: COCO, VOC, YOLO, Darknet, CVAT, labelme, Label Studio, CSV, PNG masks, class "
        "folders, parquet; or a YAML file that names parts.",
    )
    parser.option(
        "format", "The format, where it is not recognised or recognised wrongly.", choices=names.data_formats()
    )


def _declare_model(parser: Parser, help: str) -> None:
    parser.option("model", help, default=names.DEFAULT_MODEL)
    parser.option("imgsz", "Side of the input in pixels; by default the model's.", int)


def _source(given: Namespace) -> DataSource:
    from crossstage.data.find import find_data

    return find_data(given.data, given.format)


def _declare_check(parser: Parser) -> None:
    _declare_data(parser)
    parser.option("json", "The file for the report.")


def check(given: Namespace) -> int:
    """Check a dataset, and print and write the report."""
    from crossstage.data.check import check_data, print_check

    report = check_data(_source(given), progress=not given.quiet)
    print_check(report, console())
    if given.json:
        report.save(Path(given.json))
    return FOUND_FAULTS if report.broken else 0


def _declare_stats(parser: Parser) -> None:
    _declare_data(parser)
    _declare_model(parser, "The detector whose anchors are drawn.")
    parser.option("out", "The folder for the PNG files.", default="runs/stats")


def stats(given: Namespace) -> int:
    """Draw a dataset's statistics, and print how often each class occurs."""
    from crossstage.data.plots import class_counts, plot_classes, seen_by_the_network
    from crossstage.data.records import DetectionData
    from crossstage.evaluation.plots import save
    from crossstage.inference.drawing import write_sheet

    source, folder = _source(given), Path(given.out)
    parts = {split: source.read(split, "skip") for split in source.parts}
    counts = {split: class_counts(part) for split, part in parts.items()}
    first = parts.get("train") or next(iter(parts.values()))
    anchors, preprocessing = _anchors_of(given)
    save(plot_classes(counts), folder / "classes.png")
    written = ["classes.png", "samples.png"]
    if isinstance(first, DetectionData) and len(anchors):
        _draw_boxes(first, anchors, preprocessing, given.model, folder / "boxes.png")
        written.append("boxes.png")
    write_sheet(folder / "samples.png", seen_by_the_network(first, preprocessing, None, SAMPLES))
    shown = table("class", *counts, numbers=len(counts))
    for name in next(iter(counts.values())):
        shown.add_row(_text(name), *(str(of_class.get(name, 0)) for of_class in counts.values()))
    console().print(shown)
    for split, part in parts.items():
        if isinstance(part, DetectionData) and part.has_masks:
            say(f"{split}: {part.masked} of {part.counts.sum()} boxes have masks")
    say(f"{folder}: {', '.join(written)}")
    return 0


def _draw_boxes(dataset: object, anchors: Sizes, preprocessing: Preprocessing, model: str, path: Path) -> None:
    from crossstage.data.anchors import judge, scaled_sizes
    from crossstage.data.plots import plot_boxes
    from crossstage.data.records import DetectionData
    from crossstage.evaluation.plots import save

    assert isinstance(dataset, DetectionData)
    sizes = scaled_sizes(dataset, preprocessing)
    fit = judge(sizes, anchors)
    title = f"{model} at {preprocessing.size[0]}: mean IoU {fit.mean_iou:.3f}, recall {fit.recall:.3f}"
    save(plot_boxes(sizes, anchors, title), path)


def _declare_anchors(parser: Parser) -> None:
    _declare_data(parser)
    _declare_model(parser, "The detector whose anchors are compared.")
    parser.option("count", "How many anchors; by default as many as the model has.", int)
    parser.option("seed", "Chooses where the search begins.", int, 0)


def anchors(given: Namespace) -> int:
    """Fit anchors to a dataset's boxes, and print how well they fit beside the model's."""
    from crossstage.data.anchors import fit_anchors, judge, scaled_sizes
    from crossstage.data.records import DetectionData

    source = _source(given)
    dataset = source.read("train" if "train" in source.parts else next(iter(source.parts)), "skip")
    if not isinstance(dataset, DetectionData):
        raise ConfigError(f"{given.data}: {source.format} has labels without boxes; expected boxes")
    if given.count is not None and given.count < 1:
        raise ConfigError(f"count is {given.count}; expected at least 1")
    current, preprocessing = _anchors_of(given)
    if not len(current):
        raise ConfigError(f"{given.model} has no anchors; expected a detector")
    sizes = scaled_sizes(dataset, preprocessing)
    fitted = fit_anchors(sizes, given.count or len(current), seed=given.seed)
    shown = table("anchors", "mean IoU", "recall at 0.5", "width x height in pixels of the input")
    for name, each in ((f"{given.model}'s", current), ("fitted", fitted)):
        fit = judge(sizes, each)
        pairs = ", ".join(f"{width:.0f} x {height:.0f}" for width, height in each)
        shown.add_row(_text(name), f"{fit.mean_iou:.3f}", f"{fit.recall:.3f}", pairs)
    console().print(shown)
    height, width = preprocessing.size
    say(f"{len(sizes)} boxes at an input of {width} x {height}; train with them: --fit-anchors")
    return 0


def _declare_show(parser: Parser) -> None:
    _declare_data(parser)
    parser.flag("augment", "Show what training makes of the images, with the default augmentation.")
    _declare_model(parser, "The model whose input size and manner of resizing are taken.")
    parser.option("split", "The part of the dataset.", default="train")
    parser.option("count", "How many images.", int, SAMPLES)
    parser.option("seed", "Chooses the images and what happens to them.", int, 0)
    parser.option("out", "The image file to write.", default="runs/show.png")


def show(given: Namespace) -> int:
    """Write a sheet of images as a network sees them."""
    from crossstage.data.augment import Augmentation
    from crossstage.data.plots import seen_by_the_network
    from crossstage.inference.drawing import write_sheet

    if given.count < 1:
        raise ConfigError(f"count is {given.count}; expected at least 1")
    source = _source(given)
    _, preprocessing = _anchors_of(given)
    augmentation = Augmentation() if given.augment else None
    dataset = source.read(given.split, "skip")
    tiles = seen_by_the_network(dataset, preprocessing, augmentation, given.count, seed=given.seed)
    write_sheet(Path(given.out), tiles)
    say(f"{given.out}: {len(tiles)} images")
    return 0


def _anchors_of(given: Namespace) -> tuple[Sizes, Preprocessing]:
    """Return the model's anchors ``(n, 2)``, none for a classifier, and its preprocessing."""
    import numpy as np

    from crossstage.models.heads.base import Head
    from crossstage.weights.starting import classes_of, start_model

    made = start_model(given.model, classes_of(given.model), imgsz=given.imgsz)
    assert made.spec.preprocessing
    head = getattr(made.model, "head", None)
    pairs = head.row.anchors if isinstance(head, Head) else ()
    return np.array(pairs, float).reshape(-1, 2), made.spec.preprocessing


def _text(words: str) -> Text:
    """Return words that stand in a table as they are, brackets as well."""
    from rich.text import Text

    return Text(words)


GROUP = Group(
    "Datasets: check, describe, fit anchors, look at, convert, split, merge, sample.",
    {
        "check": Verb(
            "Report everything that is wrong or odd about a dataset; exit code 1 if anything is broken.",
            _declare_check,
            check,
        ),
        "stats": Verb("Draw class counts, box sizes against anchors, and sample images.", _declare_stats, stats),
        "anchors": Verb(
            "Fit anchors to a dataset's boxes, and tell how well they and the model's fit.", _declare_anchors, anchors
        ),
        "show": Verb("Write what a network will see.", _declare_show, show),
        "view": data_view.VERB,
        **data_writing.VERBS,
    },
)
