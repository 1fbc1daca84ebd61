"""Classification data in parquet files with the images inside, as Hugging Face's library writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossstage.data.faults import Fault, Reading
from crossstage.data.formats.base import DataFormat, Names, Reader, split_of
from crossstage.data.records import ClassificationData
from crossstage.errors import ConfigError


class _Column(Sequence):
    """Images of a parquet table, read when asked for; the table stays one block that processes share."""

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Any) -> Any:
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
    """Return class names as Hugging Face's library stores them in a file's metadata; None if there are none."""
    try:
        return json.loads(schema.metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    files: dict[str, list[Path]] = {}
    for file in [path] if path.is_file() else sorted(path.rglob("*.parquet")):
        files.setdefault(split_of(file.name) or "train", []).append(file)
    if path.is_file():
        for file in sorted(path.parent.glob("*.parquet")):
            if (split := split_of(file.name)) and split not in files:
                files[split] = [file]
    class_names = list(names) if names else None
    return {split: partial(read_parquet, found, class_names) for split, found in files.items()}


FORMATS = {
    "parquet": DataFormat(
        task="classify",
        parts=_parts,
        looked_for="*.parquet",
        suffixes=(".parquet",),
        fits_folder=lambda folder: any(folder.rglob("*.parquet")),
        order=50,
    )
}
