"""Table 2 of the CSPNet paper at a small scale: eight necks on CSPPeleeNet, trained alike on groceries25.

    python -m research.studies.efm train DATA BACKBONE OUT --seeds 0
    python -m research.studies.efm train DATA BACKBONE OUT --seeds 0 --fit-anchors --heads PRN EFM "EFM (GIoU)"
    python -m research.studies.efm report OUT > docs/claims/efm.md

BACKBONE is a trained csppeleenet, such as the run of docs/results/imagenette.md; a run that is there already is left
alone. The report times the detectors on the machine it runs on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch

from crossstage import TrainOptions, create_model, fuse, load, train
from crossstage.data.anchors import scaled_sizes
from crossstage.data.augment import Augmentation
from crossstage.data.find import find_data, training_parts
from crossstage.data.records import DetectionData
from crossstage.models.composed import ComposedDetector
from crossstage.models.heads.yolo import YoloHead
from crossstage.ops.boxes import shape_iou
from crossstage.training.options import METHOD
from research.bench.timing import machine, medians
from research.claims.detectors import TABLE_2, NeckRow


@dataclass(frozen=True)
class NeckTraining:
    """A training for a row of the paper's table 2.

    Attributes:
        published: The row.
        box: Loss of boxes.
    """

    published: NeckRow
    box: str

    @property
    def head(self) -> str:
        """As the paper calls it."""
        return self.published.model

    @property
    def model(self) -> str:
        """Our detector."""
        return self.published.ours

    def run(self, seed: int, *, fitted: bool = False) -> str:
        """Name of its run."""
        return f"{self.model}_{self.box}{'_fitted' * fitted}_s{seed}"


ROWS = tuple(NeckTraining(row, "giou" if "GIoU" in row.model else "mse") for row in TABLE_2 if row.act is None)
METRICS = ("AP", "AP50", "AP75")
# What the table is read for: the second is better than the first.
ORDERINGS = (
    *(("PRN", "PRN-3l", "AP"), ("PRN-3l", "CEM", "AP"), ("CEM", "CEM (SAM)", "AP"), ("CEM (SAM)", "GFM", "AP")),
    *(("PRN", "EFM", "AP"), ("GFM", "EFM", "AP"), ("EFM", "EFM (SAM)", "AP"), ("EFM (SPP)", "EFM", "AP")),
    *(("EFM", "EFM (GIoU)", "AP"), ("EFM", "EFM (GIoU)", "AP75"), ("EFM (GIoU)", "EFM", "AP50")),
)


def options(
    row: NeckTraining, seed: int, data: str, backbone: str, out: str, epochs: int, *, fitted: bool
) -> TrainOptions:
    """One training; they differ in detector, loss of boxes and seed alone, and in whether anchors are fitted."""
    gain = 1.0 if row.box == "mse" else 3.0
    return TrainOptions(
        model=row.model,
        data=data,
        backbone=backbone,
        epochs=epochs,
        imgsz=224,
        batch=16,
        lr=0.01,
        seed=seed,
        val_every=1,
        **{**METHOD, "fit_anchors": fitted},
        sample_every=0,
        augment=Augmentation(mosaic=0),
        loss={"assign": "best", "box": row.box, "box_gain": gain},
        out=out,
        name=row.run(seed, fitted=fitted),
    )


def seeds_in(out: Path) -> list[int]:
    """Seeds of which every row is there."""
    found = {int(path.name.rpartition("_s")[2]) for path in out.glob("*_s*")}
    return [seed for seed in sorted(found) if all((out / row.run(seed) / "report.json").is_file() for row in ROWS)]


def scores(run: Path) -> dict[str, float]:
    """A run's metrics in percent."""
    report = json.loads((run / "report.json").read_text())
    return {metric: 100 * report[metric.lower()] for metric in METRICS}


def latencies(size: int = 416, rounds: int = 31) -> dict[str, float]:
    """Median milliseconds of each detector's forward pass, fused, one image, in turns."""
    x = torch.rand(1, 3, size, size)
    models = {row.model: fuse(create_model(row.model).eval()) for row in ROWS}
    with torch.inference_mode():
        return medians({name: (lambda model=model: model(x)) for name, model in models.items()}, rounds)


def by_level(run: Path) -> list[float]:
    """Shares of the training images' objects by the level of the prior that each gets."""
    detector = load(run)
    assert isinstance(detector, ComposedDetector)
    chosen = TrainOptions.from_yaml(run / "config.yaml")
    learned, _, _ = training_parts(find_data(chosen.data))
    assert isinstance(learned.data, DetectionData)
    sizes = torch.as_tensor(scaled_sizes(learned.data, detector.preprocessing)).float()
    assert isinstance(detector.head, YoloHead)
    levels = detector.head.levels
    overlaps = shape_iou(sizes, torch.tensor([anchor for level in levels for anchor in level.anchors]))
    best = overlaps.argmax(1)
    ends = list(accumulate(len(level.anchors) for level in levels))
    return [
        ((best >= end - len(level.anchors)) & (best < end)).float().mean().item()
        for level, end in zip(levels, ends, strict=True)
    ]


def shown(values: list[float]) -> str:
    """A mean, and half the range of several."""
    spread = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


ScoresByHead = dict[str, list[dict[str, float]]]  # by head, a run's metrics for each seed


