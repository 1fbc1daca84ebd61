"""A dataset on disk: which format it is in, which parts it has, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from crossstage.data.faults import Fault, OnBadLabel, Reading
from crossstage.data.formats import FORMATS, format_names
from crossstage.data.formats.base import Reader
from crossstage.data.listed_parts import (
    YAML_SUFFIXES,
    check_format,
    described,
    describing_file,
    describing_files,
)
from crossstage.data.recognising import format_of_file, formats_of, only, weak_format
from crossstage.data.records import Dataset, DetectionData, split_off
from crossstage.errors import DataError
from crossstage.reading.text import shortened

HELD_OUT = 0.1  # share of the training images that validate, where a dataset has no validation part
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
        why: By what the format was recognised.
        notes: What is odd about the dataset as a whole.
    """

    path: Path
    format: str
    parts: Mapping[str, Reader]
    pick: Callable[[str | None], Reader] | None = None
    why: str = ""
    notes: tuple[Fault, ...] = ()

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
    source: DataSource,
    *,
    on_bad_label: OnBadLabel = "refuse",
    tolerated: Callable[[Fault], bool] = lambda _: False,
    seed: int = 0,
) -> tuple[Reading[Dataset], Reading[Dataset], str]:
    """Read what a model is trained on and what it is validated on.

    Args:
        source: A dataset with a part "train".
        on_bad_label: Whether broken labels are skipped or refused.
        tolerated: Tells which faults are skipped in any case.
        seed: Chooses the images that are held out if there is no other part.

    Returns:
        Both parts, each with its faults, and a description of where the second comes from.

    Raises:
        DataError: There is no part "train", a part has broken labels that are not to be skipped, or no label at all,
            or there are too few images.
    """
    if "train" not in source.parts:
        raise DataError(f"{source.path}: no part 'train'; it has {', '.join(source.parts)}")
    train = source.parts["train"]()
    images = train.usable(on_bad_label, tolerated)
    _check_labelled(train, "train", "learn")
    if split := source.val_split():
        val = source.parts[split]()
        val.usable(on_bad_label, tolerated)
        _check_labelled(val, split, "measure by")
        return train, val, f"the part {split!r}"
    rest, held = split_off(images, HELD_OUT, seed)
    _check_labelled(Reading(held), "held-out", "measure by")
    return replace(train, data=rest), Reading(held), f"{HELD_OUT:.0%} of the training images, held out"


def _check_labelled(reading: Reading[Dataset], part: str, use: str) -> None:
    """Refuse a part without a single label that counts.

    Raises:
        DataError: It is one; the message says what there is instead.
    """
    data = reading.data
    if isinstance(data, DetectionData) and (why := without_labels(data)):
        looked = [fault.text for fault in reading.faults if not fault.broken and fault.text.startswith("no label file")]
        raise DataError(f"{data.path}: the {part} part has nothing to {use}: {'; '.join([why, *looked])}")


def without_labels(data: DetectionData) -> str | None:
    """Return why a part has no label that counts; None if it has one."""
    if data.counts.sum():
        return None
    if crowds := int(data.boxes.crowd.sum()):
        return f"no label but {crowds} crowds or difficult objects, in {len(data)} images"
    return f"no label in any of {len(data)} images"


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
        path: A file or folder in any format of :mod:`crossstage.data.formats`; a YAML file with ``train``, ``val`` and
            ``test``, each one of these, and perhaps ``format`` and ``names``, or a folder with one; or two files with a
            comma between, for training and validation.
        format: The name of the format, where it is not recognised or recognised wrongly.

    Raises:
        DataError: Nothing is there, it is in no known format or in two, it holds several datasets, or a YAML file makes
            no sense.
    """
    if format is not None:
        check_format(format)
    if "," in str(path) and not _exists(Path(path)):
        train, _, val = str(path).partition(",")
        return _pair(Path(train), Path(val), format)
    path = Path(path)
    if not _exists(path):
        raise DataError(f"{shortened(path)}: no such file or folder")
    if path.is_file() and path.suffix.lower() in YAML_SUFFIXES:
        return _from_yaml(path, format)
    if format is None:
        return _recognised(path)
    parts = FORMATS[format].parts(path, None) if path.is_dir() or FORMATS[format].suffixes else {}
    if path.is_dir() and describing_files(path) and (not parts or FORMATS[format].read_listed):
        return _from_yaml(describing_file(path), format)
    return _source(path, format, "it was named")


def _source(path: Path, name: str, why: str) -> DataSource:
    record = FORMATS[name]
    parts = record.parts(path, None)
    if not parts:
        raise DataError(f"{path}: nothing in format {name!r} was found there")
    return DataSource(path, name, parts, partial(record.pick, path) if record.pick else None, why)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _pair(train: Path, val: Path, format: str | None) -> DataSource:
    """Return a dataset of two files, each of which is one part."""
    for path in (train, val):
        if not _exists(path):
            raise DataError(f"{shortened(path)}: no such file or folder")
    if format is None and train.suffix.lower() in YAML_SUFFIXES:
        raise DataError(f"{train},{val}: YAML files; expected a single one that names both parts")
    whole = _recognised(train) if format is None else None
    name = whole.format if whole else str(format)
    record, readers = FORMATS[name], {}
    for split, path in (("train", train), ("val", val)):
        parts = record.parts(path, None)
        if not parts:
            raise DataError(f"{path}: nothing in format {name!r} was found there")
        readers[split] = record.pick(path, None) if record.pick else next(iter(parts.values()))
    return DataSource(train, name, readers, why=whole.why if whole else "it was named")


def _recognised(path: Path) -> DataSource:
    """Return a dataset in the format that it shows itself to be in.

    Raises:
        DataError: No format fits, or several do.
    """
    if path.is_file():
        return _source(path, *format_of_file(path))
    if not path.is_dir():
        raise DataError(f"{path}: neither a file nor a folder; expected a dataset")
    found = formats_of(path)
    if describing_files(path):
        source = _from_yaml(describing_file(path), None)
        only(path, found | {source.format: f"{source.path.name}"})
        return source
    if found:
        return _source(path, *only(path, found))
    if weak := weak_format(path):
        return _source(path, *weak)
    marks = sorted(format_names(), key=lambda name: FORMATS[name].order)
    *first, last = [YAML_LOOKED_FOR, *(FORMATS[name].looked_for for name in marks)]
    raise DataError(f"{path}: no dataset was recognised; looked for {', '.join(first)}, and {last}")


def _from_yaml(path: Path, format: str | None) -> DataSource:
    found = described(path, format)
    return DataSource(path, found.format, found.parts, why=f"{path.name} describes it", notes=found.notes)
