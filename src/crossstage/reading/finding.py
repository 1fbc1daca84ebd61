"""The files of a folder: endings in any case, links followed once, without what a system keeps for itself."""

from __future__ import annotations

import os
import time
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath

from crossstage.errors import DataError
from crossstage.reading.text import visible

HIDDEN = "hidden"
AGAIN = "linked again"
BROKEN = "broken link"
CLOSED = "cannot be entered"
NO_FILE = "no file"
NO_ENDING = "no ending"
# What Windows, macOS and network storage keep in folders beside the files of people.
_OF_SYSTEMS = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "#recycle"),
    *("#snapshot", "$recycle.bin", "recycler", "system volume information", "lost+found", "@recycle", "@tmp"),
}
_SETTLED_NS = 200_000_000  # a folder that changed less than this ago may change again within its clock's tick


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        files: The files with an ending that was asked for, below the folder's own path, sorted.
        passed_over: How many others there are, by their ending in lower case (``".mts"``), or by a reason.
    """

    files: tuple[Path, ...]
    passed_over: Mapping[str, int]


def find_files(folder: Path, suffixes: Collection[str], *, deep: bool = True) -> Found:
    """Find the files of a folder that have one of some endings.

    Symbolic links are followed, each real folder is entered once, and by its own place if it has one below ``folder``.
    Hidden files and folders, and those of operating systems, are left out, unless ``folder`` itself is one.

    Args:
        folder: Where to look.
        suffixes: Endings with their dot; they are compared without case.
        deep: Whether to look in folders of folders, too.

    Returns:
        What is there.

    Raises:
        DataError: ``folder`` is no folder, or may not be entered.
    """
    endings = tuple(suffix.lower() for suffix in suffixes)
    files: list[str] = []
    passed_over: Counter[str] = Counter()
    linked: list[str] = []
    try:
        seen = _above(folder)
        with os.scandir(folder):
            pass
    except (OSError, ValueError) as error:
        raise DataError(f"{visible(folder)}: {getattr(error, 'strerror', None) or error}; expected a folder") from None
    waiting = [str(folder)]
    while waiting or linked:
        place = waiting.pop() if waiting else linked.pop(0)  # links wait for folders that are really there
        if not _enter(place, seen, passed_over):
            continue
        for entry in _entries(place, passed_over):
            if is_hidden(entry.name):
                passed_over[HIDDEN] += 1
            elif not _is_folder(entry):
                _sort_in(entry, endings, files, passed_over)
            elif deep:
                (linked if entry.is_symlink() else waiting).append(entry.path)
    return Found(tuple(sorted(map(Path, files), key=lambda file: file.parts)), dict(sorted(passed_over.items())))


def beside(stem: Path, suffixes: Collection[str]) -> Path | None:
    """Return the file ``stem.*`` whose ending is one of some, in any case; None if there is none.

    Args:
        stem: The path without an ending; dots in its name belong to the name.
        suffixes: Endings with their dot; of several files that of the first counts, in a set by the alphabet.
    """
    try:
        changed = stem.parent.stat().st_mtime_ns
        settled = time.time_ns() - changed > _SETTLED_NS
        names = (_listed if settled else _listed.__wrapped__)(str(stem.parent), changed).get(composed(stem.name), ())
    except (OSError, ValueError):
        return None
    wanted = sorted(suffixes) if isinstance(suffixes, (set, frozenset)) else list(suffixes)
    ranks = {suffix.lower(): rank for rank, suffix in reversed(list(enumerate(wanted)))} if names else {}
    endings = [(PurePath(name).suffix.lower(), name) for name in names]
    found = [
        (ranks[ending], not name.startswith(stem.name), name)  # as it is written comes first
        for ending, name in endings
        if ending in ranks
    ]
    return stem.parent / min(found)[2] if found else None


def composed(name: str) -> str:
    """Return a name whose accents are one character with their letter: macOS writes two, other systems one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or one that an operating system keeps for itself."""
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


@lru_cache(maxsize=8)
def _listed(folder: str, changed: int) -> dict[str, tuple[str, ...]]:  # noqa: ARG001 (a part of the key)
    """Return the names in a folder by what they are without their ending, composed."""
    found: dict[str, tuple[str, ...]] = {}
    with os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries):
            stem = composed(name.removesuffix(PurePath(name).suffix))
            found[stem] = (*found.get(stem, ()), name)
    return found


def _above(folder: Path) -> set[tuple[int, int]]:
    """Return the real folders that a folder lies in: a link to one of them leads in a circle."""
    above = [parent.stat() for parent in folder.resolve().parents]
    return {(status.st_dev, status.st_ino) for status in above}


def _enter(place: str, seen: set[tuple[int, int]], passed_over: Counter[str]) -> bool:
    """Return whether a folder has not been entered yet, under this name or another."""
    try:
        status = Path(place).stat()
    except OSError:
        passed_over[BROKEN] += 1
        return False
    real = status.st_dev, status.st_ino
    if real in seen:
        passed_over[AGAIN] += 1
        return False
    seen.add(real)
    return True


def _entries(place: str, passed_over: Counter[str]) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(place) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError:
        passed_over[CLOSED] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


def _sort_in(entry: os.DirEntry[str], endings: tuple[str, ...], files: list[str], passed_over: Counter[str]) -> None:
    """Put a file with those that were asked for, or count it with the others."""
    try:
        is_file = entry.is_file()
    except OSError:
        is_file = False
    if not is_file:
        passed_over[BROKEN if entry.is_symlink() else NO_FILE] += 1
    elif entry.name.lower().endswith(endings):
        files.append(entry.path)
    else:
        passed_over[PurePath(entry.name).suffix.lower() or NO_ENDING] += 1
