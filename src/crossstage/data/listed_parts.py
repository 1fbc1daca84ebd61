"""YAML files that describe a dataset: Ultralytics' ``data.yaml``, and lists of parts in any format.

A part is a folder, a text file that lists images, an annotation file, a pattern, or a list of these. Paths begin at
``path``, which may itself be absolute, begin at the file's folder, or not be there at all, as in files from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from crossstage.data.class_names import class_name
from crossstage.data.faults import Fault, Reading
from crossstage.data.formats import FORMATS, format_names
from crossstage.data.formats.base import ListedPart, Names, Reader
from crossstage.data.named import plain_path
from crossstage.data.recognising import format_of_file, formats_of, only, weak_format
from crossstage.data.records import Dataset, joined
from crossstage.errors import DataError, did_you_mean
from crossstage.inference.sources import IMAGE_SUFFIXES
from crossstage.reading.finding import find_files
from crossstage.reading.numbers import whole
from crossstage.reading.text import shown, visible
from crossstage.reading.yaml import read_yaml

SPLITS = ("train", "val", "test")
YAML_SUFFIXES = (".yaml", ".yml")
KEYS = (*SPLITS, "names", "nc")  # one of these makes a YAML file the description of a dataset
MOST_CLASSES = 100_000
MOST_PATHS = 10_000  # of a part


@dataclass(frozen=True)
class Description:
    """What a YAML file says, with the paths resolved.

    Attributes:
        file: The file.
        format: The name of the format of its parts.
        parts: A reader of each part.
        notes: What is odd about it.
    """

    file: Path
    format: str
    parts: Mapping[str, Reader]
    notes: tuple[Fault, ...]


def describing_files(folder: Path) -> list[Path]:
    """Return the YAML files of a folder that describe a dataset; one that cannot be read may be one."""
    return [file for file in find_files(folder, YAML_SUFFIXES, deep=False).files if _describes(file)]


def _describes(file: Path) -> bool:
    try:
        return any(key in read_yaml(file, DataError, "a description of a dataset") for key in KEYS)
    except DataError:
        return True


def describing_file(folder: Path) -> Path:
    """Return the one YAML file of a folder that describes a dataset.

    Raises:
        DataError: There is none, or there are several.
    """
    found = describing_files(folder)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{folder}: YAML files: {names}; expected a single one")
    return found[0]


def check_format(format: object, where: str = "") -> None:
    """Raise a DataError unless a format is called so."""
    if not isinstance(format, str) or format not in FORMATS:
        hint = did_you_mean(str(format)[:80].lower(), FORMATS)
        raise DataError(f"{where}format {shown(format)}; expected one of {', '.join(format_names())}{hint}")


def described(path: Path, format: str | None) -> Description:
    """Read a YAML file that names parts.

    Args:
        path: The file.
        format: The format of the parts, where it is known.

    Raises:
        DataError: It makes no sense, or what it names is not there.
    """
    content = read_yaml(path, DataError, "train, val, names", text=("names",))
    notes: list[str] = []
    root = _root(path, content, notes)
    names = _names(path, content)
    entries = {split: content[split] for split in SPLITS if content.get(split)}
    if not entries:
        raise DataError(f"{path}: no train, val or test; expected at least one of them")
    if content.get("download"):
        notes.append("download is passed over: nothing is fetched and nothing of it is run")
    if content.get("format") is not None:
        check_format(content["format"], f"{path}: ")
        format = format or content["format"]
    places: dict[str, list[_Place]] = {}
    for split, entry in entries.items():
        try:
            places[split] = _places(path, root, split, entry)
        except DataError as error:
            if split != "test" or len(entries) == 1:
                raise
            notes.append(f"test is passed over: {error}")  # many files name one that nobody made
    readers: dict[str, Reader] = {}
    for split, of_split in places.items():
        format = format or _listed_format(of_split[0])
        train = places.get("train", of_split)[0].path
        parts = [ListedPart(split, each.path, names, train, path, root, content, each.images) for each in of_split]
        several = [_listed_reader(format, part) for part in parts]
        readers[split] = several[0] if len(several) == 1 else partial(_read_several, several)
    assert format
    return Description(path, format, readers, tuple(Fault(path, None, note, broken=False) for note in notes))


@dataclass(frozen=True)
class _Place:
    """Where a piece of a part lies; or its images, of a pattern that fits some."""

    path: Path
    images: tuple[Path, ...] | None = None


def _root(file: Path, content: Mapping[str, Any], notes: list[str]) -> Path:
    stated = content.get("path")
    if stated is None:
        return file.parent
    if not isinstance(stated, str):
        raise DataError(f"{file}: path: {shown(stated)}; expected the name of a folder")
    named = plain_path(stated)
    for base in (file.parent / named, Path(named)):
        if named and _is_dir(base):
            return base
    if named not in ("", "."):
        notes.append(f"path {shown(stated)} is not there; paths begin at {file.parent}")
    return file.parent


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _places(file: Path, root: Path, split: str, entry: object) -> list[_Place]:
    listed = entry if isinstance(entry, list) else [entry]
    if not listed or len(listed) > MOST_PATHS or not all(isinstance(each, str) and each for each in listed):
        raise DataError(f"{file}: {split}: {shown(entry)}; expected a path, or a list of paths")
    try:
        return [place for each in listed for place in _resolved(root, str(each))]
    except DataError as error:
        raise DataError(f"{file}: {split}: {error}") from None


def _resolved(root: Path, named: str) -> list[_Place]:
    """Return what a path means: from the file's folder, from the dataset's root, absolute, or a pattern."""
    plain = plain_path(named)
    candidates = [root / plain, root / plain.removeprefix("../"), Path(plain)] if plain else []
    for candidate in candidates:
        try:
            if candidate.exists():
                return [_Place(candidate)]
        except (OSError, ValueError):
            continue
    if plain and set(plain) & set("*?["):
        found = _matching(root / plain)
        images = tuple(path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        others = [_Place(path) for path in found if path.is_dir()]
        if images or others:
            return [_Place(images[0].parent, images)] if images else others[:MOST_PATHS]
    raise DataError(f"{visible(root / plain if plain else shown(named))}: no such file or folder")


def _matching(pattern: Path) -> list[Path]:
    """Return what fits a pattern, sorted; nothing if it is none."""
    try:
        return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    except (OSError, ValueError, IndexError):
        return []


def _listed_format(place: _Place) -> str:
    """Return the format of a part that a YAML file names."""
    part = place.path
    if place.images is None:
        if part.is_file() and part.suffix.lower() in YAML_SUFFIXES:
            raise DataError(f"{part}: a YAML file; expected the images or labels of a part")
        if found := {} if part.is_file() else formats_of(part):
            return only(part, found)[0]
    if listed := next((name for name in format_names() if FORMATS[name].fits_listed(part)), None):
        return listed
    if part.is_file():
        return format_of_file(part)[0]
    if describing_files(part):
        raise DataError(f"{part}: holds a YAML file; expected the images or labels of a part")
    if weak := weak_format(part):
        return weak[0]
    raise DataError(f"{part}: no images or labels were recognised; expected those of a part")


def _listed_reader(format: str, part: ListedPart) -> Reader:
    record = FORMATS[format]
    if record.read_listed:
        return record.read_listed(part)
    found = record.parts(part.path, part.names)
    if not found:
        raise DataError(f"{part.path}: nothing in format {format!r} was found there")
    return found.get(part.split) or next(iter(found.values()))


def _read_several(readers: Sequence[Reader]) -> Reading[Dataset]:
    """Read the pieces of a part one after the other."""
    readings = [read() for read in readers]
    pieces = [reading.data for reading in readings if reading.data is not None]
    faults = tuple(fault for reading in readings for fault in reading.faults)
    return Reading(joined(pieces) if pieces else None, faults, sum(reading.skipped for reading in readings))


def _names(path: Path, content: Mapping[str, Any]) -> Names:
    """Return class names by id, as a list; or by folder name, as a dictionary."""
    names = content.get("names")
    if isinstance(names, dict) and names and all(_is_id(key) for key in names):
        by_id = {whole(key): name for key, name in names.items()}
        if sorted(by_id) != list(range(len(names))):
            raise DataError(f"{path}: names of classes {sorted(by_id)[:8]}; expected 0 to {len(names) - 1}")
        names = [by_id[key] for key in range(len(names))]
    if isinstance(names, dict):
        return {str(key): _name(path, shown(key), value) for key, value in names.items()}
    if names is not None and (not isinstance(names, list) or not names):
        raise DataError(f"{path}: names: {shown(names)}; expected a list, or names by id")
    counted = _count(path, content.get("nc"))
    if names is None:
        return None if counted is None else [f"class{number}" for number in range(counted)]
    if counted is not None and counted != len(names):
        raise DataError(f"{path}: nc is {counted}, and there are {len(names)} names; expected as many")
    return [_name(path, str(number), name) for number, name in enumerate(names)]


def _is_id(key: object) -> bool:
    try:
        return whole(key) >= 0
    except ValueError:
        return False


def _name(path: Path, key: str, value: object) -> str:
    try:
        return class_name(value)
    except DataError as error:
        raise DataError(f"{path}: names: {key}: {error}") from None


def _count(path: Path, value: object) -> int | None:
    try:
        count = None if value is None else whole(value)
    except ValueError as error:
        raise DataError(f"{path}: nc: {error}") from None
    if count is not None and not 1 <= count <= MOST_CLASSES:
        raise DataError(f"{path}: nc is {count}; expected 1 to {MOST_CLASSES}")
    return count
