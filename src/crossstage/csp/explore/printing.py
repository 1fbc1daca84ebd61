"""An exploration as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from crossstage.csp.explore.exploration import Exploration

MOST_COLUMNS = 1000


def print_exploration(found: Exploration, console: Console) -> None:
    """Print values, with their change from the plain network's where there is room, and what is missing and why.

    A table that is wider than its terminal goes on in the next line, and nothing is cut off.
    """
    wide = console.options.update(max_width=MOST_COLUMNS)
    tables = [_table(found, changes=changes) for changes in (True, False)]
    widths = [Measurement.get(console, wide, each).maximum for each in tables]
    chosen = 0 if widths[0] <= console.width else 1
    console.width = max(console.width, widths[chosen])
    console.print(tables[chosen])
    first, second = found.trade_offs[0]
    notes = [f"* no other network is better in both {first.title} and {second.title}"]
    notes += [f"{row.name}: no {what}: {why}" for row in found.rows for what, why in row.missing.items()]
    notes.append(
        f"{found.backbone} at {found.size} x {found.size}, {found.classes} classes, one image at a time; "
        f"traffic and memory of float32; {found.machine}, threads: {found.threads}"
    )
    if found.training:
        notes.append(f"trained on {found.training}")
    console.print("\n".join(notes), markup=False, highlight=False, soft_wrap=True)


def _table(found: Exploration, *, changes: bool) -> Table:
    measures, on_front = found.measures, found.front(*found.trade_offs[0])
    table = Table(box=None, pad_edge=False)
    for title in ("", "gamma", "fusion", "split"):
        table.add_column(title, no_wrap=True)
    for measure in measures:
        table.add_column("\n".join(measure.title.replace(",", "").split()), justify="right", no_wrap=True)
    for row in found.rows:
        partial = row.partial
        named = [f"{partial.gamma:g}", partial.fusion, partial.split] if partial else ["plain", "", ""]
        cells = []
        for measure in measures:
            value, ratio = measure.of(row), found.ratio(row, measure)
            text = "-" if value is None else f"{value:.{measure.decimals}f}"
            if changes and partial and ratio is not None and not measure.more:
                text += f" {ratio - 1:+4.0%}"
            cells.append(text)
        table.add_row("*" if row in on_front else "", *named, *cells)
    return table
