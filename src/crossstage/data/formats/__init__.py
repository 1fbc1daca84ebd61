"""Dataset formats, a file and a record each. ``FORMATS`` is gathered from the files of this room."""

from __future__ import annotations

from crossstage.data.formats.base import DataFormat
from crossstage.discovery import gathered

FORMATS: dict[str, DataFormat] = gathered(__name__, "FORMATS")
"""The formats by name. A program of its own may add one, see :mod:`crossstage.data.formats.base`."""


def format_names() -> list[str]:
    """Return the names of all formats, in the order in which they are tried."""
    return sorted(FORMATS, key=lambda name: FORMATS[name].order)
