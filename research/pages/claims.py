"""The ledger of claims: count, gather what the studies measured, and write docs/claims/claims.yaml and index.md.

    python -m research.pages.claims

Structural claims are counted anew. Empirical and speed claims take what the studies left in docs/claims: ablation.json,
osa.json, gradients.md, efm.md, relative_speed.json, speed.json; where a file is missing the ledger keeps what it has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from crossstage.deploy.benchmark.peers import DARKNET, PINNED
from crossstage.files import write_text
from research.bench import claims_speed
from research.claims.detectors import TABLE_2
from research.claims.ledger import LEDGER, Claim, Found, Value, ledger_text, read_ledger
from research.claims.networks import TABLE_1
from research.claims.page import ledger_page
from research.claims.structural import rerun
from research.places import CLAIMS

Key = tuple[str, str]  # a claim's id and kind

ABLATION = {  # claims on accuracy, and the rows of table 1 that are compared with PeleeNet
    "csp-peleenet-top1": "CSPPeleeNet, γ 0.5",
    "csp-fusion-last-top1": "fusion last, γ 0.5",
    "csp-fusion-first-top1": "fusion first, γ 0.5",
    "csp-gamma25-top1": "CSPPeleeNet, γ 0.25",
    "fusion-last-gamma25-top1": "fusion last, γ 0.25",
    "peleenext": "PeleeNeXt (grouped)",
    "speleenet": "SPeleeNet (sparse)",
}
OPENCV = {DARKNET: "", PINNED: ", threads bound"}
OSA = {"osa-12": "OSA, 12 layers of 20", "osa-5x43": "OSA, 5 layers of 43"}


def by_seed(results: Mapping[str, Any], label: str, figure: Callable[[Any], float]) -> dict[int, float]:
    """A figure of each complete run of a network."""
    runs = [run for run in results["runs"] if run["label"] == label and len(run["accuracy"]) == results["epochs"]]
    return {run["seed"]: figure(run) for run in runs}


def differences(
    results: Mapping[str, Any], label: str, other: str, figure: Callable[[Any], float]
) -> tuple[float, ...] | None:
    """A network's figure less another's, for each seed that both have; None without one."""
    ours, theirs = (by_seed(results, name, figure) for name in (label, other))
    return tuple(ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())) or None


def accuracy(run: Mapping[str, Any]) -> float:
    """Of the last epoch, in percent."""
    return 100 * run["accuracy"][-1]


def ablation(file: Path) -> dict[Key, Found]:
    """Accuracy against PeleeNet's."""
    results, rows = json.loads(file.read_text()), {row.model: row.top1 for row in TABLE_1}
    plain, found = TABLE_1[0], {}
    for claim, label in ABLATION.items():
        published = rows[label]
        assert published is not None and plain.top1 is not None
        ours = differences(results, label, plain.model, accuracy)
        found[claim, "empirical"] = {"top-1": Value(published - plain.top1, ours)}
    return found


def middle_layers(run: Mapping[str, Any]) -> float:
    """Mean weight of a block's middle layers in its last reader, in units of the largest there, over the blocks."""
    means = []
    for block in run["norms"]:
        column = np.array(block["values"], float)[:, -1]
        column = column[~np.isnan(column)] / np.nanmax(column)
        means.append(column[1:-1].mean())
    return float(np.mean(means))


def osa(file: Path) -> dict[Key, Found]:
    """Accuracy against DenseNet-40's, and what middle layers weigh."""
    results = json.loads(file.read_text())
    found: dict[Key, Any] = {("dense-l1", "empirical"): {}}
    for claim, label in OSA.items():
        found[claim, "empirical"] = {"accuracy": differences(results, label, "DenseNet-40", accuracy)}
        found["dense-l1", "empirical"][label] = differences(results, label, "DenseNet-40", middle_layers)
    return found


