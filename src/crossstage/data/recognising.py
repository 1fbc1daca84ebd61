"""Which formats files and folders are in, by what they hold, and by what that shows."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from crossstage.data.formats import FORMATS, format_names
from crossstage.data.formats.base import split_folders
from crossstage.errors import DataError
from crossstage.reading.finding import is_hidden
from crossstage.reading.text import visible

WEAK = 90  # the order of formats that are taken where nothing else fits
LOOKED_INTO = 100  # folders of a folder that may hold several datasets
SHOWN = 8


def formats_of(folder: Path) -> dict[str, str]:
    """Return the formats that a folder is in, and by what each is recognised, those of the first order that fits."""
    return next(iter(_by_order(folder)), {})


def _by_order(folder: Path) -> list[dict[str, str]]:
    names = sorted(format_names(), key=lambda name: FORMATS[name].order)
    found: list[dict[str, str]] = []
    for order, group in groupby(names, key=lambda name: FORMATS[name].order):
        if order < WEAK and (fitting := _fitting(folder, list(group))):
            found.append(fitting)
            break
    return found


def _fitting(path: Path, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        record = FORMATS[name]
        fits = (record.fits_file or Path.is_file) if path.is_file() else record.fits_folder
        if why := fits(path):
            found[name] = why if isinstance(why, str) else record.looked_for
    return found


def weak_format(folder: Path) -> tuple[str, str] | None:
    """Return the format that a folder may be in for lack of a better one, and by what it is recognised.

    Raises:
        DataError: Its folders look like datasets of their own.
    """
    inner = datasets_in(folder)
    if inner:
        listed = ", ".join(f"{name} ({format})" for name, format in list(inner.items())[:SHOWN])
        more = f" and {len(inner) - SHOWN} more" if len(inner) > SHOWN else ""
        several = "several datasets" if len(inner) > 1 else "a dataset in a folder"
        raise DataError(f"{visible(folder)}: looks like {several}: {visible(listed)}{more}; expected one of them")
    for name in format_names():
        if FORMATS[name].order >= WEAK and (found := _fitting(folder, [name])):
            return name, found[name]
    return None


def datasets_in(folder: Path) -> dict[str, str]:
    """Return the folders of a folder that are datasets of their own, and their formats."""
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    except OSError:
        return {}
    found: dict[str, str] = {}
    trees = []
    for inner in folders[:LOOKED_INTO]:
        if formats := formats_of(inner):
            found[inner.name] = " or ".join(formats)
        elif "train" in split_folders(inner):
            trees.append(inner.name)
    if len(found) + len(trees) > 1:
        found |= dict.fromkeys(trees, "folder")
    return dict(sorted(found.items()))


def format_of_file(path: Path) -> tuple[str, str]:
    """Return the format of a file, and by what it is recognised.

    Raises:
        DataError: It is in none that is known, or in two.
    """
    ending = path.suffix.lower()
    names = [name for name in format_names() if ending in FORMATS[name].suffixes]
    order = sorted(names, key=lambda name: (FORMATS[name].fits_file is None, FORMATS[name].order))
    for _, group in groupby(order, key=lambda name: (FORMATS[name].fits_file is None, FORMATS[name].order)):
        if found := _fitting(path, list(group)):
            return only(path, found)
    suffixes = dict.fromkeys(suffix for name in format_names() for suffix in FORMATS[name].suffixes)
    known = ", ".join([*suffixes, ".yaml", ".yml"])
    raise DataError(f"{path}: a file in no format that is known; expected one of {known}")


def only(path: Path, found: Mapping[str, str]) -> tuple[str, str]:
    """Return the one format that was found.

    Raises:
        DataError: There are several.
    """
    if len(found) > 1:
        why = "; ".join(f"{name}: {text}" for name, text in sorted(found.items()))
        names = " or ".join(sorted(found))
        raise DataError(f"{path}: may be in format {names}; expected one of them to be named ({visible(why)})")
    ((name, text),) = found.items()
    return name, text
