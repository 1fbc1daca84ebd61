"""Detectors of others in the papers' tables beside ours: cost and size, on tensors without data.

python -m research.pages.comparators > docs/claims/comparators.md
"""

from __future__ import annotations

from collections.abc import Sequence

from research.claims.comparators import TABLES, Comparator, counted

HEAD = """\
# Detectors of others, published and here

Written by `make claims` (`python -m research.pages.comparators`). Operations and parameters are counted, not measured.

"G published" is in the table's own unit, multiply-adds or twice that; ours are given in both. Ours count the first
stage of two-stage detectors, whose second depends on the number of proposals. Parameters are all that are trained or
frozen, without running statistics. *Reconstruction*: parts of the structure were not published, and are ours.
The accuracies are the papers'; none was trained here on COCO. Speed side by side is in [index.md](index.md).

The authors' release lists parameters beside Faster R-CNN that are not Faster R-CNN's: those of its rows with a whole
pyramid (37.6, 51.2, 52.6, 68.9 and 96.9 M) are CenterMask's to the digit and stand there below, those of its Lite rows
(11.2, 6.5, 3.1 and 1.8 M) are the backbones' as classifiers of 1000 classes.
"""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def row(claim: Comparator) -> str:
    """A line of the table."""
    macs, parameters = counted(claim.ours, claim.size, claim.classes)
    change = "" if claim.parameters is None else f"{parameters / claim.parameters - 1:+.1%}"
    basis = "reconstruction" if claim.reconstruction else "published structure"
    figures = "; ".join(f"{name} {value}" for name, value in claim.figures.items() if value)
    size = " x ".join(map(str, claim.size))
    return (
        f"| {claim.model} | {size} | `{claim.ours}` | {basis} | {_number(claim.flops)} | {macs:.2f} | {2 * macs:.2f} | "
        f"{_number(claim.parameters)} | {parameters:.2f} | {change} | {figures} |"
    )


def table(claims: Sequence[Comparator]) -> str:
    """The lines of one table."""
    columns = "detector|input|here|basis|G published|ours, GMAC|ours, GFLOPs|M published|ours||published besides"
    names = columns.split("|")
    return "\n".join((f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *map(row, claims)))


def page() -> str:
    """The whole page."""
    return "\n".join((HEAD, *(f"## {title}\n\n{table(claims)}\n" for title, claims in TABLES.items())))


if __name__ == "__main__":
    print(page(), end="")
