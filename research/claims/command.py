"""The verb that shows what the papers claim and what came of it: claims."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from crossstage.cli.console import console, nearest
from crossstage.cli.console import table as make_table
from crossstage.errors import ConfigError

if TYPE_CHECKING:
    from crossstage.claims import Claim

CHANGED = 1


def claims(run: str | None = None) -> int:
    """Show what the papers claim, what we found, and the verdict; or count again what can be counted.

    Args:
        run: A structural claim to count again and compare with the ledger, or all.
    """
    from crossstage.claims import read_ledger

    ledger = read_ledger()
    if run is None:
        _show(ledger)
        return 0
    chosen = [claim for claim in ledger if run in ("all", claim.id)]
    structural = [claim for claim in chosen if claim.kind == "structural"]
    if not chosen:
        raise ConfigError(f"no claim is called {run!r}{nearest(run, list({claim.id: None for claim in ledger}))}")
    if not structural:
        how = chosen[0].untestable or f"`{chosen[0].command}` measures it"
        raise ConfigError(f"claim {run!r} is not decided by counting: {how}")
    return CHANGED if sum([_count_again(claim) for claim in structural]) else 0


def _show(ledger: list[Claim]) -> None:
    from crossstage.claims import cells

    table = make_table("claim", "kind", "published", "ours", "verdict")
    for claim in ledger:
        table.add_row(claim.id, claim.kind, *cells(claim), claim.verdict)
    out = console()
    out.print(table)
    for kind in ("structural", "empirical", "speed"):
        counted = Counter(claim.verdict for claim in ledger if claim.kind == kind)
        told = ", ".join(f"{count} {verdict}" for verdict, count in counted.most_common())
        out.print(f"{kind}: {told}", highlight=False, soft_wrap=True)


def _count_again(claim: Claim) -> bool:
    """Print a claim counted again; whether it differs from the ledger."""
    from crossstage.claims import number
    from crossstage.claims.structural import rerun

    found = rerun(claim)
    assert found.rule
    changed = found.values != claim.values
    table = make_table(claim.id, "", "published", "ledger", "now", numbers=3)
    for label, value in found.values.items():
        before = claim.values.get(label)
        told = "agrees" if found.rule.agrees(value) else "differs from the published"
        if value != before:
            told = "differs from the ledger"
        now = (number(value.published), number(before.ours if before else None), number(value.ours))
        table.add_row(label, told, *now)
    out = console()
    out.print(table)
    out.print(f"{found.verdict}: {found.rule.text}, {found.unit or 'as named'}\n", highlight=False, soft_wrap=True)
    return changed
