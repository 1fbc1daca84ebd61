"""Table 1 of the CSPNet paper on CIFAR-10: which fusion, which γ.

    python -m research.studies.ablation run --data CIFAR10 --out ablation.json [--seconds N] [--seeds N]
    python -m research.studies.ablation report ablation.json > docs/claims/ablation.md    # and ablation.json

The paper trains on ImageNet. Here images of 32 pixels are enlarged to 64, as the networks' stride is 32. All twelve
networks are trained alike: leaky activation, batch norm's momentum 0.1, no dropout.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from research.claims.networks import TABLE_1, counted
from research.studies.studies import Study, conditions, main, noise, spread_told, standard_error, summaries
from research.studies.study import Network, Recipe

ALIKE = {"act": "leaky", "momentum": 0.1, "dropout": 0.0}
PLAIN = TABLE_1[0].model
STUDY = Study(
    "ablation",
    [Network(claim.model, claim.ours, {**dict(claim.settings), **ALIKE}) for claim in TABLE_1 if claim.ours],
    Recipe(enlarge=2),
    workers=2,
)

HEAD = """\
# Fusion and γ on CIFAR-10

Written by `python -m research.studies.ablation report`, from the runs in [ablation.json](ablation.json).

Table 1 of the CSPNet paper compares three fusions and three γ on ImageNet. Here the same twelve networks are trained on
CIFAR-10, whose images are enlarged to 64 pixels because the networks' stride is 32. All have leaky activation, batch
norm's momentum 0.1 and no dropout.
"""
COLUMNS = """\
| network | BFLOPs at 224 | top-1 published, ImageNet | against PeleeNet | here, CIFAR-10 | s.d. | against PeleeNet | |
|---|---:|---:|---:|---:|---:|---:|---|"""


def report(results: dict[str, Any], _: Path) -> None:
    """Print the page."""
    found = summaries(results)
    spread = noise(found)
    print(f"{HEAD}\n{conditions(results)}\n\n{COLUMNS}")
    plain = found.get(PLAIN)
    beyond: list[str] = []
    for claim in TABLE_1:
        assert claim.top1 is not None and TABLE_1[0].top1 is not None
        cost = counted(claim)[0]
        published = f"{claim.top1:.1f} | {claim.top1 - TABLE_1[0].top1:+.1f}"
        ours = found.get(claim.model)
        if ours is None or plain is None:
            print(f"| {claim.model} | {cost:.3f} | {published} | – | – | – | not measured |")
            continue
        difference, sure = ours.mean - plain.mean, 2 * standard_error(ours, plain, spread)
        clear = claim.model != PLAIN and abs(difference) > sure
        beyond += [f"{claim.model} ({difference:+.2f})"] if clear else []
        shown = f"{ours.mean:.2f} | {ours.deviation:.2f} | {difference:+.2f}"
        print(f"| {claim.model} | {cost:.3f} | {published} | {shown} | {'beyond the spread' if clear else ''} |")
    print(f"\n{verdict(results, spread, beyond)}")


def verdict(results: dict[str, Any], spread: float, beyond: list[str]) -> str:
    """What the table shows, in sentences."""
    found = summaries(results)
    both = [(claim.top1, found[claim.model].mean) for claim in TABLE_1 if claim.model in found]
    order = rank_correlation(*zip(*both, strict=True)) if len(both) > 2 else math.nan
    return (
        f"{spread_told(spread)} Against PeleeNet these are: {', '.join(beyond) or 'none'}.\n\n"
        f"The order of the networks here and in the paper: rank correlation {order:.2f} over {len(both)} "
        "networks (1 is the same order, 0 none, -1 the reverse)."
    )


def rank_correlation(one: Any, other: Any) -> float:
    """Spearman's, with mean ranks for equal values."""
    ranks = [np.array([(np.sum(v < x) + np.sum(v <= x)) / 2 for x in v]) for v in map(np.asarray, (one, other))]
    return float(np.corrcoef(ranks)[0, 1])


if __name__ == "__main__":
    main(STUDY, report)
