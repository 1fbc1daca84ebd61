"""Class names, one in each line of a text file."""

from __future__ import annotations

from pathlib import Path

from crossstage.errors import ConfigError

MAX_BYTES = 16 << 20


def read_names(path: str | Path) -> tuple[str, ...]:
    """Read a text file of names; blank lines do not count.

    Args:
        path: The ``.names`` file, in UTF-8.

    Raises:
        ConfigError: The file cannot be read, is no text, or holds no name.
    """
    try:
        with Path(path).open("rb") as file:
            lines = file.read(MAX_BYTES).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file; expected a class name in each line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ConfigError(f"{path}: empty; expected a class name in each line")
    return names
