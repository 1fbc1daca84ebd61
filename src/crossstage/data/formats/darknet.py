"""Darknet's ``obj.data``: a file that names lists of images and a file of class names, as CVAT writes them, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from crossstage.data.class_names import read_class_names
from crossstage.data.faults import Fault, Reading
from crossstage.data.formats.base import DataFormat, Names, Reader, listed_names
from crossstage.data.formats.yolo import Pair, images_listed, label_lines, label_of, read_yolo
from crossstage.data.named import image_in, plain_path
from crossstage.data.records import DetectionData
from crossstage.data.written import BoxScores, images_of
from crossstage.errors import DataError
from crossstage.reading.finding import find_files
from crossstage.reading.numbers import whole
from crossstage.reading.text import read_lines, shown, visible

MAX_BYTES = 1 << 16
KEYS = {"train": "train", "valid": "val", "val": "val", "test": "test", "eval": "val"}


def read_data_file(file: Path) -> dict[str, str]:
    """Read the options of a ``.data`` file: a key, ``=`` and a value in each line.

    Raises:
        DataError: It cannot be read.
    """
    options: dict[str, str] = {}
    for line in read_lines(file, expected="lines such as names = obj.names", max_bytes=MAX_BYTES):
        key, mark, value = line.partition("#")[0].partition("=")
        if mark and value.strip():
            options.setdefault(key.strip().lower(), value.strip())
    return options


def _is_data_file(file: Path) -> bool:
    try:
        options = read_data_file(file)
    except DataError:
        return False
    return "names" in options and any(key in options for key in KEYS)


def _data_file(folder: Path) -> Path | None:
    files = [file for file in find_files(folder, (".data",), deep=False).files if _is_data_file(file)]
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{folder}: several data files: {names}; expected one of them to be named")
    return files[0] if files else None


def _found(root: Path, named: str) -> Path:
    """Return a file that a data file names; other machines' folders are tried, and left out.

    Raises:
        DataError: There is none.
    """
    parts = PurePosixPath(plain_path(named)).parts
    for first in range(len(parts)):
        for base in (root, root.parent):
            if path := image_in(base, str(PurePosixPath(*parts[first:])), whole=True):
                return path
    raise DataError(f"{root / named}: no such file")


def _read(file: Path, options: Mapping[str, str], key: str, given: Sequence[str] | None) -> Reading[DetectionData]:
    root, lost = file.parent, []
    names = given
    try:
        names = given or read_class_names(_found(root, options["names"]))
        listed = _found(root, options[key])
    except DataError as error:
        return Reading(None, (Fault(file, None, visible(error)),))
    pairs: list[Pair] = []
    for line, text, image in images_listed(listed, list(dict.fromkeys((listed.parent, root, root.parent)))):
        if image is None:
            lost.append(Fault(listed, line, f"image {visible(text[:200])} does not exist"))
        else:
            pairs.append((image, label_of(image)))
    if (count := options.get("classes")) is not None and not _is(count, len(names)):
        text = f"classes is {shown(count)}, and there are {len(names)} names; the names count"
        lost.append(Fault(file, None, text, broken=False))
    if not pairs:
        return Reading(None, (*lost, Fault(listed, None, "no images")))
    reading = read_yolo(pairs, listed, names)
    return Reading(reading.data, (*lost, *reading.faults), reading.skipped)


def _is(text: str, count: int) -> bool:
    try:
        return whole(text) == count
    except ValueError:
        return False


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    file = path if path.is_file() else _data_file(path)
    if file is None:
        return {}
    options = read_data_file(file)
    keys = {split: key for key, split in reversed(KEYS.items()) if key in options}
    known = listed_names(names)
    return {
        split: partial(_read, file, options, keys[split], known) for split in ("train", "val", "test") if split in keys
    }


def _fits(folder: Path) -> str:
    file = _data_file(folder)
    return f"{file.name} with lists of images and names" if file else ""


def _write(parts: Mapping[str, DetectionData], folder: Path, _: BoxScores) -> None:
    """Write label files beside the images, lists of images, the names and the ``.data`` file."""
    names = next(iter(parts.values())).class_names
    entries = [f"classes = {len(names)}"]
    for split, data in parts.items():
        for image, objects in images_of(data):
            image.path.with_suffix(".txt").write_text(label_lines(image, objects, polygons=False), "utf-8")
        listed = "".join(f"{image.path.relative_to(folder).as_posix()}\n" for image in data.images)
        (folder / f"{split}.txt").write_text(listed, "utf-8")
        entries.append(f"{'valid' if split == 'val' else split} = {split}.txt")
    (folder / "obj.names").write_text("".join(f"{name}\n" for name in names), "utf-8")
    (folder / "obj.data").write_text("\n".join([*entries, "names = obj.names", "backup = backup"]) + "\n", "utf-8")


FORMATS = {
    "darknet": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="obj.data (Darknet)",
        suffixes=(".data",),
        fits_folder=_fits,
        fits_file=_is_data_file,
        write=_write,
        image_folder="data/{split}",
    )
}
