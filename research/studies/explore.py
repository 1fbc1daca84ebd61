"""PeleeNet's cross stage partial variants side by side: the page docs/tables/explore.md and its image.

    python -m research.studies.explore [ROUNDS] > docs/tables/explore.md    # draws docs/images/explore.png, too

All cores are used; nothing else should run.
"""

from __future__ import annotations

import os
import sys
from datetime import date

from crossstage.csp.explore import Exploration, ExplorationRow, Measure, explore
from research.bench.timing import machine
from research.places import IMAGES

BACKBONE, RUNTIMES = "peleenet", ("torch", "onnxruntime")
IMAGE = IMAGES / "explore.png"
PAGE = """\
# PeleeNet's variants

Written by `python -m research.studies.explore{rounds}` on {day}: {machine}, {size} x {size} pixels, {count} rounds;
load {load:.1f} when it began, where 0 is a quiet machine. In brackets the change from the plain network; the networks
of the first panel's front are **bold**.

![PeleeNet's variants](../images/explore.png)

{table}

The fronts:

{fronts}

The plain network is PeleeNet as published; its variants keep its depths and differ in the stem as well, see
`models/backbones/peleenet.py`. CSPNet's own CSPPeleeNet has fewer layers: `--backbone csppeleenet` gives table 1's
costs. Where little is carried, the transitions and projections cost more than the narrower blocks save: more operations
than the plain network have {dear}.
"""


def main() -> None:
    load = os.getloadavg()[0]
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    found = explore(BACKBONE, runtimes=RUNTIMES, rounds=rounds, progress=lambda *shown: print(*shown, file=sys.stderr))
    found.save(IMAGE)
    print(page(found, f" {rounds}" if len(sys.argv) > 1 else "", rounds, load), end="")


def page(found: Exploration, told_rounds: str, rounds: int, load: float) -> str:
    """The whole page."""
    fronts = "\n".join(
        f"- {first.title} and {second.title}: {'; '.join(row.name for row in found.front(first, second))}"
        for first, second in found.trade_offs
    )
    bflops = found.measures[1]
    dear = [row.name for row in found.rows[1:] if (found.ratio(row, bflops) or 0) > 1]
    return PAGE.format(
        rounds=told_rounds,
        day=date.today(),
        machine=machine(),
        size=found.size,
        count=rounds,
        load=load,
        table=table(found),
        fronts=fronts,
        dear="; ".join(dear) or "none of them",
    )


def table(found: Exploration) -> str:
    """All rows, as Markdown."""
    best = found.front(*found.trade_offs[0])
    lines = [f"| network | {' | '.join(measure.title for measure in found.measures)} |"]
    lines.append(f"|---|{'---:|' * len(found.measures)}")
    for row in found.rows:
        name = f"**{row.name}**" if row in best else row.name
        lines.append(f"| {name} | {' | '.join(cell(found, row, measure) for measure in found.measures)} |")
    return "\n".join(lines)


def cell(found: Exploration, row: ExplorationRow, measure: Measure) -> str:
    """A value and its change."""
    value, ratio = measure.of(row), found.ratio(row, measure)
    if value is None:
        return "-"
    shown = f"{value:.{measure.decimals}f}"
    return shown if row.partial is None or ratio is None else f"{shown} ({ratio - 1:+.0%})"


if __name__ == "__main__":
    main()
