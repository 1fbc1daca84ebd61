"""Average precision of the shipped detector, of the weights it was made from, and of the same network in OpenCV.

    python -m research.bench.accuracy ../shared/data/coco256/coco256.tar ../shared/weights/yolov4-tiny.weights

All get the same pixels, thresholds and suppression. Prints the table of docs/tables/accuracy.md.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from crossstage.data.formats.coco import find_coco
from crossstage.evaluation import CocoReport, evaluate
from crossstage.models.composed import ComposedDetector
from crossstage.weights.from_darknet import load_darknet
from crossstage.weights.loading import create_model, load_detector
from research.bench.peers import OpenCVDetector
from research.places import EXAMPLES

NAME = "cspdarknet53_tiny_yolo"
CFG = EXAMPLES / "darknet" / "yolov4-tiny.cfg"


def reports(archive: Path, weights: Path) -> dict[str, CocoReport]:
    """Score every variant on the validation part of coco256."""
    shipped = load_detector(f"{NAME}.coco")
    full = create_model(NAME, class_names=shipped.class_names)
    load_darknet(full, NAME, weights)
    assert isinstance(full, ComposedDetector)
    letterboxed = load_detector(f"{NAME}.coco")
    letterboxed.preprocessing = replace(shipped.preprocessing, resize="letterbox")
    variants = {
        "shipped (float16 file)": shipped,
        "Darknet weights (float32)": full,
        "OpenCV DNN": OpenCVDetector(CFG, weights, full),
        "shipped, letterboxed": letterboxed,
    }
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
        dataset = find_coco(Path(folder), split="val")
        return {name: evaluate(model, dataset, progress=True) for name, model in variants.items()}


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    table = Table(box=None)
    metrics = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
    for column in ("model", *metrics, "forward ms"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, report in reports(Path(sys.argv[1]), Path(sys.argv[2])).items():
        values = [f"{100 * (getattr(report, metric) or 0):.2f}" for metric in metrics]
        table.add_row(name, *values, f"{report.milliseconds['forward']:.1f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
