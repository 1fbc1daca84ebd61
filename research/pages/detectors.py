"""Tables 2 and 4 and figure 7 of the CSPNet paper beside our detectors: cost, size, bottleneck, memory traffic.

    python -m research.pages.detectors > docs/claims/detectors.md

Nothing is measured: operations and weights are counted on tensors without data. The plot of the layers' costs is drawn
anew with ``--plot FILE``.
"""

from __future__ import annotations

import argparse
from itertools import accumulate

from research.claims.detectors import TABLE_2, TABLE_4, DetectorRow, convolutions, counted, largest, traffic
from research.claims.ledger import read_ledger


def row(claim: DetectorRow) -> str:
    """A line of the table."""
    digits = 3 if claim.weights is None else 2

    published = "–" if claim.weights is None else f"{claim.weights:.2f}"
    bflops, weights, stored = counted(claim)
    difference = f"{bflops / claim.bflops - 1:+.1%}"
    ours = f"`{claim.ours}`" + (f", {claim.act}" if claim.act else "")
    return (
        f"| {claim.model} | {claim.size} | {ours} | {claim.basis} | {claim.bflops:.{digits}f} | {bflops:.3f} | "
        f"{difference} | {published} | {weights:.3f} | {stored:.3f} | {claim.why} |"
    )


BARS = {"peleenet_yolo": "PeleeNet-YOLO", "peleenet_prn": "PeleeNet-PRN", "csppeleenet_efm": "CSPPeleeNet-EFM"}


def published(claim: str) -> list[str]:
    """What the ledger holds of figure 7."""
    (found,) = (entry for entry in read_ledger() if entry.id == claim)
    return [f"{value.published:.0f}" for value in found.values.values()]


def bottleneck() -> list[str]:
    """The claim of figure 7's caption: the largest cost of a layer."""
    efm = largest("csppeleenet_efm").flops
    lines = ["| | convolutions | largest, BFLOPs | which | 90 % of the cost in |", "|---|---:|---:|---|---:|"]
    for name, title in BARS.items():
        found, top = convolutions(name), largest(name)
        costs = sorted((entry.flops for entry in found), reverse=True)
        most = next(count for count, total in enumerate(accumulate(costs), start=1) if total >= 0.9 * sum(costs))
        where = top.name.removesuffix(".conv")
        shape = " x ".join(map(str, top.output_shape[1:]))
        lines.append(f"| {title} | {len(found)} | {top.flops / 1e9:.3f} | `{where}`, {shape} | {most} layers |")
    transitions, yolo = largest("peleenet_yolo", "backbone"), largest("peleenet_yolo")
    half, fifth = published("bottleneck-halved")
    return [
        *lines,
        "",
        f"CSPPeleeNet-EFM's largest layer against PeleeNet's transitions: {efm / transitions.flops - 1:+.1%} "
        f"(published {half} %); against PeleeNet-YOLO's: {efm / yolo.flops - 1:+.1%} (published {fifth} %).",
    ]


MOVES = ("pooling", "upsampling", "concatenation")


def memory() -> list[str]:
    """The claim of figure 7's caption: memory traffic."""
    with_it, without = traffic(True), traffic(False)
    sums = {
        "backbone's maps on their way to a coarser level, as they enter the pooling": ("handed down",),
        "read and written by pooling, upsampling and concatenation": MOVES,
        "the same, and Maxout itself, in one go as a compiled graph has it": (*MOVES, "maxout in one go"),
        "the same, and Maxout as a chain of maxima, as it runs here": (*MOVES, "maxout"),
        "the same, and what the neck's convolutions read and write": (*MOVES, "maxout", "convolution"),
    }
    lines = ["| values moved in one image, M | with Maxout | without | |", "|---|---:|---:|---:|"]
    for title, kinds in sums.items():
        ours, theirs = (sum(count[kind] for kind in kinds) / 1e6 for count in (with_it, without))
        lines.append(f"| {title} | {ours:.3f} | {theirs:.3f} | {ours / theirs - 1:+.1%} |")
    return lines


def plot(path: str) -> None:
    """Draw the cost of each convolution of the three detectors, as the paper's figure 7 does."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, rows = plt.subplots(3, 1, figsize=(10, 7), sharex=True, sharey=True, layout="constrained")
    for axes, (name, title) in zip(rows, BARS.items(), strict=True):
        found = convolutions(name)
        neck = next(index for index, entry in enumerate(found) if not entry.name.startswith("backbone"))
        costs = [entry.flops / 1e9 for entry in found]
        axes.bar(range(neck), costs[:neck], width=0.9, color="#7a8aa0", label="backbone")
        axes.bar(range(neck, len(costs)), costs[neck:], width=0.9, color="#d1603d", label="neck and heads")
        total = sum(entry.flops for entry in found) / 1e9
        axes.set_title(f"{title}: {total:.2f} BFLOPs in convolutions", fontsize=10)
        axes.set_ylabel("BFLOPs")
    rows[0].legend(loc="upper left", frameon=False)
    rows[-1].set_xlabel("convolution, in order")
    figure.savefig(path, dpi=110)


HEAD = """\
# Detectors of the CSPNet paper, published and here

Written by `make claims` (`python -m research.pages.detectors`). Operations and weights are counted, not measured.

BFLOPs are 2 x multiply-adds of convolutions, plus one for each value that a pooling window sees: what Darknet prints
and the paper's tables hold. "M weights" are those of convolutions alone; "M stored" adds norms, biases and running
statistics: all that a Darknet file has. The paper's "Params" are the one for some rows and the other for some.

*Basis*: "cfg", the released Darknet file, whose weights load into ours with equal outputs, compared with OpenCV
(tests/darknet/test_native.py); "paper", structure read off the paper's figures and text; "reconstruction", cost and
wiring are published and the layers are ours. COCO's accuracies of these tables were not reproduced here: that takes
500,000 steps on a GPU; what a small training says of table 2 is in [efm.md](efm.md). Rows of table 4 on detectors of
others (SSD, RefineDet, ThunderNet, CenterNet) stand in [comparators.md](comparators.md).
"""
COLUMNS = """\
| detector | input | here | basis | BFLOPs published | ours | | M published | M weights | M stored | why |
|---|---:|---|---|---:|---:|---:|---:|---:|---:|---|"""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", help="PNG to draw the layers' costs to, instead of printing")
    chosen = parser.parse_args(arguments)
    if chosen.plot:
        plot(chosen.plot)
        return
    print(HEAD)
    for title, claims in (("Table 2, on CSPPeleeNet", TABLE_2), ("Table 4", TABLE_4)):
        print("\n".join((f"## {title}", "", COLUMNS, *map(row, claims), "")))
    figure = "![Cost of each convolution of three detectors](images/layers.png)"
    print("\n".join(("## Figure 7: the largest layer", "", figure, "", *bottleneck(), "")))
    print("\n".join(("## Figure 7: memory traffic of the pyramid", "", *memory(), "")))
    (quarter,) = published("pyramid-memory")
    print(
        f"The published {quarter} % is the first line, to the digit. "
        "Maxout itself is not free: it reads each map whole, and\n"
        "with that counted the traffic of the pyramid falls by less."
    )


if __name__ == "__main__":
    main()
