"""Classification data with a folder of images for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from crossstage.data.faults import Fault, Reading
from crossstage.data.formats.base import DataFormat, ListedPart, Names, Reader, split_of, split_of_folder
from crossstage.data.records import ClassificationData
from crossstage.errors import DataError
from crossstage.inference.sources import IMAGE_SUFFIXES, passed_over_text
from crossstage.reading.finding import AGAIN, HIDDEN, find_files, is_hidden
from crossstage.reading.text import visible


def class_folders(root: Path) -> list[Path]:
    """Return the sub-folders of a folder, sorted, without hidden ones and those of operating systems."""
    if not root.is_dir():
        return []
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not is_hidden(folder.name))


def read_folder(root: Path, folders: Sequence[str], class_names: Sequence[str]) -> Reading[ClassificationData]:
    """Read a split that has a folder for each class.

    Args:
        root: The split's folder.
        folders: Names of the classes' folders, by class id.
        class_names: Names of the classes, by class id.
    """
    faults: list[Fault] = []
    images: list[Path] = []
    labels: list[int] = []
    skipped = 0
    for folder in class_folders(root):
        looked = find_files(folder, IMAGE_SUFFIXES)
        found = looked.files
        if folder.name not in folders:
            faults.append(Fault(folder, None, f"no class of this name; expected one of {', '.join(folders[:8])}"))
            skipped += len(found)
            continue
        if not found:
            faults.append(Fault(folder, None, "a class without an image", broken=False))
        if others := {what: count for what, count in looked.passed_over.items() if what not in (HIDDEN, AGAIN)}:
            faults.append(Fault(folder, None, passed_over_text(others), broken=False))
        images += found
        labels += [folders.index(folder.name)] * len(found)
    if not images:
        return Reading(None, (*faults, Fault(root, None, "no image in any class's folder")), skipped)
    names = [str(path) for path in images]
    data = ClassificationData(root, tuple(class_names), names, np.array(labels, np.int64), images)
    return Reading(data, tuple(faults), skipped)


def check_classes(path: Path, folders: Sequence[str]) -> None:
    """Refuse a tree without two classes, such as one of images and of labels in a format that is not known.

    Raises:
        DataError: There are fewer.
    """
    if len(folders) < 2:
        raise DataError(f"{path}: {len(folders)} class folder{'s' * (len(folders) != 1)}; expected at least 2")
    if all(split_of_folder(name) for name in folders):
        listed = ", ".join(folders)
        raise DataError(f"{path}: folders {listed}, and none in them; expected a folder for each class in each part")
    full = list(islice((name for name in folders if find_files(path / name, IMAGE_SUFFIXES).files), 2))
    if len(full) == 1:
        raise DataError(f"{path}: images in folder {visible(full[0])} alone; expected them in at least 2, one a class")


def _classes(train: Path, names: Names, source: Path) -> tuple[list[str], list[str]]:
    """Return the folders of the classes, by class id, and the classes' names.

    Args:
        train: The training part, whose folders are the classes.
        names: Names by id, or by folder; None takes the folders' own.
        source: Where the names come from, for a message.
    """
    folders = [folder.name for folder in class_folders(train)]
    check_classes(train, folders)
    class_names = [names.get(f, f) for f in folders] if isinstance(names, Mapping) else list(names or folders)
    if len(class_names) != len(folders):
        raise DataError(f"{source}: {len(class_names)} names for {len(folders)} class folders; expected as many")
    numbers = [str(number) for number in range(len(folders))]
    if names and sorted(numbers) == folders:  # folders called 0 to 10, which names by id are for
        return numbers, class_names
    return folders, [visible(name) for name in class_names]


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    # a class may be called "train", too; a split has folders in it
    splits = {split: f for f in class_folders(path) if (split := split_of(f.name)) and class_folders(f)}
    if "train" not in splits:
        splits = {"train": path}
    folders, class_names = _classes(splits["train"], names, path)
    return {split: partial(read_folder, root, folders, class_names) for split, root in splits.items()}


def _read_listed(part: ListedPart) -> Reader:
    return partial(read_folder, part.path, *_classes(part.train, part.names, part.file))


def _write(parts: Mapping[str, ClassificationData], folder: Path, _: object) -> None:
    """Make the folders of classes without images; all others lie where they belong already."""
    for split, data in parts.items():
        for name in data.class_names:
            (folder / split / name.replace("/", "_")).mkdir(parents=True, exist_ok=True)


FORMATS = {
    "folder": DataFormat(
        task="classify",
        parts=_parts,
        looked_for="a folder for each class",
        fits_folder=class_folders,
        order=90,
        read_listed=_read_listed,
        write=_write,
        image_folder="{split}/{name}",
    )
}
