"""Classifiers trained by the default command, from scratch, and by torchvision's usual loop on the same weights.

    python -m research.bench.classifiers ARCHIVES --sets groceries25@10.0 cifar10@50.0 --seeds 0 1 2
    python -m research.bench.classifiers --page > docs/results/classifiers.md

A training runs in a process of its own, jobs take turns within a seed, and a result that is there already is left
alone, so that the command goes on where it was stopped. torchvision's loop and the training from scratch get the input
size that the default command chose, and torchvision's its number of epochs; all are scored on the same val images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from research.bench.class_sets import prepared
from research.bench.jobs import Timed, complete, parser_of, path_of, timed
from research.places import RESULTS, ROOT

RAW = RESULTS / "classifiers"
START = "efficientnet_lite0.in1k"
LOOP = ROOT / "research" / "bench" / "peer_runs" / "torchvision_run.py"
SETS = [f"{name}@{count}.0" for count in (10, 50) for name in ("groceries25", "cifar10")] + ["groceries25", "cifar10"]


@dataclass(frozen=True)
class Job:
    """One way of training.

    Attributes:
        label: What tables call it.
        words: Further words of our command line, or optimiser and rate of torchvision's loop.
        ours: Whether it is our command.
    """

    label: str
    words: tuple[str, ...] = ()
    ours: bool = True


JOBS = {
    "ours": Job("`crossstage train --data`"),
    "scratch": Job("the same network from scratch", ("--model", START.partition(".")[0])),
    "tv_sgd": Job("torchvision's loop, SGD 0.001", ("sgd", "0.001"), ours=False),
    "tv_sgd_fast": Job("torchvision's loop, SGD 0.01", ("sgd", "0.01"), ours=False),
    "tv_adamw": Job("torchvision's loop, AdamW 0.001", ("adamw", "0.001"), ours=False),
}
"""Our default command comes first: the others take its input size and epochs."""


@dataclass(frozen=True, kw_only=True)
class Outcome(Timed):
    """What a training came to.

    Attributes:
        job: Key of the job.
        data: The set.
        seed: The seed.
        top1: Share of the val images whose class is found, by the best epoch's weights.
        side: Side of the input in pixels.
        epochs: Epochs trained.
    """

    job: str
    data: str
    seed: int
    top1: float
    side: int
    epochs: int


def run(job: str, data: str, seed: int, chosen: argparse.Namespace) -> Outcome:
    """Train, and read how well the best weights do.

    Raises:
        SystemExit: Our own training, which the others follow, has no result yet.
    """
    folder = chosen.work / f"{data}_{job}_s{seed}"
    images = prepared(data, chosen.archives, chosen.work / "data")
    words = [sys.executable]
    if JOBS[job].ours:
        words += ["-m", "crossstage", "train", "--data", str(images), "--seed", str(seed)]
        words += ["--out", str(folder.parent), "--name", folder.name, "--quiet", *JOBS[job].words]
        words += [] if job == "ours" else ["--imgsz", str(followed(data, seed).side)]
    else:
        ours = followed(data, seed)
        words += [str(LOOP), START, str(images), f"{folder}.json", str(ours.side), str(ours.epochs), str(seed)]
        words += JOBS[job].words
    process = timed(words, chosen.work / f"{folder.name}.log")
    figures = _figures(folder) if JOBS[job].ours else json.loads(Path(f"{folder}.json").read_text())
    side = figures["side"] if JOBS[job].ours else followed(data, seed).side
    epochs, top1 = figures["epochs"], figures["top1"]
    return Outcome(job=job, data=data, seed=seed, top1=top1, side=side, epochs=epochs, **asdict(process))


def followed(data: str, seed: int) -> Outcome:
    """Return the result of our default command, whose input size and epochs the others take.

    Raises:
        SystemExit: There is none.
    """
    path = path_of(RAW, "ours", data, seed)
    if not path.exists():
        raise SystemExit(f"{path}: not there; the job 'ours' runs first")
    return Outcome(**json.loads(path.read_text()))


def _figures(folder: Path) -> dict[str, Any]:
    """Read a run's folder."""
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("top1")
    scores = [float(row.split(",")[column]) for row in rows if row.split(",")[column]]
    side = yaml.safe_load((folder / "config.yaml").read_text())["imgsz"]
    return {"top1": max(scores), "epochs": len(rows), "side": side if isinstance(side, int) else side[0]}


def page() -> str:
    """Return the page of all results."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for path in sorted(RAW.glob("*.json")):
        outcome = Outcome(**json.loads(path.read_text()))
        groups[outcome.data, outcome.job].append(outcome)
    lines = [
        "# Classifiers: ours, from scratch, and torchvision's loop",
        "",
        "Written by `python -m research.bench.classifiers --page` from [the raw results](classifiers).",
        "EfficientNet-Lite0; `name@10` has ten training images of each class. Accuracy on 1,000 val images in percent,",
        "medians over seeds (least to most); seconds are of the whole process, measurements included.",
        "",
        "| set | training | seeds | top-1 | input | epochs | seconds | CPU s |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for data in sorted({key[0] for key in groups}):
        for job in (name for name in JOBS if (data, name) in groups):
            entries = groups[data, job]
            scores = [100 * entry.top1 for entry in entries]
            spread = f" ({min(scores):.1f} to {max(scores):.1f})" if len(scores) > 1 else ""
            cells = [data, JOBS[job].label, str(len(entries)), f"{statistics.median(scores):.1f}{spread}"]
            cells += [str(entries[0].side), str(entries[0].epochs)]
            cells += [
                f"{statistics.median(getattr(e, key) for e in entries):.0f}" for key in ("seconds", "cpu_seconds")
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or print the page."""
    chosen = parser_of(__doc__, "runs/classifiers", SETS, list(JOBS)).parse_args()
    if chosen.page:
        print(page())
    else:
        complete(RAW, chosen, run, lambda outcome: f"{100 * outcome.top1:.1f} in {outcome.seconds:.0f} s")


if __name__ == "__main__":
    main()
