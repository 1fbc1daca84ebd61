"""Gradient flow, plain and partial: paths to the layers, and how alike the gradients are that reach them.

    python -m research.studies.gradients DATA RUNS

DATA is imagenette128, RUNS a folder for the results of the trainings; those that are there already are not run again.
Writes docs/claims/gradients.md and its images. About 13 minutes of processor time, shared by the cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from crossstage import create_model
from crossstage.analysis import gradient_paths
from crossstage.files import whole_file, write_text
from crossstage.nn import (
    ConvNormAct,
    ConvStyle,
    CrossStage,
    DenseBlock,
    DenseLayer,
    OneShotAggregation,
    Residual,
    project_split,
)
from research.bench.timing import machine
from research.places import CLAIMS
from research.studies.gradient_runs import (
    BATCH,
    EPOCHS,
    FAMILIES,
    LEARNED,
    MEASURED,
    RATE,
    SIDE,
    TOGETHER,
    VARIANTS,
    Family,
    run_all,
)

PAGE = CLAIMS / "gradients.md"
PAIRS = ("csppeleenet", "cspdensenet121", "cspresnet50", "cspresnext50", "cspdarknet53", "cspvovnet39")
STYLE = ConvStyle("relu")
MEASURES = {"cka": "linear CKA", "overlap": "subspace overlap"}

Run = dict[str, Any]
Matrix = NDArray[np.float64]


def stages() -> dict[str, tuple[nn.Module, int]]:
    """Blocks for 8 channels, and how many they yield."""

    def conv() -> nn.Module:
        return ConvNormAct(8, 8, 3, style=STYLE)

    return {
        "4 convolutions in a row": (nn.Sequential(*[conv() for _ in range(4)]), 8),
        "4 residual blocks": (nn.Sequential(*[Residual(conv(), nn.Identity(), nn.ReLU()) for _ in range(4)]), 8),
        "one-shot aggregation of 5": (OneShotAggregation(8, 8, 8, 5, style=STYLE), 8),
        "6 dense layers": (DenseBlock(8, 6, 4, lambda given: DenseLayer(given, 4, None, style=STYLE)), 32),
        "24 dense layers": (DenseBlock(8, 24, 4, lambda given: DenseLayer(given, 4, None, style=STYLE)), 104),
    }


def stage_table() -> list[str]:
    """Paths from a stage's output to its input, without and with a split around the same blocks."""
    lines = ["| stage | plain | split and merged | times |", "|---|---:|---:|---:|"]
    for shown, (blocks, width) in stages().items():
        plain = nn.Sequential(blocks, ConvNormAct(width, 16, style=STYLE))
        transition, merge = ConvNormAct(width, 8, style=STYLE), ConvNormAct(16, 16, style=STYLE)
        split = CrossStage(project_split(16, 8, 8, style=STYLE), blocks, transition, merge)
        before, after = (gradient_paths(m, (1, c, 8, 8))[0].paths for m, c in ((plain, 8), (split, 16)))
        lines.append(f"| {shown} | {before:,} | {after:,} | {after / before:.4g} |")
    return lines


