"""What a dataset format is: a record that says how the format is recognised and how its parts are read.

A format is one file with a reader and a table ``FORMATS`` of one record, a :class:`DataFormat`. Those in this folder
are gathered into :data:`crossstage.data.formats.FORMATS`; a program of its own adds its record to that table. Nothing
else knows a format: recognition, ``--format``, ``crossstage data check``, training and measuring take it from there.

1. Write the reader, a function that takes where a part lies and returns a :class:`~crossstage.data.faults.Reading`:
   what is sound, and each :class:`~crossstage.data.faults.Fault` with its file and line. It raises nothing for a broken
   label: who reads decides whether broken labels are refused or skipped. Boxes, and their masks, are collected by a
   :class:`~crossstage.data.records.DetectionBuilder`, an image at a time; images with one label each become a
   :class:`~crossstage.data.records.ClassificationData`.
2. Write ``parts``, which returns a reader without arguments (:func:`functools.partial` makes one) for each of "train",
   "val" and "test" that there are at a path, and nothing where the format is not. It reads no labels yet.
3. Write ``fits_folder``, which looks at names to say whether a folder holds the format; or name the ``suffixes`` of the
   format's files; or both.
4. Add the record::

       FORMATS = {
           "csv": DataFormat(
               task="detect",
               parts=parts,
               looked_for="boxes.csv",
               suffixes=(".csv",),
               fits_folder=lambda folder: (folder / "boxes.csv").is_file(),
           )
       }

5. To write the format, too, add ``write``, which gets the parts, the folder in which their images lie already, and the
   scores of boxes that a model found; say in ``holds`` what it can state beyond boxes.

Formats are tried by ``order``, and the first that fits is taken; two of one order that both fit are refused as
ambiguous. Those that are recognised by what files hold share one order, 60, with the YAML files that name parts of any
format; class folders, which nearly any folder of folders may be, come at 90. The command line lists the formats, so
this folder imports torch inside functions alone, if at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crossstage.data.faults import Reading
from crossstage.data.written import BoxScores
from crossstage.reading.finding import is_hidden

Reader = Callable[[], Reading[Any]]
LabelWriter = Callable[[Mapping[str, Any], Path, BoxScores], None]
"""Writes the labels of parts into a folder in which their images lie already, with scores where a model gave them."""
Names = Sequence[str] | Mapping[str, str] | None
"""Names of classes that a YAML file gives: by class id, or by folder; None where it gives none."""


@dataclass(frozen=True)
class ListedPart:
    """A part of a dataset that a YAML file names.

    Attributes:
        split: "train", "val" or "test".
        path: Where the part lies.
        names: The names of the classes.
        train: Where the training part lies; this part itself if the file names none.
        file: The YAML file.
        root: The folder from which paths begin.
        content: All that the YAML file says.
        images: The images of the part, where the file names them themselves, by a pattern; else None.
    """

    split: str
    path: Path
    names: Names
    train: Path
    file: Path
    root: Path
    content: Mapping[str, Any]
    images: tuple[Path, ...] | None = None


@dataclass(frozen=True)
class DataFormat:
    """How a dataset format is recognised and read; its name is its key in ``FORMATS``.

    Attributes:
        task: What the labels are for: "detect" for boxes, "classify" for one label an image.
        parts: Returns a reader of each part at a path, by "train", "val", "test" or a name of the format's own, in the
            order they are shown; nothing where the format is not. Its second argument are the names of the classes, if
            a YAML file gives them.
        looked_for: What the format is recognised by, for the message that nothing was recognised.
        suffixes: Lower-case endings of the format's files, such as ".json".
        fits_folder: Whether a folder holds the format; a text says by what it is recognised.
        fits_file: Whether a file that ends in one of ``suffixes`` holds the format, as ``fits_folder`` says it.
            Formats that say so are asked before those that take every file of their suffixes, which is what None
            means.
        order: Formats are tried in this order.
        pick: Returns the reader of what a path means when a model is measured and the name of a part does not tell:
            takes the path, and the name of a part or None. By default "val", else "test", else the first part.
        fits_listed: Whether a part that a YAML file names is in this format, where that shows otherwise than by
            ``suffixes`` and ``fits_folder``.
        read_listed: Returns the reader of a part that a YAML file names. By default that of the same name among
            ``parts``, else the first.
        write: Writes the labels of a dataset; None where the format is only read.
        holds: What it can say beyond upright boxes: "masks" of any kind, or "polygons", which are masks of a single
            one; and "crowds", difficult objects that are not to be counted.
        image_folder: Where images are put, before labels are written, with ``{split}`` for the name of the part and
            ``{name}`` for that of the class.
    """

    task: Literal["detect", "classify"]
    parts: Callable[[Path, Names], Mapping[str, Reader]]
    looked_for: str
    suffixes: tuple[str, ...] = ()
    fits_folder: Callable[[Path], object] = lambda _: False
    fits_file: Callable[[Path], object] | None = None
    order: int = 60
    pick: Callable[[Path, str | None], Reader] | None = None
    fits_listed: Callable[[Path], object] = lambda _: False
    read_listed: Callable[[ListedPart], Reader] | None = None
    write: LabelWriter | None = None
    holds: frozenset[str] = frozenset()
    image_folder: str = "images/{split}"


_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders in a folder that are called as parts are, in the order of training, validation and test."""
    try:
        folders = sorted(folder for folder in root.iterdir() if not is_hidden(folder.name) and folder.is_dir())
    except OSError:
        return {}
    named = {_SPLITS[folder.name.lower()]: folder for folder in reversed(folders) if folder.name.lower() in _SPLITS}
    return {split: named[split] for split in ("train", "val", "test") if split in named}


def listed_names(names: Names) -> tuple[str, ...] | None:
    """Return the names of classes by class id that a YAML file gives; None if it gives none or goes by folders."""
    return None if names is None or isinstance(names, Mapping) else tuple(names)


def split_of_folder(name: str) -> str | None:
    """Return the split that a folder is called by, such as "val" of ``Valid``; None if it is called otherwise."""
    return _SPLITS.get(name.lower())


def split_of(name: str) -> str | None:
    """Return the split that a word in a file's or folder's name tells, such as "val" of ``instances_val2017.json``."""
    return next((_SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SPLITS), None)
