"""Where a run may write: never over what it reads, and never over what it has just written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from crossstage.errors import DataError

Identity = tuple[int, int]
"""Device and number of a file, which all of its names and links share."""


def identity(path: Path) -> Identity | None:
    """Return what tells a file from others, whatever it is called; None if there is none."""
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


class Inputs:
    """The files that a run reads.

    Args:
        files: Those that are known before.
    """

    def __init__(self, files: Iterable[Path | str]) -> None:
        self._known = {found for file in files if (found := identity(Path(file)))}

    def add(self, name: str) -> None:
        """Add a file that came up later; what names no file is passed over."""
        if found := identity(Path(name)):
            self._known.add(found)

    def check(self, path: Path, what: str) -> None:
        """Refuse a place where an input lies.

        Args:
            path: The place.
            what: What is to be written there, for the message.

        Raises:
            DataError: An input lies there.
        """
        if identity(path) in self._known:
            raise DataError(
                f"{path}: {what} would replace the source, which is an input of this run; expected another place"
            )
