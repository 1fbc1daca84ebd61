"""Classification data in parquet files with the images inside, as Hugging Face's library writes them.

A parquet file of a few kilobytes can stand for gigabytes: what it claims is held against its length before it is read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossstage.data.faults import Fault, Reading
from crossstage.data.formats.base import DataFormat, Names, Reader, split_of
from crossstage.data.records import ClassificationData
from crossstage.errors import DataError, not_installed
from crossstage.reading.finding import find_files
from crossstage.reading.text import shown, visible

FILES = (".parquet",)
IMAGE, LABEL = ("image", "img"), ("label", "labels", "fine_label")
MAX_ROWS = 20_000_000
MAX_CLASSES = 100_000
MOST_FAULTS = 1_000  # that are told one by one
MOST_INFLATED, FREE_BYTES = 20, 256 << 20  # bytes of content for each byte of a file, beyond some that are free
MOST_SHARED = 1 << 30  # bytes of a group of rows up to which equal images are kept once, as the file keeps them


class _Column(Sequence):
    """Images of a parquet table, read when asked for; the table stays one block that processes share."""

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Any) -> Any:
        entry = self.column[int(index)].as_py()
        content = entry.get("bytes") if isinstance(entry, dict) else entry
        return content if isinstance(content, bytes) else b""


class _Rows(Sequence):
    """What the rows of a table are called, by their numbers in it."""

    def __init__(self, path: Path, numbers: NDArray[np.int64]) -> None:
        self.path, self.numbers = path, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        return f"{self.path}: row {self.numbers[index]}"


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
        import pyarrow as pa
    except ImportError:
        raise not_installed("pyarrow", "parquet") from None
    path = files[0]
    try:
        tables = [_table(file) for file in files]
        table = pa.concat_tables([each.rename_columns(("image", "label")) for each in tables])
        labels = _class_ids(table.column("label"))
    except DataError as error:
        return Reading(None, (Fault(path, None, str(error)),))
    except Exception as error:  # pyarrow's own errors, and Python's for what a file's schema can lead to
        return Reading(None, (Fault(path, None, f"not a parquet file that can be read: {shown(str(error), 200)}"),))
    names = tuple(class_names or _stored_names(tables[0].schema) or map(str, range(int(labels.max(initial=0)) + 1)))
    right = (labels >= 0) & (labels < len(names))
    good, bad = np.flatnonzero(right), np.flatnonzero(~right)
    faults = [
        Fault(path, None, f"row {row}: label {labels[row]}; expected 0 to {len(names) - 1}")
        for row in bad[:MOST_FAULTS].tolist()
    ]
    if len(bad) > MOST_FAULTS:
        faults.append(Fault(path, None, f"{len(bad) - MOST_FAULTS:,} more rows with such labels"))
    if not len(good):
        return Reading(None, (*faults, Fault(path, None, "no labelled image")), len(labels))
    images: Sequence[bytes] = _Column(table.column("image") if not len(bad) else table.column("image").take(good))
    data = ClassificationData(path, names, _Rows(path, good), labels[good], images)
    return Reading(data, tuple(faults), len(bad))


def _table(file: Path) -> Any:
    """Return the columns of images and labels of a file.

    Raises:
        DataError: It lacks one, or claims more than a file of its length can hold.
    """
    from pyarrow import parquet

    with parquet.ParquetFile(file) as opened:
        about, columns = opened.metadata, opened.schema_arrow.names
        image, label = (next((name for name in names if name in columns), None) for names in (IMAGE, LABEL))
        if image is None or label is None:
            raise DataError(f"columns {visible(', '.join(columns[:20]))[:200]}; expected an image and a label")
        wanted = _content_column(opened.schema_arrow.field(image))
    largest = _checked_size(file, about)
    shared = [wanted] if largest <= MOST_SHARED else []
    with parquet.ParquetFile(file, read_dictionary=shared) as opened:
        table = opened.read(columns=[wanted, label])
    return table.select([image, label])


def _content_column(field: Any) -> str:
    """Return the path of the column that holds the encoded images.

    Raises:
        DataError: It holds no bytes.
    """
    import pyarrow as pa

    held, name = field.type, field.name
    if pa.types.is_struct(held) and held.get_field_index("bytes") >= 0:
        held, name = held.field("bytes").type, f"{name}.bytes"
    if not (pa.types.is_binary(held) or pa.types.is_large_binary(held)):
        raise DataError(f"column {name!r} holds {shown(str(held))}; expected the bytes of image files")
    return name


def _checked_size(file: Path, about: Any) -> int:
    """Return the bytes of a file's largest group of rows.

    Raises:
        DataError: It claims more rows or bytes than a file of its length can hold.
    """
    length = file.stat().st_size
    most = min(MAX_ROWS, length)
    if about.num_rows > most:
        raise DataError(f"{about.num_rows:,} rows in {length:,} bytes; expected at most {most:,}")
    sizes = [
        sum(group.column(place).total_uncompressed_size for place in range(group.num_columns))
        for group in map(about.row_group, range(about.num_row_groups))
    ]
    if sum(sizes) > MOST_INFLATED * length + FREE_BYTES:
        raise DataError(
            f"{sum(sizes):,} bytes in a file of {length:,}; expected images, which can hardly be compressed"
        )
    return max(sizes, default=0)


def _class_ids(column: Any) -> NDArray[np.int64]:
    """Return a column of class ids, -1 where there is none.

    Raises:
        DataError: It holds something else, or too large numbers.
    """
    import pyarrow as pa

    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"a column of labels holds {shown(str(column.type))}; expected class ids")
    try:
        numbers = column.cast(pa.int64())
    except pa.ArrowInvalid:
        raise DataError("a column of labels holds numbers that are no class ids; expected whole ones from 0") from None
    labels = numbers.fill_null(-1).to_numpy().astype(np.int64)
    if int(labels.max(initial=0)) >= MAX_CLASSES:
        raise DataError(f"label {labels.max():,}; expected fewer than {MAX_CLASSES:,} classes")
    return labels


def _stored_names(schema: Any) -> list[str] | None:
    """Return class names as Hugging Face's library stores them in a file's metadata; None if there are none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = next(features[label]["names"] for label in LABEL if label in features)
    except (KeyError, TypeError, ValueError, RecursionError, StopIteration):
        return None
    usable = isinstance(names, list) and 0 < len(names) <= MAX_CLASSES and all(isinstance(name, str) for name in names)
    return names if usable else None


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    files: dict[str, list[Path]] = {}
    for file in [path] if path.is_file() else find_files(path, FILES).files:
        files.setdefault(split_of(file.name) or "train", []).append(file)
    if path.is_file():
        for file in find_files(path.parent, FILES, deep=False).files:
            if (split := split_of(file.name)) and split not in files:
                files[split] = [file]
    class_names = list(names) if names else None
    return {split: partial(read_parquet, found, class_names) for split, found in files.items()}


FORMATS = {
    "parquet": DataFormat(
        task="classify",
        parts=_parts,
        looked_for="*.parquet",
        suffixes=FILES,
        fits_folder=lambda folder: find_files(folder, FILES).files,
    )
}
