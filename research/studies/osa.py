"""The VoVNet paper's study on CIFAR-10: DenseNet-40, and one-shot aggregations in place of its dense blocks.

python -m research.studies.osa run --data CIFAR10 --out osa.json [--seconds N] [--seeds N]
python -m research.studies.osa report osa.json > docs/claims/osa.md      and osa.json, images/osa_*.png beside it
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from crossstage.analysis import WeightNorms, operations, plot_weight_norms, weight_norms
from crossstage.models.registry import find
from research.studies.studies import Study, conditions, main, noise, spread_told, standard_error, summaries
from research.studies.study import Network, Recipe


@dataclass(frozen=True)
class PublishedAggregation:
    """A network of the study.

    Attributes:
        network: Ours.
        top1: Published accuracy in percent.
        mac: Published memory access cost in millions of values; None if none is.
    """

    network: Network
    top1: float
    mac: float | None


# arXiv 1904.09730, section 3: accuracies of the text; that of 5 x 43 and DenseNet-40's own from its errors.
CLAIMS = (
    PublishedAggregation(Network("DenseNet-40", "densenet40"), 94.76, 3.7),
    PublishedAggregation(Network("OSA, 12 layers of 20", "osanet40_12x20"), 93.6, 2.5),
    PublishedAggregation(Network("OSA, 5 layers of 43", "osanet40_5x43"), 94.56, None),
)
DENSE = CLAIMS[0].network.label


def heard_norms(model: nn.Module) -> dict[str, Any]:
    """A trained network's weights between layers, as JSON takes them."""
    return {
        "norms": [
            {"name": n.name, "sources": n.sources, "targets": n.targets, "values": _without_nan(n.values)}
            for n in weight_norms(model)
        ]
    }


def _without_nan(values: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 6) for value in row] for row in values]


STUDY = Study("osa", [claim.network for claim in CLAIMS], Recipe(), workers=3, also=heard_norms)


def mean_norms(results: dict[str, Any], label: str) -> list[WeightNorms]:
    """Of a network's blocks, over the seeds of its complete runs."""
    runs = [
        run["norms"]
        for run in results["runs"]
        if run["label"] == label and len(run["accuracy"]) == results["epochs"] and "norms" in run
    ]
    return [
        WeightNorms(
            blocks[0]["name"],
            tuple(blocks[0]["sources"]),
            tuple(blocks[0]["targets"]),
            np.mean([np.array(block["values"], float) for block in blocks], axis=0),
        )
        for blocks in zip(*runs, strict=True)
    ]


def access(network: Network) -> tuple[float, float, float]:
    """Parameters, multiply-adds and memory access cost ``h w (ci + co) + k k ci co`` of all convolutions, in M."""
    model = network.build(10, "meta").eval()
    size = find(network.name).input_size[0]
    found = [o for o in operations(model, (1, 3, size, size)) if o.kind in ("convolution", "linear")]
    convolutions = [o for o in found if o.kind == "convolution"]
    moved = sum(o.read + o.written + o.weights for o in convolutions)
    return sum(p.numel() for p in model.parameters()) / 1e6, sum(o.flops for o in found) / 2e6, moved / 1e6


def last_reader(norms: list[WeightNorms]) -> list[str]:
    """How a block's last reader weighs the layers before it, in words.

    For each block: the mean weight on the middle layers (neither the input nor the last layer) in units of the largest,
    and its coefficient of variation over all sources.
    """
    described = []
    for block in norms:
        column = block.relative[:, -1]
        column = column[~np.isnan(column)]
        described.append(f"{column[1:-1].mean():.2f} / {column.std() / column.mean():.2f}")
    return described


HEAD = """\
# One-shot aggregation on CIFAR-10

Written by `python -m research.studies.osa report`, from the runs in [osa.json](osa.json).

The VoVNet paper (arXiv 1904.09730, section 3) puts one-shot aggregations in place of DenseNet-40's dense blocks: twelve
layers of 20 channels, then five of 43, each leading to the dense block's width.
"""
COLUMNS = """\
| network | M parameters | M multiply-adds | memory access, M, published | ours | top-1 published | here | s.d. | \
against DenseNet-40 published | here | |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|"""


def report(results: dict[str, Any], docs: Path) -> None:
    """Print the page and draw the heat maps."""
    found = summaries(results)
    spread = noise(found)
    dense = found.get(DENSE)
    print(f"{HEAD}\n{conditions(results)}\n\n{COLUMNS}")
    for claim in CLAIMS:
        parameters, multiply_adds, moved = access(claim.network)
        shown = "–" if claim.mac is None else f"{claim.mac:.1f}"
        row = f"| {claim.network.label} | {parameters:.3f} | {multiply_adds:.0f} | {shown} | {moved:.2f} | "
        row += f"{claim.top1:.2f}"
        ours, published = found.get(claim.network.label), claim.top1 - CLAIMS[0].top1
        if ours is None or dense is None:
            print(f"{row} | – | – | {published:+.2f} | – | not measured |")
            continue
        difference = ours.mean - dense.mean
        clear = claim.network.label != DENSE and abs(difference) > 2 * standard_error(ours, dense, spread)
        described = f"{ours.mean:.2f} | {ours.deviation:.2f} | {published:+.2f} | {difference:+.2f}"
        print(f"{row} | {described} | {'beyond the spread' if clear else ''} |")
    print(
        f"\n{spread_told(spread)} Memory access is `h w (ci + co) + k k ci co`, summed over all convolutions; what the "
        "published figures sum is not given.\n\n## How layers weigh what they read\n\n"
        "Mean |w| between the layers of each block, each column in units of its largest, mean over the seeds. Below, "
        "of each block's last reader: mean of the middle layers' relative weights / coefficient of variation of all.\n"
    )
    for claim in CLAIMS:
        if norms := mean_norms(results, claim.network.label):
            image = docs / "images" / f"osa_{claim.network.name}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            plot_weight_norms(norms).savefig(image, dpi=80, metadata={"Software": None})
            print(f"{claim.network.label}: {', '.join(last_reader(norms))}\n")
            print(f"![Weights between the layers of {claim.network.label}](images/{image.name})\n")


if __name__ == "__main__":
    main(STUDY, report)
