"""What a run leaves behind besides its weights: figures, plots, sample images, a model card."""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from crossstage.data.records import ClassificationData, Dataset, DetectionData
from crossstage.errors import DataError
from crossstage.evaluation import ClassificationReport, CocoReport, Measured, confidence_curves, thresholds_of
from crossstage.evaluation.plots import CONFIDENCE, as_detections, plot_history, save
from crossstage.evaluation.saving import save_classified, save_measured
from crossstage.files import write_text
from crossstage.inference.drawing import draw, write_sheet
from crossstage.inference.images import Pixels, load_image
from crossstage.machine import processor
from crossstage.models.spec import ModelSpec
from crossstage.training.checkpoint import Progress
from crossstage.training.options import RunOptions
from crossstage.training.tasks import Scores
from crossstage.version import __version__

SAMPLES = 12
TILE = 320  # pixels


def write_metrics(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Write one line for each epoch, all of them each time, so that a run that was interrupted has none twice."""
    names = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in history)
    write_text(path, text.getvalue())


def write_artefacts(
    folder: Path, spec: ModelSpec, options: RunOptions, progress: Progress, val: Dataset, scores: Scores
) -> None:
    """Write report, curves, confusion matrix, sample predictions and model card of the best weights."""
    report = replace(scores.report, model=options.name or folder.name)
    save(plot_history(progress.history), folder / "curves.png")
    if isinstance(report, CocoReport):
        assert isinstance(val, DetectionData)
        curves = confidence_curves(scores.found, val)
        report = replace(report, confidence=thresholds_of(curves))
        save_measured(Measured(report, scores.found, curves), val, folder)
    else:
        assert isinstance(val, ClassificationData)
        save_classified(report, [entry for _, entry in scores.found], val, folder)
    rows = _class_rows(report)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(folder / "per_class.csv", text.getvalue())
    sample_images(folder / "samples" / "best.jpg", val, scores)
    write_text(folder / "README.md", _card(spec, options, progress, scores, rows))


def sample_images(path: Path, dataset: Dataset, scores: Scores) -> None:
    """Draw what the model finds in some of the val images, on one sheet."""
    tiles = (
        _detection_tiles(dataset, scores)
        if isinstance(dataset, DetectionData)
        else _classification_tiles(dataset, scores)
    )
    if tiles:
        write_sheet(path, tiles, TILE)


def _spread(count: int) -> list[int]:
    """Return positions of some images, evenly over all."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, SAMPLES))})


def _detection_tiles(dataset: DetectionData, scores: Scores) -> list[Pixels]:
    tiles = []
    for position in _spread(len(dataset.images)):
        image = dataset.images[position]
        mine = [e for e in scores.found if e["image_id"] == image.id and e["score"] >= CONFIDENCE]
        if (pixels := _readable(image.path)) is not None:
            tiles.append(draw(pixels, as_detections(mine, dataset)))
    return tiles


def _readable(image: Path | bytes) -> Pixels | None:
    """Read an image as far as it goes; None for one that is lost by now."""
    try:
        return load_image(image, repair=True)
    except DataError:
        return None


def _classification_tiles(dataset: ClassificationData, scores: Scores) -> list[Pixels]:
    from PIL import ImageDraw

    tiles = []
    for position in _spread(len(dataset.labels)):
        _, (ids, probabilities) = scores.found[position]
        if (pixels := _readable(dataset.images[position])) is None:
            continue
        tile = Image.fromarray(pixels)
        ratio = (TILE - 24) / max(tile.size)
        tile = tile.resize((max(1, round(tile.width * ratio)), max(1, round(tile.height * ratio))))
        framed = Image.new("RGB", (TILE, TILE), "white")
        framed.paste(tile, (0, 24))
        true, taken = dataset.class_names[dataset.labels[position]], dataset.class_names[ids[0]]
        text = f"{taken} {probabilities[0]:.2f}" + ("" if true == taken else f", is {true}")
        ImageDraw.Draw(framed).text((4, 6), text, fill="green" if true == taken else "red")
        tiles.append(np.asarray(framed))
    return tiles


def _class_rows(report: CocoReport | ClassificationReport) -> list[list[str]]:
    if isinstance(report, CocoReport):
        masks = report.masks is not None
        limits = report.confidence.classes if report.confidence else ()
        columns = ["class", "images", "boxes", "AP", "AP50", *(["mask AP", "mask AP50"] if masks else [])]
        rows = [[*columns, *(["conf", "F1"] if limits else [])]]
        for number, c in enumerate(report.classes):
            figures = [c.ap, c.ap50, *([c.mask_ap, c.mask_ap50] if masks else [])]
            row = [c.name, str(c.images), str(c.boxes), *map(_percent, figures)]
            if limits:
                best = limits[number]
                row += ["" if best.threshold is None else f"{best.threshold:.3g}", _percent(best.f1)]
            rows.append(row)
        return rows
    rows = [["class", "images", "recall", "precision"]]
    return rows + [[c.name, str(c.images), _percent(c.recall), _percent(c.precision)] for c in report.classes]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _card(
    spec: ModelSpec, options: RunOptions, progress: Progress, scores: Scores, rows: Sequence[Sequence[str]]
) -> str:
    """Return a model card: what it is, how good, how it was made, how to use it."""
    assert spec.preprocessing
    figures = ", ".join(f"{name} {100 * value:.1f}" for name, value in scores.metrics.items())
    table = "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])
    size = spec.preprocessing.size
    plots = ["curves.png", "confidence.png", "confusion.png"] + (
        ["pr_curve.png"] if isinstance(scores.report, CocoReport) else []
    )
    images = "\n".join(f"![{plot.removesuffix('.png')}]({plot})" for plot in plots)
    return f"""# {options.name or spec.name}

{spec.name}, trained from {options.model} on {options.data} for {len(progress.history)} of {options.epochs} epochs.
The best weights are those of epoch {progress.best_epoch + 1}: **{figures}** (percent).

Input {size[0]} x {size[1]}, {spec.preprocessing.resize}; {spec.num_classes} classes: {", ".join(spec.class_names)}.

    crossstage predict photo.jpg --model path/to/this/folder

{table}

{images}

Sample predictions: [samples/best.jpg](samples/best.jpg). All figures: metrics.csv, report.json. To run it again:
`crossstage train --config config.yaml`.

Trained in {progress.seconds / 60:.1f} minutes on {_machine(options)}, finished {datetime.now(UTC):%Y-%m-%d}; crossstage
{__version__}, torch {torch.__version__}, Python {platform.python_version()}. {progress.skipped} steps skipped.

The licence of these weights is yours to state; mind that of the training data and of the weights it started from.
"""


def _machine(options: RunOptions) -> str:
    if torch.cuda.is_available() and options.accelerator != "cpu":
        return f"{options.world} x {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} threads of a CPU ({processor()})"
