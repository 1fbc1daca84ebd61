"""Tables that are gathered from the files of a room, so that a new row needs one new file and no other line."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any


def gathered(package: str, attribute: str) -> dict[str, Any]:
    """Join the tables that the modules of a package define.

    Args:
        package: The package's dotted name.
        attribute: Name of the table, a dictionary, in each module that has one.

    Returns:
        All entries, in the order of the modules' names.

    Raises:
        ValueError: Two modules define an entry of the same name.
    """
    table: dict[str, Any] = {}
    room = importlib.import_module(package)
    for module in sorted(pkgutil.iter_modules(room.__path__), key=lambda found: found.name):
        rows = getattr(importlib.import_module(f"{package}.{module.name}"), attribute, {})
        if twice := table.keys() & rows.keys():
            raise ValueError(f"{package}: {', '.join(sorted(twice))} is defined twice")
        table |= rows
    return table
