"""Class names, one in each line of a text file."""

from __future__ import annotations

from pathlib import Path

from crossstage.errors import ConfigError
from crossstage.reading.text import read_lines, visible

MAX_BYTES = 16 << 20


def read_names(path: str | Path) -> tuple[str, ...]:
    """Read a text file of names; blank lines do not count.

    Args:
        path: The ``.names`` file, see :func:`~crossstage.reading.text.read_text`.

    Raises:
        ConfigError: The file cannot be read, is no text, or holds no name.
    """
    lines = read_lines(Path(path), ConfigError, expected="a class name in each line", max_bytes=MAX_BYTES)
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ConfigError(f"{visible(path)}: empty; expected a class name in each line")
    return names
