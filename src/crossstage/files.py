"""Files that appear under their name when they are complete, and small ones that are read with care."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossstage.errors import CrossStageError, DataError

MAX_YAML_BYTES = 1 << 20


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write to, beside ``path``, that becomes it at the end; nothing is left behind if writing fails.

    Files that are written beside that place come with it, and arrive before it does.

    Raises:
        DataError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            for other in set(Path(folder).iterdir()) - {temporary}:
                other.replace(path.with_name(other.name))
            temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, beside ``path``, that becomes it at the end; nothing is left behind if writing fails.

    An earlier folder of that name is replaced if it holds no other files than the new one.

    Raises:
        DataError: The folder cannot be written, or something else is in its place.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            temporary.mkdir()
            yield temporary
            if path.is_dir():
                if others := {file.name for file in path.iterdir()} - {file.name for file in temporary.iterdir()}:
                    raise DataError(f"{path}: holds {', '.join(sorted(others)[:3])} already; expected a new folder")
                path.rename(Path(folder) / "earlier")
            temporary.rename(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a whole text.

    Raises:
        DataError: The file cannot be written.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_yaml(path: Path, error_type: type[CrossStageError], expected: str) -> dict[str, Any]:
    """Read a mapping.

    Args:
        path: The file.
        error_type: What its reader's callers are told of.
        expected: What the mapping holds, for messages.

    Raises:
        CrossStageError: Of that type: the file cannot be read, is too large, or holds something else.
    """
    import yaml

    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise error_type(f"{path}: larger than {MAX_YAML_BYTES:,} bytes")
        content = yaml.safe_load(path.read_text("utf-8-sig"))
    except OSError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise error_type(f"{path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise error_type(f"{path}: holds a {type(content).__name__}; expected {expected}")
    return content
