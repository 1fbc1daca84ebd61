"""Classification data: a folder for each class, or parquet files with the images inside."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossstage.data.faults import Fault, Reading
from crossstage.data.records import ClassificationData
from crossstage.errors import ConfigError, DataError
from crossstage.inference.sources import IMAGE_SUFFIXES


def class_folders(root: Path) -> list[Path]:
    """Sub-folders, sorted, hidden ones left out."""
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def read_folder(root: Path, folders: Sequence[str], class_names: Sequence[str]) -> Reading[ClassificationData]:
    """Read a split that has a folder for each class.

    Args:
        root: The split's folder.
        folders: Names of the classes' folders, by class id.
        class_names: What to call them.
    """
    faults: list[Fault] = []
    images: list[Path] = []
    labels: list[int] = []
    skipped = 0
    for folder in class_folders(root):
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        if folder.name not in folders:
            faults.append(Fault(folder, None, f"no class of this name; expected one of {', '.join(folders[:8])}"))
            skipped += len(found)
            continue
        if not found:
            faults.append(Fault(folder, None, "a class without an image", broken=False))
        images += found
        labels += [folders.index(folder.name)] * len(found)
    if not images:
        return Reading(None, (*faults, Fault(root, None, "no image in any class's folder")), skipped)
    names = [str(path) for path in images]
    data = ClassificationData(root, tuple(class_names), names, np.array(labels, np.int64), images)
    return Reading(data, tuple(faults), skipped)


class _Column(Sequence):
    """Images of a parquet table, read when asked for; the table stays one block that processes share."""

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index):  # noqa: ANN001, ANN204 (one entry, as Sequence has it)
        entry = self.column[int(index)].as_py()
        content = entry.get("bytes") if isinstance(entry, dict) else entry
        return content or b""


def read_parquet(files: Sequence[Path], class_names: Sequence[str] | None) -> Reading[ClassificationData]:
    """Read a split that is stored in parquet files, as Hugging Face writes them.

    Args:
        files: They need a column ``image`` (or ``img``) of encoded images, bare or as a struct with ``bytes``, and a
            column ``label`` (or ``labels``, ``fine_label``) of class ids.
        class_names: Names by class id; None takes those in the files' metadata, else "0", "1", ...

    Raises:
        ConfigError: pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError("parquet files need pyarrow: pip install 'crossstage[parquet]'") from None
    path = files[0]
    try:
        table = parquet.read_table([str(file) for file in files])
    except (OSError, pyarrow.ArrowException) as error:
        return Reading(None, (Fault(path, None, f"not a parquet file that can be read: {error}"),))
    image, label = (
        next((name for name in names if name in table.column_names), None)
        for names in (("image", "img"), ("label", "labels", "fine_label"))
    )
    if image is None or label is None:
        columns = ", ".join(table.column_names)
        return Reading(None, (Fault(path, None, f"columns {columns}; expected an image and a label"),))
    labels = np.array([-1 if value is None else value for value in table.column(label).to_pylist()])
    if labels.dtype.kind not in "iu":
        return Reading(None, (Fault(path, None, f"column {label!r} holds {labels.dtype}; expected class ids"),))
    names = tuple(class_names or _stored_names(table.schema, label) or map(str, range(int(labels.max(initial=0)) + 1)))
    good = np.flatnonzero((labels >= 0) & (labels < len(names)))
    faults = [
        Fault(path, None, f"row {row}: label {labels[row]}; expected 0 to {len(names) - 1}")
        for row in np.setdiff1d(np.arange(len(labels)), good)
    ]
    if not len(good):
        return Reading(None, (*faults, Fault(path, None, "no labelled image")), len(labels))
    images: Sequence[bytes] = _Column(table.column(image) if not faults else table.column(image).take(good))
    named = [f"{path}: row {row}" for row in good]
    data = ClassificationData(path, names, named, labels[good].astype(np.int64), images)
    return Reading(data, tuple(faults), len(faults))


def _stored_names(schema: Any, label: str) -> list[str] | None:
    """Class names as Hugging Face's library stores them in a file's metadata."""
    try:
        return json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None


_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_of(name: str) -> str | None:
    """The split that a word in a file's or folder's name tells of, such as ``instances_val2017.json``."""
    return next((_SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLITS), None)


def check_classes(path: Path, folders: Sequence[str]) -> None:
    """Refuse a tree without two classes.

    Raises:
        DataError: There are fewer.
    """
    if len(folders) < 2:
        raise DataError(f"{path}: {len(folders)} class folder{'s' * (len(folders) != 1)}; expected at least 2")
