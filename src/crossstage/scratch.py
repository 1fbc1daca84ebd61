"""Hidden folders beside files that are being written, and what processes that were killed have left in them.

A folder is locked by the process that writes to it, so that others know it from one that nobody will finish.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PART = ".part"


@contextmanager
def scratch_beside(place: Path) -> Iterator[Path]:
    """Yield a folder on the same file system, which is removed at the end with all that is still in it.

    It is locked meanwhile, so that other processes know it from one that a killed process has left, which is removed.
    """
    prefix = _hidden(place)
    if fcntl:
        _remove_abandoned(folder for folder in _parts_in(place.parent) if folder.name.startswith(prefix))
    while True:
        made = tempfile.TemporaryDirectory(prefix=prefix, suffix=_PART, dir=place.parent)
        with made as folder, _taken(Path(folder)) as alone:
            if alone:
                yield Path(folder)
                return


def remove_leftovers(path: Path) -> None:
    """Remove what writers of ``path`` that were killed have left beside it; what a living one writes stays."""
    _remove_abandoned(path.parent.glob(f"{glob.escape(_hidden(path))}*{_PART}"))


def rescued(path: Path) -> Path | None:
    """Give what a killed writer of ``path`` had written a name of its own: that of the path with ``.unfinished``.

    Returns:
        The file; None if there was nothing.
    """
    kept, path = None, Path(os.path.realpath(path))
    for folder in () if fcntl is None else path.parent.glob(f"{glob.escape(_hidden(path))}*{_PART}"):
        with _taken(folder) as alone:
            written = folder / path.name
            if alone and written.is_file() and written.stat().st_size:
                kept = path.with_name(f"{path.name}.unfinished")
                written.replace(kept)
    return kept


def _hidden(place: Path) -> str:
    """Return how hidden names of a file begin: cut, so that they are valid where the name is as long as may be."""
    return f".{place.name[:24]}."


@cache
def _parts_in(folder: Path) -> tuple[Path, ...]:
    """Return what killed writers of any file in a folder have left there when this process first wrote to it."""
    with suppress(OSError), os.scandir(folder) as entries:
        return tuple(Path(entry.path) for entry in entries if entry.name.endswith(_PART) and entry.name[0] == ".")
    return ()


def _remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove those hidden folders that no living process writes to."""
    for folder in folders:
        with _taken(folder) as alone:
            if alone:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _taken(folder: Path) -> Iterator[bool]:
    """Lock a folder; yield whether it is this process's alone, which it never is if it is gone.

    Where there are no locks, as on Windows, every folder is everybody's.
    """
    if fcntl is None:
        yield folder.is_dir()
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:  # a file system without locks
            alone = folder.is_dir()
        else:
            alone = folder.is_dir() and os.path.samestat(os.fstat(descriptor), folder.stat())
        yield alone
    finally:
        os.close(descriptor)
