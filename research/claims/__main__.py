"""Show what the papers claim, what was found here, and the verdict; or count again what can be counted.

python -m research.claims              # the ledger as a table
python -m research.claims --run ID     # a structural claim, counted again and compared with the ledger; or "all"
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from crossstage.cli.console import console
from crossstage.cli.console import table as make_table
from crossstage.errors import ConfigError, CrossStageError, did_you_mean
from research.claims.ledger import Claim, read_ledger
from research.claims.page import cells, number
from research.claims.structural import rerun

CHANGED, FAILED = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The words of the command line; None takes the program's.

    Returns:
        0; 1 if a claim that was counted again differs from the ledger; 2 if there is no such claim to count.
    """
    parser = argparse.ArgumentParser(
        prog="python -m research.claims", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", metavar="ID", help="a structural claim to count again, or all")
    chosen = parser.parse_args(argv)
    try:
        ledger = read_ledger()
        if chosen.run is None:
            show(ledger)
            return 0
        differ = [count_again(claim) for claim in countable(ledger, chosen.run)]
        return CHANGED if any(differ) else 0
    except CrossStageError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED


def countable(ledger: Sequence[Claim], name: str) -> list[Claim]:
    """Return the structural claims of a name, or all of them.

    Raises:
        ConfigError: No claim is called so, or it is not decided by counting.
    """
    chosen = [claim for claim in ledger if name in ("all", claim.id)]
    structural = [claim for claim in chosen if claim.kind == "structural"]
    if not chosen:
        raise ConfigError(f"no claim is called {name!r}{did_you_mean(name, {claim.id: None for claim in ledger})}")
    if not structural:
        how = chosen[0].untestable or f"`{chosen[0].command}` measures it"
        raise ConfigError(f"claim {name!r} is not decided by counting: {how}")
    return structural


def show(ledger: Sequence[Claim]) -> None:
    """Print the ledger, and how many claims of each kind have which verdict."""
    table = make_table("claim", "kind", "published", "ours", "verdict")
    for claim in ledger:
        table.add_row(claim.id, claim.kind, *cells(claim), claim.verdict)
    out = console()
    out.print(table)
    for kind in ("structural", "empirical", "speed"):
        verdicts = Counter(claim.verdict for claim in ledger if claim.kind == kind)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
        out.print(f"{kind}: {counts}", highlight=False, soft_wrap=True)


def count_again(claim: Claim) -> bool:
    """Print a claim counted again, and return whether it differs from the ledger."""
    found = rerun(claim)
    assert found.rule
    table = make_table(claim.id, "", "published", "ledger", "now", numbers=3)
    for label, value in found.values.items():
        before = claim.values.get(label)
        result = "agrees" if found.rule.agrees(value) else "differs from the published"
        if value != before:
            result = "differs from the ledger"
        now = (number(value.published), number(before.ours if before else None), number(value.ours))
        table.add_row(label, result, *now)
    out = console()
    out.print(table)
    out.print(f"{found.verdict}: {found.rule.text}, {found.unit or 'as named'}\n", highlight=False, soft_wrap=True)
    return found.values != claim.values


if __name__ == "__main__":
    sys.exit(main())
