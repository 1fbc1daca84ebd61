"""No verb writes over what it reads, whatever its options are called."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossstage.errors import DataError
from crossstage.inference.outputs import Inputs

TABLES = ("json", "csv", "save_json")
OUTPUTS = ("out", "json", "csv", "save", "save_json", "write")
INPUTS = ("model", "models", "module", "source", "data", "calib", "file", "weights", "names", "cfg")
DATASETS = ("data", "calib")
LABELS = frozenset(".xml .txt .yaml .yml .csv .parquet .data .names".split())
"""Endings of files in a dataset, or beside its file, that no verb writes to, besides those of images."""
WEIGHTS = frozenset(".safetensors .ckpt .weights".split())
"""Endings of files in a folder that is read, such as a training's, that no verb writes to."""


def check_outputs(given: Namespace) -> None:
    """Refuse to write over an input.

    Args:
        given: The arguments of a verb.

    Raises:
        DataError: An output is an input, or one of the files of a dataset.
    """
    inputs = {name: [Path(text) for text in _texts(getattr(given, name, None))] for name in INPUTS}
    files = [file for named in inputs.values() for file in named if _is(file, Path.is_file)]
    folders = [file for name in DATASETS for file in inputs[name] if _is(file, Path.is_dir)]
    around = [file.parent for name in DATASETS for file in inputs[name] if _is(file, Path.is_file)]
    for name in OUTPUTS:
        option = f"--{name.replace('_', '-')}"
        for text in _texts(getattr(given, name, None)):
            out = Path(text)
            if _is(out, Path.is_file):
                if name in TABLES and _is_image(out):
                    ending = name.rpartition("_")[2]
                    raise DataError(f"{out}: {option} would replace an image; expected a name that ends with .{ending}")
                Inputs(files).check(out, option)
                weights = _inside(out, folders) and out.suffix.lower() in WEIGHTS
                if weights or (_inside(out, [*folders, *around]) and _is_of_dataset(out)):
                    raise DataError(f"{out}: {option} would replace a file of the dataset; expected another place")


def _inside(out: Path, folders: list[Path]) -> bool:
    return any(folder.resolve() in out.resolve().parents for folder in folders)


def _is_image(out: Path) -> bool:
    from crossstage.inference.sources import IMAGE_SUFFIXES

    return out.suffix.lower() in IMAGE_SUFFIXES


def _is_of_dataset(out: Path) -> bool:
    """Return whether a file holds labels or an image, and not, say, a report of an earlier run."""
    from crossstage.data.formats import FORMATS
    from crossstage.data.json_entries import mentions

    ending = out.suffix.lower()
    if ending in LABELS or _is_image(out) or out.parent.name == "annotations" or "annotations" in out.name:
        return True
    kinds = [record.fits_file for record in FORMATS.values() if ending in record.suffixes and record.fits_file]
    return any(fits(out) for fits in kinds) or (ending == ".json" and mentions(out, "images", "annotations"))


def _texts(value: Any) -> Iterator[str]:
    """Yield the paths that an argument may name: of a function's the file, of two with a comma each."""
    for text in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(text, str):
            file, colon, _ = text.rpartition(".py:")
            yield f"{file}.py" if colon else text
            if "," in text:
                yield from text.split(",")


def _is(path: Path, kind: Any) -> bool:
    try:
        return kind(path)
    except (OSError, ValueError):  # no name of a file
        return False