def network_table() -> list[str]:
    """Paths from a network's output to its input, published and with plain stages of the same depths."""
    lines = [
        "| network | plain: paths | shortest | longest | CSP: paths | shortest | longest | times |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    return [*lines, *map(network_row, PAIRS)]


def network_row(name: str) -> str:
    """A line of the table of networks."""
    with torch.device("meta"):
        models = create_model(name, partial=None), create_model(name)
    plain, partial = (gradient_paths(model, (1, 3, 64, 64))[0] for model in models)
    cells = [f"{_shown(row.paths)} | {row.shortest} | {row.longest}" for row in (plain, partial)]
    return f"| {name} | {' | '.join(cells)} | {partial.paths / plain.paths:.3g} |"


def _shown(count: int) -> str:
    return f"{count:,}" if count < 10**9 else f"{Decimal(count):.3e}"


def with_each_other(stage: Run, measure: str) -> Matrix:
    """Of a stage's layers, each pair's similarity."""
    values, layers = np.array(stage[measure]), _layers(stage)
    return values[np.ix_(layers, layers)][np.triu_indices(len(layers), 1)]


def with_bypass(stage: Run, measure: str) -> Matrix:
    """Of each layer and what bypasses it: the carried part, in a plain stage the block's whole input."""
    return np.array(stage[measure])[0, _layers(stage)]


def with_processed(stage: Run, measure: str) -> Matrix:
    """Of each layer and the block's input: the processed part, in a plain stage the same as before."""
    return np.array(stage[measure])[stage["names"].index("input"), _layers(stage)]


def _layers(stage: Run) -> list[int]:
    return [index for index, name in enumerate(stage["names"]) if name.isdigit()]


Choice = Callable[[Run, str], Matrix]
CHOICES: dict[str, Choice] = {
    "layers with each other": with_each_other,
    "layers with the carried part": with_bypass,
    "layers with the processed part's input": with_processed,
}


def mean_of(run: Run, when: str, choice: Choice, measure: str) -> float:
    """Mean over the stages of the means over their pairs."""
    return float(np.mean([choice(stage, measure).mean() for stage in run[when]]))


def shown(values: Sequence[float], digits: int = 3) -> str:
    """A mean and half the range."""
    return f"{np.mean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"


def similarity_table(runs: Sequence[Run], measure: str) -> list[str]:
    """Means over stages and seeds, before and after training."""
    lines = [
        f"| | {' | '.join(f'{choice}: before | after' for choice in CHOICES)} | top-1 after |",
        "|---|" + "---:|" * (2 * len(CHOICES) + 1),
    ]
    for variant in VARIANTS:
        same = [run for run in runs if run["variant"] == variant]
        cells = [
            shown([mean_of(run, when, choice, measure) for run in same])
            for choice, when in product(CHOICES.values(), ("before", "after"))
        ]
        lines.append(f"| {variant} | {' | '.join(cells)} | {shown([run['top1'] for run in same], 1)} |")
    return lines


ORDERINGS = (("plain", "first"), ("plain", "last"), ("plain", "both"), ("first", "last"))


def readings(runs: Sequence[Run]) -> tuple[list[str], int, int]:
    """What the paper's argument leads one to expect, and whether it holds; how many do, and of how many."""
    lines = [
        "| expected after training | family | measure | difference by seed | | pairs below |",
        "|---|---|---|---:|---|---:|",
    ]
    held = 0
    for (title, choice), (higher, lower), family, measure in product(CHOICES.items(), ORDERINGS, FAMILIES, MEASURES):
        if choice is with_processed:
            continue
        above, below = (
            [run for run in runs if (run["family"], run["variant"]) == (family.title, variant)]
            for variant in (higher, lower)
        )
        gaps = [
            mean_of(b, "after", choice, measure) - mean_of(a, "after", choice, measure)
            for a, b in zip(above, below, strict=True)
        ]
        pairs = np.concatenate(
            [
                choice(b, measure) < choice(a, measure)
                for run_a, run_b in zip(above, below, strict=True)
                for a, b in zip(run_a["after"], run_b["after"], strict=True)
            ]
        )
        fewer = sum(gap < 0 for gap in gaps)
        verdict = "holds" if fewer == len(gaps) else "does not hold" if fewer == 0 else "differs by seed"
        held += verdict == "holds"
        cells = (
            f"{title}: {lower} below {higher}",
            family.title,
            MEASURES[measure],
            ", ".join(f"{gap:+.3f}" for gap in gaps),
            verdict,
            f"{pairs.sum()} of {len(pairs)}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines, held, len(lines) - 2


def draw(family: Family, runs: Sequence[Run], path: Path) -> None:
    """CKA after training, a row for each variant and a column for each stage, means over the seeds."""
    from matplotlib.figure import Figure

    count = len(runs[0]["after"])
    figure = Figure(figsize=(1.2 + 2.3 * count, 2.4 * len(VARIANTS)), layout="constrained")
    places = figure.subplots(len(VARIANTS), count)
    for row, variant in enumerate(VARIANTS):
        same = [run["after"] for run in runs if run["variant"] == variant]
        for column in range(count):
            axes, names = places[row, column], same[0][column]["names"]
            axes.imshow(np.mean([run[column]["cka"] for run in same], 0), cmap="magma", vmin=0, vmax=1)
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize="xx-small")
            axes.set_yticks(range(len(names)), names, fontsize="xx-small")
            axes.set_title(f"{variant}, stage {column + 1}", fontsize="small")
    figure.colorbar(places[0, 0].images[0], ax=places, shrink=0.5, label=f"linear CKA, {family.title}")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=75)


