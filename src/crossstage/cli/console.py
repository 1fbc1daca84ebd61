"""What the verbs print with: consoles that cut nothing off, and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status
    from rich.table import Table


def console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console on which every column and every word of a table stays whole, see :mod:`crossstage.cli.whole`.

    Args:
        stderr: It writes to stderr instead of stdout.
        quiet: It writes nothing.
    """
    from crossstage.cli.whole import WholeConsole

    return WholeConsole(stderr=stderr, quiet=quiet)


def working(what: str, quiet: bool = False) -> Status:
    """Return a spinner on stderr, as a context, that says what is being done; nothing is shown if it is quiet."""
    return console(stderr=True, quiet=quiet).status(what)


def say(text: str) -> None:
    """Print a line as it is, however long."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def table(*columns: str, numbers: int = 0) -> Table:
    """Return a table whose last ``numbers`` columns are aligned to the right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for position, column in enumerate(columns):
        right = position >= len(columns) - numbers
        made.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=right or position == 0)
    return made