def cells_of(page: str) -> list[list[str]]:
    """The cells of all lines of a page's tables."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:2] == "| "]


def efm(file: Path) -> dict[Key, Found]:
    """Accuracies of table 2 at a small scale: gains by seed where the page has them, of the means where not."""
    rows = cells_of(file.read_text())
    gains = {
        name: Value(float(published), tuple(map(float, ours.split(", "))))
        for name, published, ours, *_ in (row for row in rows if re.match(r"AP\d*: ", row[0]))
    }
    published = {row.model: row.ap for row in TABLE_2}
    ours = {row[0]: [float(cell.split()[0]) for cell in row[2:5]] for row in rows if row[0] in published and row[7:]}

    def of_means(better: str, worse: str, metric: int) -> Value:
        return Value(*(table[better][metric] - table[worse][metric] for table in (published, ours)))

    falls = gains["AP50: EFM above EFM (GIoU)"]
    assert isinstance(falls.ours, tuple)
    return {
        ("efm-table2", "empirical"): gains,
        ("efm-vs-gfm", "empirical"): {"AP": gains["AP: EFM above GFM"], "AP50": of_means("EFM", "GFM", 1)},
        ("giou-tradeoff", "empirical"): {
            "AP": gains["AP: EFM (GIoU) above EFM"],
            "AP50": Value(-falls.published, tuple(-fall for fall in falls.ours)),
        },
        ("sam-over-spp", "empirical"): {"AP": of_means("EFM (SAM)", "EFM (SPP)", 0)},
    }


def gradients(file: Path) -> dict[Key, Found]:
    """How much less alike gradients are in one network than in another, by seed; less is what is claimed."""
    readings = [row for row in cells_of(file.read_text()) if " below " in row[0] and row[5:]]
    found = {
        f"{family}, {measure}, {order}": Value(0.0, tuple(map(float, gaps.split(", "))))
        for order, family, measure, gaps, *_ in readings
    }
    return {("duplicate-gradient", "empirical"): found}


def table5(file: Path) -> dict[Key, Found]:
    """Frame rate of the fastest detector against YOLOv3-tiny's and YOLOv3-tiny-PRN's, both ways to run OpenCV."""
    rows = {row["claim"]["model"]: row for row in json.loads(file.read_text())["rows"]}
    fast, found = rows["CSPDenseNetb Ref.-PRN"], {}
    for slow, (way, shown) in product(("YOLOv3-tiny", "YOLOv3-tiny-PRN"), OPENCV.items()):
        published = fast["claim"]["published"] / rows[slow]["claim"]["published"]
        ours = (median(row["milliseconds"][way]) for row in (rows[slow], fast))
        found[f"against {slow}{shown}"] = Value(published, truediv(*ours))
    return {("prn-cpu-fps", "speed"): found}


def relative_speed(file: Path) -> dict[Key, Found]:
    """See :mod:`claims_speed`."""
    return {(claim, "speed"): found for claim, found in claims_speed.ratios(json.loads(file.read_text())).items()}


STUDIES: dict[str, Callable[[Path], dict[Key, Found]]] = {
    "ablation.json": ablation,
    "osa.json": osa,
    "efm.md": efm,
    "gradients.md": gradients,
    "relative_speed.json": relative_speed,
    "speed.json": table5,
}


def studied() -> dict[Key, Found]:
    """What the studies found, of which there are results."""
    found: dict[Key, Found] = {}
    for name, read in STUDIES.items():
        if (CLAIMS / name).is_file():
            found |= read(CLAIMS / name)
    return found


def refreshed(ledger: Sequence[Claim]) -> list[Claim]:
    """The claims with all values that are known now."""
    found = studied()
    return [
        rerun(claim)
        if claim.kind == "structural"
        else claim.measured(found[claim.id, claim.kind])
        if (claim.id, claim.kind) in found
        else claim
        for claim in ledger
    ]


def main() -> None:
    claims = refreshed(read_ledger())
    write_text(LEDGER, ledger_text(claims))
    write_text(CLAIMS / "index.md", ledger_page(claims))


if __name__ == "__main__":
    main()
