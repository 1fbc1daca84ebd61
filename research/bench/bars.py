"""Trainings of ours and of the peers side by side: the same images, input size, processor and clock.

    python -m research.bench.bars ARCHIVES --sets bccd people --jobs ours yolo11n --seeds 0 1 2 --ultralytics PYTHON
    python -m research.bench.bars --page > docs/results/bars.md

A training runs in a process of its own, jobs take turns within a seed, and a result that is there already is left
alone, so that the command goes on where it was stopped. Peers run in the Python that is named, from an environment of
their own. What they find in the val images, at a score of 0.001 and an IoU of 0.7, as they measure themselves, is
scored by the very function that scores ours; all of a training's time counts, from the start of the process to its end.
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

from crossstage import load, profile
from crossstage.data.find import find_data
from crossstage.data.records import DetectionData
from crossstage.evaluation import coco_metrics, coco_result, evaluate
from research.bench.jobs import Timed, complete, parser_of, timed
from research.bench.sets import SETS, prepared
from research.places import RESULTS, ROOT

RAW = RESULTS / "bars"
SIZES = {"bccd": 320, "people": 320, "groceries25": 224}
PEERS = ROOT / "research" / "bench" / "peer_runs"


@dataclass(frozen=True)
class Job:
    """One trainer and how it is called.

    Attributes:
        label: What tables call it.
        peer: File of the peer's script; empty for ours.
        model: The peer's model, or our ``--model``; empty takes what the plan takes.
        options: Further words of our command line.
    """

    label: str
    peer: str = ""
    model: str = ""
    options: tuple[str, ...] = ()


JOBS = {
    "ours_scratch": Job("ours, from scratch", model="cspdarknet_x_micro_pafpn_rtmdet"),
    "ours": Job("ours, default"),
    "yolo11n": Job("ultralytics yolo11n, from scratch", "ultralytics_run.py", "yolo11n.yaml"),
    "yolo26n": Job("ultralytics yolo26n, from scratch", "ultralytics_run.py", "yolo26n.yaml"),
    "libre_yolox_n": Job("LibreYOLO YOLOX-nano, from scratch", "libreyolo_run.py", "LibreYOLOX:n"),
    "libre_yolov9_t": Job("LibreYOLO YOLOv9-t, from scratch", "libreyolo_run.py", "LibreYOLO9:t"),
}
EPOCHS = {"bccd": 60, "people": 100, "groceries25": 10}


@dataclass(frozen=True, kw_only=True)
class Outcome(Timed):
    """What a training came to.

    Attributes:
        job: Key of the job.
        data: The set.
        seed: The seed.
        ap: COCO's average precision of the val images, best weights, from 0 to 1.
        ap50: The same at an IoU of 0.5.
        ap75: The same at 0.75.
        epochs: Epochs trained.
        parameters: Parameters of the network as it is used.
        gflops: Twice its multiply-adds at the input's size, in 10^9.
    """

    job: str
    data: str
    seed: int
    ap: float
    ap50: float
    ap75: float
    epochs: int
    parameters: int
    gflops: float


def run(job: str, data: str, seed: int, chosen: argparse.Namespace) -> Outcome:
    """Train, and score the best weights on the val images."""
    base = data.partition("@")[0]
    listing = prepared(data, chosen.archives, chosen.work / "data")
    folder = chosen.work / f"{data}_{job}_s{seed}"
    what, size = JOBS[job], SIZES[base]
    epochs = chosen.epochs or EPOCHS[base]
    if what.peer:
        python = {"ultralytics_run.py": chosen.ultralytics, "libreyolo_run.py": chosen.libreyolo}[what.peer]
        words = [python, str(PEERS / what.peer), what.model, str(listing), str(folder)]
        words += [str(value) for value in (size, epochs, seed)]
    else:
        words = [sys.executable, "-m", "crossstage", "train", "--data", str(listing), "--imgsz", str(size)]
        words += ["--seed", str(seed), "--out", str(folder.parent), "--name", folder.name, "--quiet", *what.options]
        words += ["--minutes", str(chosen.minutes)] if chosen.minutes else []
        words += ["--model", what.model] if what.model else []
    process = timed(words, chosen.work / f"{folder.name}.log")
    figures = _peers_figures(folder, listing) if what.peer else _our_figures(folder, listing, size)
    return Outcome(job=job, data=data, seed=seed, **asdict(process), **figures)


def _val(listing: Path) -> DetectionData:
    found = find_data(str(listing)).read("val")
    assert isinstance(found, DetectionData)
    return found


def _our_figures(folder: Path, listing: Path, size: int) -> dict[str, Any]:
    model: Any = load(str(folder))
    report = evaluate(model, _val(listing))
    cost = profile(model, size)
    history = (folder / "metrics.csv").read_text().splitlines()
    return {
        **_aps(report),
        "epochs": len(history) - 1,
        "parameters": cost.parameters,
        "gflops": 2 * cost.macs / 1e9,
    }


def _peers_figures(folder: Path, listing: Path) -> dict[str, Any]:
    """Score what a peer's script left: its detections by file name, and what it says of its network."""
    found = json.loads((folder / "found.json").read_text())
    val = _val(listing)
    ids = {image.path.name: image.id for image in val.images}
    categories = sorted(val.categories)
    results = [
        coco_result(ids[name], categories[number], box, score)
        for name, entries in found["detections"].items()
        for *box, score, number in entries
    ]
    report = coco_metrics(results, val)
    return {**_aps(report), **{name: found[name] for name in ("epochs", "parameters", "gflops")}}


