"""A dataset on disk: which format it is in, which parts it has, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from crossstage.data.faults import OnBadLabel, Reading
from crossstage.data.formats import FORMATS, format_names
from crossstage.data.formats.base import ListedPart, Names, Reader
from crossstage.data.records import Dataset, split_off
from crossstage.errors import DataError, did_you_mean
from crossstage.files import read_yaml

HELD_OUT = 0.1  # share of the training images that validate, where a dataset has no validation part
SPLITS = ("train", "val", "test")

YAML = "yaml"  # no format: a file that names parts of any format
YAML_SUFFIXES = (".yaml", ".yml")
YAML_ORDER = 30  # when a folder is looked into for one, among the formats' orders
YAML_LOOKED_FOR = "data.yaml (YOLO, or a list of parts)"


@dataclass(frozen=True)
class DataSource:
    """A dataset whose format is known.

    Attributes:
        path: The file or folder, or the YAML file that describes it.
        format: The name of its format.
        parts: A reader of each part, by "train", "val", "test" or a name of the format's own.
        pick: Returns the reader of what the path means when a model is measured, see
            :class:`~crossstage.data.formats.base.DataFormat`; None leaves it to the names of the parts.
    """

    path: Path
    format: str
    parts: Mapping[str, Reader]
    pick: Callable[[str | None], Reader] | None = None

    @property
    def task(self) -> Literal["detect", "classify"]:
        """What the labels are for."""
        return FORMATS[self.format].task

    def read(self, split: str, on_bad_label: OnBadLabel = "refuse") -> Dataset:
        """Read a part.

        Args:
            split: The name of the part.
            on_bad_label: Whether broken labels are skipped or refused.

        Raises:
            DataError: There is no such part, it has broken labels that are not to be skipped, or nothing is sound.
        """
        if split not in self.parts:
            raise DataError(f"{self.path}: no part {split!r}; it has {', '.join(self.parts)}")
        return self.parts[split]().usable(on_bad_label)

    def val_split(self) -> str | None:
        """Return the part that a model is measured on: "val", else "test", else None."""
        return next((split for split in ("val", "test") if split in self.parts), None)


def training_parts(
    source: DataSource, *, on_bad_label: OnBadLabel = "refuse", seed: int = 0
) -> tuple[Reading[Dataset], Reading[Dataset], str]:
    """Read what a model is trained on and what it is validated on.

    Args:
        source: A dataset with a part "train".
        on_bad_label: Whether broken labels are skipped or refused.
        seed: Chooses the images that are held out if there is no other part.

    Returns:
        Both parts, each with its faults, and a description of where the second comes from.

    Raises:
        DataError: There is no part "train", or a part has broken labels that are not to be skipped.
    """
    if "train" not in source.parts:
        raise DataError(f"{source.path}: no part 'train'; it has {', '.join(source.parts)}")
    train = source.parts["train"]()
    images = train.usable(on_bad_label)
    if split := source.val_split():
        val = source.parts[split]()
        val.usable(on_bad_label)
        return train, val, f"the part {split!r}"
    rest, held = split_off(images, HELD_OUT, seed)
    return replace(train, data=rest), Reading(held), f"{HELD_OUT:.0%} of the training images, held out"


def part_to_measure(path: str | Path, split: str | None = None, on_bad_label: OnBadLabel = "refuse") -> Dataset:
    """Read the part of a dataset that a model is measured on.

    Args:
        path: A dataset, see :func:`find_data`; a single COCO file is taken as it is.
        split: "train", "val" or "test", or part of the name of one of several COCO files; by default "val", else
            "test", else what there is.
        on_bad_label: Whether broken labels are skipped or refused.

    Raises:
        DataError: There is no such part, or it has broken labels that are not to be skipped.
    """
    source = find_data(path)
    if source.pick and (source.path.is_file() or split not in source.parts):
        return source.pick(split)().usable(on_bad_label)
    return source.read(split or source.val_split() or next(iter(source.parts)), on_bad_label)


def find_data(path: str | Path, format: str | None = None) -> DataSource:
    """Recognise a dataset.

    Args:
        path: A COCO ``.json`` or a folder with ``annotations/*.json``; a folder in PASCAL VOC's layout; a YOLO
            ``data.yaml``, or a folder with one, or of label files with a ``classes.txt``; a folder with ``images`` and
            ``masks`` of PNG files; a tree with a folder for each
            class, ``[train|val|test]/<class>/*.jpg``; a parquet file or a folder of them; a YAML file with ``train``,
            ``val`` and ``test``, each one of these, and perhaps ``format`` and ``names``; or two files with a comma
            between, for training and validation.
        format: The name of the format, where it is not recognised or recognised wrongly.

    Raises:
        DataError: Nothing is there, it is in no known format or in two, or a YAML file makes no sense.
    """
    if format is not None:
        _check_format(format)
    if "," in str(path) and not Path(path).exists():
        train, _, val = str(path).partition(",")
        return _pair(Path(train), Path(val), format)
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_file() and path.suffix.lower() in YAML_SUFFIXES:
        return _from_yaml(path, format)
    name = format or _recognised(path)
    if name == YAML:
        return _from_yaml(_yaml_in(path), None)
    parts = FORMATS[name].parts(path, None)
    if not parts and path.is_dir() and _yaml_files(path):
        return _from_yaml(_yaml_in(path), name)
    if not parts:
        raise DataError(f"{path}: nothing in format {name!r} was found there")
    pick = FORMATS[name].pick
    return DataSource(path, name, parts, partial(pick, path) if pick else None)


def _check_format(name: object, where: str = "") -> None:
    """Raise a DataError unless a format is called so."""
    if not isinstance(name, str) or name not in FORMATS:
        hint = did_you_mean(str(name).lower(), FORMATS)
        raise DataError(f"{where}format {name!r}; expected one of {', '.join(format_names())}{hint}")


def _pair(train: Path, val: Path, format: str | None) -> DataSource:
    """Return a dataset of two files, each of which is one part."""
    for path in (train, val):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
    name = format or _recognised(train)
    if name == YAML:
        raise DataError(f"{train},{val}: YAML files; expected a single one that names both parts")
    record, readers = FORMATS[name], {}
    for split, path in (("train", train), ("val", val)):
        parts = record.parts(path, None)
        if not parts:
            raise DataError(f"{path}: nothing in format {name!r} was found there")
        readers[split] = record.pick(path, None) if record.pick else next(iter(parts.values()))
    return DataSource(train, name, readers)


def _recognised(path: Path) -> str:
    """Return the format of a file or folder, or ``YAML``.

    Raises:
        DataError: No format fits, or two do that are tried at once.
    """
    if path.is_dir():
        fits = {name: (record.order, record.fits_folder) for name, record in FORMATS.items()}
        fits[YAML] = (YAML_ORDER, _yaml_files)
    else:
        ending = path.suffix.lower()
        fits = {
            name: ((record.fits_file is None, record.order), record.fits_file or Path.is_file)
            for name, record in FORMATS.items()
            if ending in record.suffixes
        }
    order = sorted(fits, key=lambda name: fits[name][0])
    for _, names in groupby(order, key=lambda name: fits[name][0]):
        found = [name for name in names if fits[name][1](path)]
        if len(found) > 1:
            raise DataError(f"{path}: may be in format {' or '.join(sorted(found))}; expected one of them to be named")
        if found:
            return found[0]
    if path.is_dir():
        marks = [(FORMATS[name].order, FORMATS[name].looked_for) for name in format_names()]
        marks = sorted([*marks, (YAML_ORDER, YAML_LOOKED_FOR)], key=lambda mark: mark[0])
        *first, last = (text for _, text in marks)
        raise DataError(f"{path}: no dataset was recognised; looked for {', '.join(first)}, and {last}")
    suffixes = [suffix for name in format_names() for suffix in FORMATS[name].suffixes]
    known = ", ".join(dict.fromkeys([*suffixes, *YAML_SUFFIXES]))
    raise DataError(f"{path}: a file in no format that is known; expected one of {known}")


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(file for suffix in YAML_SUFFIXES for file in folder.glob(f"*{suffix}"))


def _yaml_in(folder: Path) -> Path:
    found = _yaml_files(folder)
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{folder}: YAML files: {names}; expected a single one")
    return found[0]


def _from_yaml(path: Path, format: str | None) -> DataSource:
    """Read Ultralytics' ``data.yaml`` or a dataset YAML of ours; the latter's parts are in any format."""
    content = read_yaml(path, DataError, "train, val, names")
    root = path.parent
    if isinstance(content.get("path"), str):
        root = next((base for base in (root / content["path"], Path(content["path"])) if base.is_dir()), root)
    names = _names(path, content)
    entries = {split: content[split] for split in SPLITS if content.get(split)}
    if not entries:
        raise DataError(f"{path}: no train, val or test; expected at least one of them")
    if content.get("format") is not None:
        _check_format(content["format"], f"{path}: ")
        format = format or content["format"]
    readers: dict[str, Reader] = {}
    for split, entry in entries.items():
        part = _resolved(root, _single_path(path, split, entry))
        format = format or _listed_format(part)
        train = _resolved(root, _single_path(path, "train", entries["train"])) if "train" in entries else part
        readers[split] = _listed_reader(format, ListedPart(split, part, names, train, path))
    assert format
    return DataSource(path, format, readers)


def _single_path(path: Path, split: str, entry: object) -> str:
    listed = entry if isinstance(entry, list) else [entry]
    if len(listed) != 1 or not isinstance(listed[0], str):
        raise DataError(f"{path}: {split}: {entry!r}; expected one path")
    return listed[0]


def _listed_format(part: Path) -> str:
    """Return the format of a part that a YAML file names."""
    name = next((name for name in format_names() if FORMATS[name].fits_listed(part)), None) or _recognised(part)
    if name == YAML:
        raise DataError(f"{part}: holds a YAML file; expected the images or labels of a part")
    return name


def _listed_reader(format: str, part: ListedPart) -> Reader:
    record = FORMATS[format]
    if record.read_listed:
        return record.read_listed(part)
    found = record.parts(part.path, part.names)
    if not found:
        raise DataError(f"{part.path}: nothing in format {format!r} was found there")
    return found.get(part.split) or next(iter(found.values()))


def _resolved(root: Path, named: str) -> Path:
    """Return a path as YOLO files name it: from the file's folder, from the dataset's root, or absolute."""
    candidates = [root / named, root / named.removeprefix("../"), Path(named)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise DataError(f"{root / named}: no such file or folder")


def _names(path: Path, content: Mapping[str, Any]) -> Names:
    """Return class names by id, as a list; or by folder name, as a dictionary."""
    names = content.get("names")
    if isinstance(names, dict) and names and all(isinstance(key, int) for key in names):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{path}: names of classes {sorted(names)[:8]}; expected 0 to {len(names) - 1}")
        names = [names[key] for key in range(len(names))]
    if isinstance(names, dict):
        return {str(key): str(value) for key, value in names.items()}
    if names is not None and (not isinstance(names, list) or not names):
        raise DataError(f"{path}: names: {names!r}; expected a list, or names by id")
    counted = content.get("nc")
    if names is not None and counted is not None and counted != len(names):
        raise DataError(f"{path}: nc is {counted}, and there are {len(names)} names; expected as many")
    return None if names is None else [str(name) for name in names]
