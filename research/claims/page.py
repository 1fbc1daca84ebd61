"""The ledger for readers: numbers in words, and docs/claims/index.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from research.claims.ledger import Claim, Kind, Measured, Verdict

TITLES: dict[Kind, str] = {
    "structural": "Structural: decided by counting",
    "empirical": "Empirical: decided by training",
    "speed": "Speed: decided by timing",
}
MEANINGS = {
    "at least": "ours is at least the published value",
    "at most": "ours is at most the published value",
    "same sign": "ours has the published value's sign",
}
HEAD = """\
# What the papers claim, and what came of it here

Written by `python -m research.pages.claims` from [claims.yaml](claims.yaml). `python -m research.claims`
prints the table, `python -m research.claims --run ID` counts a structural claim again, `--run all` all of them.

A verdict is computed: a claim is reproduced if every value agrees with the published one by the rule that its entry
names, with several seeds if each does; at small scale if that took a training far below the paper's; not testable here
if the data or the machine is missing. Claims about cost and accuracy have an entry for each.
"""


def number(value: Measured | None) -> str:
    """A number, or one for each seed."""
    if value is None:
        return "–"
    return ", ".join(f"{each:g}" for each in value) if isinstance(value, tuple) else f"{value:g}"


def cells(claim: Claim) -> tuple[str, str]:
    """What is published and what we found, in a few words."""
    if len(claim.values) == 1:
        (value,) = claim.values.values()
        return f"{number(value.published)} {claim.unit}".strip(), number(value.ours)
    measured = any(value.ours is not None for value in claim.values.values())
    return f"{len(claim.values)} values", f"{claim.agreeing} agree" if measured else number(None)


def ledger_page(claims: Sequence[Claim]) -> str:
    """The page docs/claims/index.md."""
    lines = [HEAD, *_counts(claims)]
    for kind, title in TITLES.items():
        lines += ["", f"## {title}", "", "| id | claim | published | ours | verdict |", "|---|---|---:|---:|---|"]
        for claim in claims:
            if claim.kind == kind:
                shown = " | ".join(cells(claim))
                lines.append(f"| [{claim.id}](#{_anchor(claim)}) | {claim.claim} | {shown} | {claim.verdict} |")
    lines += ["", "## Each claim"]
    for claim in claims:
        lines += _details(claim)
    return "\n".join(lines) + "\n"


def _counts(claims: Sequence[Claim]) -> list[str]:
    found = Counter((claim.kind, claim.verdict) for claim in claims)
    verdicts = [verdict for verdict in get_args(Verdict) if any(claim.verdict == verdict for claim in claims)]
    lines = ["| | " + " | ".join(verdicts) + " |", "|---" + "|---:" * len(verdicts) + "|"]
    return lines + [f"| {kind} | " + " | ".join(str(found[kind, each]) for each in verdicts) + " |" for kind in TITLES]


def _anchor(claim: Claim) -> str:
    return f"{claim.id}-{claim.kind}"


def _details(claim: Claim) -> list[str]:
    lines = ["", f"### {claim.id} ({claim.kind})", "", f"{claim.claim} *{claim.source}.* **{claim.verdict}**"]
    if claim.rule:
        meaning = MEANINGS.get(claim.rule.text, f"ours is {claim.rule.text} of the published value")
        lines.append(f"if {meaning}; `{claim.command}`.")
    else:
        lines[-1] += f": {claim.untestable}."
    lines += [claim.remark] if claim.remark else []
    unit = f", {claim.unit}" if claim.unit else ""
    lines += ["", f"| | published{unit} | ours | |" if claim.rule else f"| | published{unit} |"]
    lines.append("|---|---:|---:|---|" if claim.rule else "|---|---:|")
    for label, value in claim.values.items():
        row = f"| {label} | {number(value.published)} |"
        if claim.rule:
            agrees = "agrees" if claim.rule.agrees(value) else "" if value.ours is None else "differs"
            row += f" {number(value.ours)} | {agrees} |"
        lines.append(row)
    return lines
