"""The Exact Fusion Model against its rivals under a head that trains: RTMDet's, on a backbone that has seen COCO.

    python -m research.studies.necks ARCHIVES --sets bccd --seeds 0 1 2
    python -m research.studies.necks --page > docs/claims/efm_modern.md

Every neck gets the same backbone, head, images, augmentation, rate and number of steps; seeds share the order of images
and all draws. A result that is there is left alone, so the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from crossstage import create_model, profile
from research.bench.jobs import Timed, complete, parser_of, timed
from research.bench.sets import prepared
from research.places import RESULTS
from research.studies.paired import paired

RAW = RESULTS / "necks"
BACKBONE, START, HEAD = "cspdarknet53_tiny", "cspdarknet53_tiny_yolo.coco", "rtmdet"
NECKS = {
    "prn": "PRN",
    "prn3l": "PRN-3l",
    "cem": "CEM",
    "cem_sam": "CEM (SAM)",
    "gfm": "GFM",
    "efm": "EFM",
    "efm_sam": "EFM (SAM)",
    "pafpn_slim": "PAFPN, slim",
}
SIZE = 224
EPOCHS = {"bccd": 30, "groceries25": 4}
FLAT = 0.5  # points of AP that the last third of a run may still gain, as a mean over its epochs, to be called flat
# What the paper's table 2 is read for: the second is better than the first, by so many points of AP.
ORDERINGS = (
    *(("prn", "prn3l", 0.6), ("prn3l", "cem", 0.1), ("cem", "cem_sam", 0.3), ("cem_sam", "gfm", 0.2)),
    *(("prn", "efm", 3.3), ("gfm", "efm", 2.1), ("efm", "efm_sam", 0.4)),
)


@dataclass(frozen=True, kw_only=True)
class NeckOutcome(Timed):
    """What a training came to.

    Attributes:
        neck: Name of the neck.
        data: The set.
        seed: The seed.
        curve: AP of the val images after each epoch that measured it, from 0 to 1.
        ap: The best of them, rounded by the run's report.
        ap50: AP at an IoU of 0.5 of the best weights.
        ap75: AP at 0.75 of them.
    """

    neck: str
    data: str
    seed: int
    curve: tuple[float, ...]
    ap: float
    ap50: float
    ap75: float

    @property
    def still_gains(self) -> float:
        """Points of AP that the last third of the curve lies above the third before it."""
        third = max(1, len(self.curve) // 3)
        return 100 * (statistics.fmean(self.curve[-third:]) - statistics.fmean(self.curve[-2 * third : -third]))


def run(neck: str, data: str, seed: int, chosen: argparse.Namespace) -> NeckOutcome:
    """Train a detector with a neck, in a process of its own."""
    listing = prepared(data, chosen.archives, chosen.work / "data")
    name = f"{data}_{neck}_s{seed}"
    words = [sys.executable, "-m", "crossstage", "train", "--data", str(listing), "--imgsz", str(SIZE)]
    words += ["--model", f"{BACKBONE}_{neck}_{HEAD}", "--backbone", START, "--seed", str(seed), "--quiet"]
    words += ["--epochs", str(EPOCHS[data]), "--val-every", "1", "--sample-every", "0", "--workers", "0"]
    words += ["--out", str(chosen.work), "--name", name]
    process = timed(words, chosen.work / f"{name}.log")
    report = json.loads((chosen.work / name / "report.json").read_text())
    with (chosen.work / name / "metrics.csv").open() as file:
        curve = tuple(float(row["AP"]) for row in csv.DictReader(file) if row["AP"])
    figures = {key: report[key] for key in ("ap", "ap50", "ap75")}
    return NeckOutcome(neck=neck, data=data, seed=seed, curve=curve, **asdict(process), **figures)


def outcomes() -> list[NeckOutcome]:
    """Read all results."""
    return [NeckOutcome(**json.loads(path.read_text())) for path in sorted(RAW.glob("*.json"))]


def page() -> str:
    """Return the page of all results."""
    found: dict[str, dict[str, dict[int, NeckOutcome]]] = defaultdict(lambda: defaultdict(dict))
    for outcome in outcomes():
        found[outcome.data][outcome.neck][outcome.seed] = outcome
    lines = [PAGE.format(backbone=BACKBONE, start=START, size=SIZE, flat=FLAT)]
    for data, rows in sorted(found.items()):
        lines += ["", f"## {data}", "", *_table(rows), "", *_readings(rows)]
    return "\n".join(lines)


def _table(rows: Mapping[str, Mapping[int, NeckOutcome]]) -> list[str]:
    lines = ["| neck | seeds | AP | AP50 | AP75 | gains at the end | GFLOPs | CPU s |", "|---|" + "---:|" * 7]
    for neck in (neck for neck in NECKS if neck in rows):
        runs = list(rows[neck].values())
        cost = profile(create_model(f"{BACKBONE}_{neck}_{HEAD}", num_classes=3), SIZE)
        aps = [100 * run.ap for run in runs]
        spread = f" ({min(aps):.1f} to {max(aps):.1f})" if len(aps) > 1 else ""
        gains = statistics.fmean(run.still_gains for run in runs)
        cells = (
            NECKS[neck],
            str(len(runs)),
            f"{statistics.fmean(aps):.1f}{spread}",
            *(f"{100 * statistics.fmean(getattr(run, key) for run in runs):.1f}" for key in ("ap50", "ap75")),
            f"{gains:+.1f}{'' if gains <= FLAT else ', not flat'}",
            f"{2 * cost.macs / 1e9:.2f}",
            f"{statistics.fmean(run.cpu_seconds for run in runs):.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _readings(rows: Mapping[str, Mapping[int, NeckOutcome]]) -> list[str]:
    lines = ["| claim | published | here, 95% interval | |", "|---|---:|---:|---|"]
    for worse, better, published in ORDERINGS:
        shared = sorted(rows.get(worse, {}).keys() & rows.get(better, {}).keys())
        if shared:
            gain = paired([100 * (rows[better][seed].ap - rows[worse][seed].ap) for seed in shared])
            lines.append(f"| {NECKS[better]} above {NECKS[worse]} | {published:+.1f} | {gain} | {gain.verdict} |")
    return lines


PAGE = """\
# The Exact Fusion Model against its rivals, under a head that trains

Written by `python -m research.studies.necks --page` from [the raw results](../results/necks), each of which names its
command, machine and seconds. Table 2 of the CSPNet paper compares necks on CSPPeleeNet under YOLOv3's head after
500,000 steps on COCO; [here](efm.md) is what a training with that head said that was too short to order them.
These runs put all of them between {backbone}, which starts from `{start}`, and RTMDet's head, at {size} pixels.

A verdict follows from the interval of the paired differences by Student's t: "supported" if it lies above 0,
"contradicted" if below, else "undecided". "Gains at the end" are the points that the last third of a run's epochs lies
above the third before it, on average; up to {flat} a curve is called flat."""


def main() -> None:
    """Run what is missing, or print the page."""
    chosen = parser_of(__doc__, "runs/necks", list(EPOCHS), list(NECKS)).parse_args()
    if chosen.page:
        print(page())
    else:
        complete(RAW, chosen, run, lambda outcome: f"AP {100 * outcome.ap:.1f}")


if __name__ == "__main__":
    main()
