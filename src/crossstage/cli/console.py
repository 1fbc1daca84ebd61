"""What the verbs print with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def nearest(name: str, known: Sequence[str]) -> str:
    """What a name may have been meant to be, as the end of a sentence."""
    from difflib import get_close_matches

    close = get_close_matches(name.strip("*?"), known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def console(*, stderr: bool = False) -> Console:
    """A console that knows whether people are looking."""
    from rich.console import Console

    return Console(stderr=stderr)


def table(*columns: str, numbers: int = 0) -> Table:
    """A table whose last ``numbers`` columns are aligned to the right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for position, column in enumerate(columns):
        right = position >= len(columns) - numbers
        made.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=right or position == 0)
    return made
