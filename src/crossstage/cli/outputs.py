"""No verb writes over what it reads, whatever its options are called."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crossstage.errors import DataError
from crossstage.inference.outputs import Inputs

OUTPUTS = ("out", "json", "save", "write")
INPUTS = ("model", "models", "module", "source", "data", "calib", "file", "weights", "names", "cfg")
DATASETS = ("data", "calib")
READ = frozenset(
    ".xml .txt .yaml .yml .csv .parquet .jpg .jpeg .png .bmp .tif .tiff .webp .gif .safetensors .ckpt .weights".split()
)
"""Endings of files in the folder of a dataset or a training that no verb writes to."""


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
    for name in OUTPUTS:
        for text in _texts(getattr(given, name, None)):
            out = Path(text)
            if _is(out, Path.is_file):
                Inputs(files).check(out, f"--{name}")
                _refuse_part(out, folders, name)


def _refuse_part(out: Path, folders: list[Path], name: str) -> None:
    """Refuse a file that is there already and is one of a dataset's."""
    labels = out.suffix.lower() in READ or out.parent.name == "annotations" or "annotations" in out.name
    inside = any(folder.resolve() in out.resolve().parents for folder in folders)
    if labels and inside:
        raise DataError(f"{out}: --{name} would replace a file of the dataset; expected another place")


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