def table(found: ScoresByHead) -> list[str]:
    """Accuracy and latency beside the published ones."""
    times = latencies()
    first = ROWS[0]
    lines = [
        "| head | AP, AP50, AP75 published | AP | AP50 | AP75 | ms | to PRN | published, from FPS |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in ROWS:
        cells = [
            ", ".join(map(str, row.published.ap)),
            *(shown([run[metric] for run in found[row.head]]) for metric in METRICS),
            f"{times[row.model]:.1f}",
            f"{times[row.model] / times[first.model]:.2f}",
            f"{first.published.fps / row.published.fps:.2f}",
        ]
        lines.append(f"| {row.head} | {' | '.join(cells)} |")
    return lines


def readings(found: ScoresByHead) -> list[str]:
    """What the paper's table is read for, and whether it holds here."""
    lines = []
    for worse, better, metric in ORDERINGS:
        published = {row.head: row.published.ap[METRICS.index(metric)] for row in ROWS}
        gains = [b[metric] - a[metric] for a, b in zip(found[worse], found[better], strict=True)]
        agree = sum(gain > 0 for gain in gains)
        verdict = "holds" if agree == len(gains) else "does not hold" if agree == 0 else "differs by seed"
        cells = (
            f"{metric}: {better} above {worse}",
            f"{published[better] - published[worse]:+.1f}",
            ", ".join(f"{gain:+.1f}" for gain in gains),
            verdict,
        )
        lines.append(f"| {' | '.join(cells)} |")
    held = sum(line.endswith("| holds |") for line in lines)
    head = ["| claim | published | here | |", "|---|---:|---:|---|"]
    return [*head, *lines, "", f"{held} of {len(lines)} hold at this budget."]


def anchors(out: Path, found: ScoresByHead, seeds: list[int]) -> list[str]:
    """What fitting the anchors to the data changes, for the rows of which there are such runs."""
    lines = [
        "| head | AP, COCO's anchors | AP, fitted | levels, COCO's | levels, fitted |",
        "|---|---:|---:|---|---|",
    ]
    for row in ROWS:
        pairs = [
            (given, fitted)
            for seed, given in zip(seeds, found[row.head], strict=True)
            if ((fitted := out / row.run(seed, fitted=True)) / "report.json").is_file()
        ]
        if pairs:
            cells = [shown([given["AP"] for given, _ in pairs]), shown([scores(fitted)["AP"] for _, fitted in pairs])]
            cells += [
                " / ".join(f"{share:.0%}" for share in by_level(run)) for run in (out / row.run(seeds[0]), pairs[0][1])
            ]
            lines.append(f"| {row.head} | {' | '.join(cells)} |")
    return lines


def report(out: Path) -> None:
    """Print the page."""
    seeds = seeds_in(out)
    found = {row.head: [scores(out / row.run(seed)) for seed in seeds] for row in ROWS}
    epochs = TrainOptions.from_yaml(out / ROWS[0].run(seeds[0]) / "config.yaml").epochs or 0
    head = HEAD.format(epochs=epochs, steps=epochs * 246, seeds=", ".join(map(str, seeds)), machine=machine())
    print("\n".join((head, *table(found), "", "## What the table is read for", "", *readings(found))))
    print("\n".join((FITTED, *anchors(out, found, seeds))))


FITTED = """
## Anchors

Which level an object belongs to is up to the anchors. COCO's leave the finest level of a three-level neck next to
nothing of groceries25, whose objects are large; anchors fitted to it (`--fit-anchors`) share them out. AP, and the
shares of the training images' objects by level, fine to coarse (of the seeds that were trained with both):
"""
HEAD = """\
# The Exact Fusion Model at a small scale

Written by `python -m research.studies.efm report`, whose `train` ran the trainings. Table 2 of the CSPNet paper
compares necks on CSPPeleeNet after 500,000 steps on COCO. Here each neck was trained alike on groceries25 (3,921
images, 25 classes, measured on 1,018 others): {epochs} epochs at 224 pixels, batch 16, from a CSPPeleeNet that had seen
12 epochs of imagenette128, COCO's anchors, one prior for each ground truth, squared errors of boxes but where GIoU is
named; seeds {seeds}. **That is a reduced budget on a CPU: {steps} steps of 16 images, against 500,000 of 64.**
Differences of a point or so are within what another seed changes (± is half the range of the seeds), and levels say
nothing of a full training.

Milliseconds are medians of forward passes of one image of 416 pixels, fused, all detectors in turns: {machine}.
The last columns set them and the published frames a second (GTX 1080 Ti) in relation to PRN's.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train")
    for name in ("data", "backbone", "out"):
        training.add_argument(name)
    training.add_argument("--seeds", type=int, nargs="+", default=[0])
    training.add_argument("--epochs", type=int, default=3)
    training.add_argument("--fit-anchors", action="store_true")
    training.add_argument("--heads", nargs="+", choices=[row.head for row in ROWS], default=[row.head for row in ROWS])
    verbs.add_parser("report").add_argument("out")
    chosen = parser.parse_args()
    if chosen.verb == "report":
        report(Path(chosen.out))
        return
    fitted = chosen.fit_anchors
    for seed in chosen.seeds:
        for row in ROWS:
            if row.head in chosen.heads and not (Path(chosen.out) / row.run(seed, fitted=fitted)).exists():
                train(options(row, seed, chosen.data, chosen.backbone, chosen.out, chosen.epochs, fitted=fitted))


if __name__ == "__main__":
    main()
