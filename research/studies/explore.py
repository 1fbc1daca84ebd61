"""PeleeNet's cross stage partial variants side by side: the page docs/explore.md and its image.

    python -m research.studies.explore [ROUNDS] > docs/explore.md    # draws docs/images/explore.png, too

All cores are used; nothing else should run.
"""

from __future__ import annotations

import os
import sys
from datetime import date
from pathlib import Path

from crossstage.csp.explore import Exploration, Measure, Row, explore
from research.bench.timing import machine

BACKBONE, RUNTIMES = "peleenet", ("torch", "onnxruntime")
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "explore.png"
PAGE = """# Which variant is worth having

`crossstage explore` builds a network plain and with each combination of γ, fusion and split, tells what each costs,
times all of them in turns on this machine, and draws the Pareto fronts: the networks that no other one beats.

    crossstage explore --backbone peleenet --runtime torch onnxruntime

- γ (`--gamma`, 0.25 0.5 0.75 by default) is the share of the channels that is carried past the blocks, `--fusion`
  (first last both) says which transitions there are, `--split` (project) how the two parts are taken; see
  `crossstage.Partial`.
- Parameters, operations, traffic, peak memory and the bottleneck (operations of the largest layer over the mean of
  all) are counted, without allocating anything. Traffic is what moves between memory and processor in float32 if no
  layer finds its input in a cache, norms and activations computed along with their convolution; peak memory is that
  of the maps alone.
- `--runtime` takes any runtime of `crossstage benchmark`. Latency is the median of one image's passes; the whiskers
  of the image are quartiles. Networks whose whiskers overlap are equally fast, whatever the front says.
- A combination that a network does not allow, or that a runtime cannot run, is a row that says why. Any backbone of
  `crossstage models` will do; of a detector the backbone is varied.
- The folder `runs/explore/peleenet` (`--out`) gets `explore.json`, `explore.csv` and `explore.png`.

## Accuracy

    crossstage explore --backbone peleenet --imgsz 64 --train imagenette --epochs 20

trains each network on the data as `crossstage train` would, writes the three files anew after each, and draws
accuracy against latency and operations. Costs and latency are then those of a head for the data's classes. Each
training is a run of its own beside the files. After an interruption the same command goes on: trainings that have
ended are taken as they are, one that was under way is resumed from its last state, and timing, which must be done in
one go, is done again. With other options (`--epochs`, `--seed`, ...) choose another folder; a run of other options is
refused, not mixed in. One seed ranks nothing: compare networks that are points apart, or repeat with other seeds.

From Python:

    import crossstage
    from crossstage.csp.explore import explore, with_accuracy

    found = explore("csppeleenet", gammas=[0.25, 0.5], fusions=["last", "both"], num_classes=10, runtimes=[])
    print([(row.name, row.costs.bflops) for row in found.rows])
    found = with_accuracy(found, crossstage.TrainOptions(model="", data="imagenette", epochs=20, out="runs/mine"))

## PeleeNet

Written by `python -m research.studies.explore{rounds}` on {day}: {machine}, {size} x {size} pixels, {count} rounds; load
{load:.1f} when it began, where 0 is a quiet machine. In brackets the change from the plain network; the networks of the
first panel's front are **bold**.

![PeleeNet's variants](images/explore.png)

{table}

The fronts:

{fronts}

The plain network is PeleeNet as published; its variants keep its depths and differ in the stem as well, see
`backbones/peleenet.py`. CSPNet's own CSPPeleeNet has fewer layers: `--backbone csppeleenet` gives table 1's costs.
Where little is carried, the transitions and projections cost more than the narrower blocks save: more operations than
the plain network have {dear}.
"""


def main() -> None:
    load = os.getloadavg()[0]
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    found = explore(BACKBONE, runtimes=RUNTIMES, rounds=rounds, progress=lambda *told: print(*told, file=sys.stderr))
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


def cell(found: Exploration, row: Row, measure: Measure) -> str:
    """A value and its change."""
    value, ratio = measure.of(row), found.ratio(row, measure)
    if value is None:
        return "-"
    told = f"{value:.{measure.decimals}f}"
    return told if row.partial is None or ratio is None else f"{told} ({ratio - 1:+.0%})"


if __name__ == "__main__":
    main()
