"""Tables 1 and 3 of the CSPNet paper beside our networks: cost and weights, published and computed.

    python -m research.pages.architectures > docs/claims/architectures.md

Nothing is measured: operations and weights are counted on tensors without data.
"""

from __future__ import annotations

from research.claims.networks import TABLE_1, TABLE_3, NetworkRow, counted


def row(claim: NetworkRow) -> str:
    """A line of the table."""

    def pair(published: float | None, ours: float, digits: int) -> str:
        if published is None:
            return f"– | {ours:.{digits}f} | "
        return f"{published:.{digits}f} | {ours:.{digits}f} | {(ours / published - 1) * 100:+.1f} %"

    if claim.ours is None:
        shown = [f"{v}" if v is not None else "–" for v in (claim.bflops, claim.weights)]
        return f"| {claim.model} | – | – | {shown[0]} | – | | {shown[1]} | – | | {claim.why} |"
    bflops, weights = counted(claim)
    described = f"{pair(claim.bflops, bflops, 3)} | {pair(claim.weights, weights, 2)}"
    return f"| {claim.model} | `{claim.ours}` | {claim.basis} | {described} | {claim.why} |"


HEAD = """\
# Networks of the CSPNet paper, published and here

Written by `make claims` (`python -m research.pages.architectures`). Operations and weights are counted, not measured.

BFLOPs are 2 x multiply-adds of convolutions and linear layers; the paper's, printed by Darknet, hold pooling too.
"M weights" are those of convolutions and linear layers alone, without norms and biases, as the authors count; rows that
the paper took from others count all parameters, and ours beside them do. Input: 224 x 224 for PeleeNet's family, the
Reference networks, MobileNetV2 and DenseNet, 256 x 256 for the rest.

*Basis*: "cfg", the authors' Darknet file, whose weights load (tests/darknet/test_native.py); "code", code that the
network's own authors or torchvision released; "paper", structure read off the paper's figures; "reconstruction", only
cost and size are published and the structure is ours.
"""
COLUMNS = """\
| model | here | basis | BFLOPs published | ours | | M weights published | ours | | why |
|---|---|---|---:|---:|---:|---:|---:|---:|---|"""


def main() -> None:
    print(HEAD)
    for title, claims in (("Table 1", TABLE_1), ("Table 3, with the rows of the authors' README", TABLE_3)):
        print("\n".join((f"## {title}", "", COLUMNS, *map(row, claims), "")))


if __name__ == "__main__":
    main()