def _aps(report: Any) -> dict[str, float]:
    return {name: getattr(report, name) or 0.0 for name in ("ap", "ap50", "ap75")}


def outcomes() -> list[Outcome]:
    """Read all results."""
    return [Outcome(**json.loads(path.read_text())) for path in sorted(RAW.glob("*.json"))]


def page() -> str:
    """Return the page of all results."""
    groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes():
        groups[outcome.data, outcome.job].append(outcome)
    lines = [
        "# Ours beside the peers",
        "",
        "Written by `python -m research.bench.bars --page` from [the raw results](bars). Medians over seeds (least to",
        "most); minutes are of the whole process, CPU seconds of it and its workers, on the machine that each raw",
        "result names.",
    ]
    for data in sorted({key[0] for key in groups}):
        lines += ["", f"## {data}", ""]
        lines += ["| | seeds | AP | AP50 | minutes | CPU s | epochs | parameters M | GFLOPs |", "|---|" + "---:|" * 8]
        rows = sorted((entry for key, entry in groups.items() if key[0] == data), key=lambda x: -_median(x, "ap"))
        for entry in rows:
            aps = [100 * outcome.ap for outcome in entry]
            spread = f" ({min(aps):.1f} to {max(aps):.1f})" if len(aps) > 1 else ""
            cells = [
                JOBS[entry[0].job].label if entry[0].job in JOBS else entry[0].job,
                str(len(entry)),
                f"{statistics.median(aps):.1f}{spread}",
                f"{100 * _median(entry, 'ap50'):.1f}",
                f"{_median(entry, 'seconds') / 60:.1f}",
                f"{_median(entry, 'cpu_seconds'):.0f}",
                f"{_median(entry, 'epochs'):.0f}",
                f"{_median(entry, 'parameters') / 1e6:.2f}",
                f"{gflops:.2f}" if (gflops := _median(entry, "gflops")) else "not told",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _median(entries: list[Outcome], name: str) -> float:
    return statistics.median(getattr(entry, name) for entry in entries)


def main() -> None:
    """Run what is missing, or print the page."""
    parser = parser_of(__doc__, "runs/bars", list(SETS), list(JOBS))
    parser.add_argument("--minutes", type=float, help="what ours may take; by default what its plan takes")
    parser.add_argument("--epochs", type=int, help="of the peers")
    parser.add_argument("--ultralytics", default="", help="the Python that has ultralytics")
    parser.add_argument("--libreyolo", default="", help="the Python that has LibreYOLO")
    chosen = parser.parse_args()
    if chosen.page:
        print(page())
    else:
        complete(RAW, chosen, run, lambda outcome: f"AP {100 * outcome.ap:.1f} in {outcome.seconds / 60:.1f} min")


if __name__ == "__main__":
    main()