def page(runs: Sequence[Run], seeds: Sequence[int]) -> str:
    """The page; its images are written beside it."""
    lines = [HEAD, "## Paths", "", PATHS, *stage_table(), "", NETWORKS, *network_table(), "", "## Similarity", ""]
    families = "\n".join(f"- {family.title}: {family.shown}" for family in FAMILIES)
    lines.append(
        SIMILARITY.format(families=families, seeds=", ".join(map(str, seeds)), machine=f"{machine()}, {date.today()}")
    )
    for family in FAMILIES:
        same = [run for run in runs if run["family"] == family.title]
        for measure, title in MEASURES.items():
            lines += [f"### {family.title}, {title}", "", *similarity_table(same, measure), ""]
        image = PAGE.parent / "images" / f"gradients_{family.title.lower()}.png"
        draw(family, same, image)
        lines += [f"![Linear CKA after training, {family.title}](images/{image.name})", ""]
    table, held, count = readings(runs)
    lines += ["## What the argument leads one to expect", "", READINGS, *table, "", f"{held} of {count} hold."]
    return "\n".join(lines) + "\n"


HEAD = """\
# Gradient flow

Written by `python -m research.studies.gradients DATA RUNS`. Two claims of the CSPNet paper (arXiv 1911.11929, section
3.1) have no number in it: that split and merge double the number of gradient paths, and that a partial stage lowers the
amount of duplicate gradient information, fusion last more than fusion first. Here both are measured.
"""
PATHS = """\
A path is a sequence of weighted layers, from an output to the input, each of which reads what the next one yields; its
length is the number of layers that it crosses. `crossstage gradients MODEL` lists them for each layer of any network;
they are counted on autograd's graph, exactly.

The same blocks, followed by a 1x1 convolution, and between split (by 1x1 convolutions), T and U; paths from the stage's
output to its input:
"""
NETWORKS = """\
So the carried part adds one path to a stage, whatever the blocks are. That doubles those of a chain; a dense block of k
layers has 2^k paths already, one of which bypasses them all, and which a slice without T (fusion first) merely repeats.
The number of paths to a layer within the blocks does not change. Networks as published, and with plain stages of the
same depths; paths from the output to the image:
"""
SIMILARITY = f"""\
A signal is the gradient of the loss with respect to a map: one row for each image and position, one column for each
channel. Two signals are compared by linear CKA, and by the overlap of the subspaces that hold 90% of their variance;
both are 1 for equal signals and near 0 for unrelated ones. Compared are, within each stage, what the layers yield with
each other, with the carried part and with the input of the blocks. A plain stage has no carried part: what bypasses its
layers is the block's whole input, which stands in both columns, and whose gradient, unlike a carried part's, also
contains what comes back through the layers.

{{families}}

Plain, fusion first, last and both differ in `partial` alone (γ = 0.5). Trained on {10 * LEARNED:,} images of
imagenette128 at {SIDE} pixels for {EPOCHS} epochs (batch {BATCH}, SGD, learning rate {RATE}); measured before and after
on {10 * MEASURED} others, in batches of {TOGETHER}, batch norm in training mode; seeds {{seeds}}. **That is a reduced
budget: {EPOCHS * 10 * LEARNED // BATCH} steps.** Values are means over stages, then over seeds, ± half the range of the
seeds. {{machine}}.
"""
READINGS = """\
Differences of the means for each seed, and the pairs (of all stages and seeds) that lie below. "Holds" means for every
seed. Similarity of layers with the carried part is compared with a plain stage's input, see above.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    write_text(PAGE, page(run_all(chosen.data, chosen.runs, chosen.seeds), chosen.seeds))


if __name__ == "__main__":
    main()
