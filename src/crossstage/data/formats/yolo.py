"""YOLO labels: a text file for each image, beside it or in a folder ``labels`` next to ``images``.

Their layouts: Ultralytics' ``data.yaml``, which names parts and classes; and folders with a ``classes.txt``, as
labelImg writes them (labels beside the images) and Label Studio (``images`` and ``labels``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from crossstage.data.class_names import read_class_names
from crossstage.data.faults import Fault, Reading
from crossstage.data.formats.base import DataFormat, ListedPart, Names, Reader, listed_names, split_folders
from crossstage.data.named import image_in, plain_path
from crossstage.data.records import DetectionBuilder, DetectionData, ImageRef
from crossstage.data.written import BoxScores, Stated, describe, images_of
from crossstage.data.yolo_labels import Manner, manner_of, read_labels
from crossstage.errors import DataError
from crossstage.inference.images import image_size
from crossstage.inference.sources import IMAGE_SUFFIXES
from crossstage.reading.finding import beside, find_files
from crossstage.reading.text import read_lines, visible

CLASSES = "classes.txt"
OTHER_TEXTS = (CLASSES, "notes.txt", "readme.txt", "license.txt", "requirements.txt")
UNKNOWN_SIZE = (1000, 1000)  # of an image that is missing, whose labels are checked nevertheless
IMAGES, LABELS = "images", "labels"

Pair = tuple[Path | None, Path]
"""An image, None where it is missing, and its label file, which need not be there."""


def read_yolo(
    pairs: Sequence[Pair], place: Path, names: Sequence[str], manner: Manner | None = None
) -> Reading[DetectionData]:
    """Read images and their label files.

    Args:
        pairs: The images and label files; an image without a file has no objects.
        place: Where they lie, for messages.
        names: Names by class id.
        manner: How lines are to be read.

    Returns:
        What is sound, and each faulty line. A line is a class id, then the box's centre, width and height as shares of
        the image's, or the corners of a polygon, which is the mask and whose hull is the box.
    """
    manner = manner or Manner()
    manner.seen.clear()
    faults: list[Fault] = []
    found, skipped, labelled = DetectionBuilder(), 0, 0
    for image, labels in pairs:
        if image is None:
            faults.append(Fault(labels, None, f"no image {labels.stem}.* beside it or in {_images_for(labels)}"))
        try:
            size = image_size(image) if image else UNKNOWN_SIZE
        except DataError as error:
            faults.append(Fault(image or labels, None, str(error).removeprefix(f"{image}: ")))
            continue
        boxes, wrong = read_labels(labels, size, len(names), manner) if labels.is_file() else ([], [])
        labelled += labels.is_file()
        faults += wrong
        skipped += sum(fault.broken for fault in wrong)
        if image:
            found.add(image, size, boxes)
    if pairs and not labelled:
        places = dict.fromkeys(str(_conventional(image or labels).parent) for image, labels in pairs)
        text = f"no label file for any of {len(pairs)} images; looked in {', '.join(list(places)[:3])} and beside them"
        faults.append(Fault(place, None, text, broken=False))
    faults += [Fault(place, None, text, broken=False) for text in manner.remarks()]
    data = found.build(place, names)
    if data is not None and manner.oriented:
        data = replace(data, boxes=replace(data.boxes, masks=None))
    return Reading(data, tuple(faults), skipped)


def label_of(image: Path) -> Path:
    """Return where the label file of an image lies: in ``labels`` for ``images``, if that is there, or beside it."""
    for name in (LABELS, LABELS.title()):
        place = _conventional(image, name)
        if place.parent.is_dir():
            return beside(place.with_suffix(""), (".txt",)) or place
    return beside(image.with_suffix(""), (".txt",)) or image.with_suffix(".txt")


def _conventional(image: Path, name: str = LABELS) -> Path:
    """Return the path of an image with ``labels`` for its last ``images``, and a label file's ending."""
    parts = [part.lower() for part in image.parts]
    last = len(parts) - 1 - parts[::-1].index(IMAGES) if IMAGES in parts[:-1] else len(parts)
    folders = image.parts if last == len(parts) else (*image.parts[:last], name, *image.parts[last + 1 :])
    return Path(*folders).with_suffix(".txt")


def images_listed(file: Path, roots: Sequence[Path]) -> Iterator[tuple[int, str, Path | None]]:
    """Yield line, text and image of each line of a list of images; None where there is no such image.

    Paths that other machines wrote are tried as they are, and without their first folders.

    Args:
        file: The list.
        roots: The folders from which its paths may begin.
    """
    for number, line in enumerate(read_lines(file, expected="an image in each line"), start=1):
        if not (text := line.strip()):
            continue
        named = plain_path(text)
        parts = PurePosixPath(named).parts
        shorter = [str(PurePosixPath(*parts[first:])) for first in range(1, len(parts))]
        tries = (image_in(root, each, whole=True) for each in ([named, *shorter] if named else ()) for root in roots)
        yield number, text, next((path for path in tries if path is not None), None)


def _images_for(labels: Path) -> Path:
    return labels.parent.parent / IMAGES


def _image_of(label: Path) -> Path | None:
    """Return the image of a label file: beside it, or below ``images`` where it is below ``labels``."""
    folders = [label.parent, _images_for(label)]
    parts = [part.lower() for part in label.parts]
    if LABELS in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index(LABELS)
        folders += [Path(*label.parts[:last], name, *label.parts[last + 1 : -1]) for name in (IMAGES, "Images")]
    return next((found for folder in folders if (found := beside(folder / label.stem, IMAGE_SUFFIXES))), None)


def label_files(folder: Path, *, deep: bool = False) -> list[Path]:
    """Return the label files of a folder, without its list of classes and the like."""
    files = find_files(folder, (".txt",), deep=deep).files
    return [path for path in files if path.name.lower() not in OTHER_TEXTS]


def _classes_of(*folders: Path) -> Path | None:
    """Return the list of classes in the first of some folders that has one."""
    lists = (file for folder in folders if folder.is_dir() for file in find_files(folder, (".txt",), deep=False).files)
    return next((file for file in lists if file.name.lower() == CLASSES), None)


def _sub(folder: Path, name: str) -> Path | None:
    return next((found for each in (name, name.title()) if (found := folder / each).is_dir()), None)


def _layout(root: Path) -> dict[str, list[Pair]]:
    """Return the images and label files of a folder by part; nothing if it is in no layout of YOLO's."""
    images, labels = _sub(root, IMAGES), _sub(root, LABELS)
    if images and labels:
        inner = {split: folder for split, folder in split_folders(images).items() if split_folders(labels)}
        return {split: _pairs(folder) for split, folder in (inner or {"train": images}).items()}
    parts = {split: _layout(folder) for split, folder in split_folders(root).items()}
    if any(parts.values()):
        return {split: [pair for pairs in inner.values() for pair in pairs] for split, inner in parts.items() if inner}
    if _classes_of(root) or _classes_of(root.parent):
        files = label_files(labels or root)
        return {"train": [(_image_of(file), file) for file in files]} if files else {}
    return {}


def _pairs(images: Path) -> list[Pair]:
    """Return the images of a folder with their label files, and label files that have no image."""
    pairs: list[Pair] = [(image, label_of(image)) for image in find_files(images, IMAGE_SUFFIXES).files]
    known = {labels for _, labels in pairs}
    parts = [part.lower() for part in images.parts]
    last = len(parts) - 1 - parts[::-1].index(IMAGES)
    folder = Path(*images.parts[:last], LABELS, *images.parts[last + 1 :])
    lost = [file for file in (label_files(folder, deep=True) if folder.is_dir() else ()) if file not in known]
    images_of_lost = [(file, _image_of(file)) for file in lost]
    return pairs + [(None, file) for file, image in images_of_lost if image is None or not image.is_file()]


def _read_layout(root: Path, pairs: Sequence[Pair], names: Sequence[str] | None) -> Reading[DetectionData]:
    if names is None:
        found = _classes_of(root, root / LABELS, root / IMAGES, root.parent)
        if found is None:
            expected = f"{CLASSES} with a class name in each line, or a data.yaml with names"
            raise DataError(f"{root}: YOLO labels without names; expected {expected}")
        names = read_class_names(found)
    return read_yolo(pairs, root, names)


def _read_files(files: Sequence[Path], names: Sequence[str] | None) -> Reading[DetectionData]:
    """Read label files that lie in one folder with their list of classes."""
    folder = files[0].parent
    listed = _classes_of(folder, folder.parent)
    if names is None and listed is None:
        raise DataError(f"{folder}: no {CLASSES}; expected one with a class name in each line")
    known = read_class_names(listed) if names is None and listed else names or ()
    return read_yolo([(_image_of(path), path) for path in files], folder, known)


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    known = listed_names(names)
    if path.is_file():
        return {"train": partial(_read_files, [path], known)} if path.suffix.lower() == ".txt" else {}
    return {split: partial(_read_layout, path, pairs, known) for split, pairs in _layout(path).items() if pairs}


def _fits(folder: Path) -> str:
    """Return by what a folder is recognised; nothing if it is not."""
    for place in (folder, *split_folders(folder).values()):
        labels = _sub(place, LABELS)
        if _sub(place, IMAGES) and labels and (files := label_files(labels, deep=True)):
            return f"{IMAGES}/ and {labels.name}/ with {len(files)} label files"
        if _classes_of(place) and (files := label_files(labels or place)):
            return f"{CLASSES} and {len(files)} label files"
    return ""


def _fits_listed(part: Path) -> bool:
    if part.is_file():
        return part.suffix.lower() == ".txt"
    return IMAGES in [name.lower() for name in part.parts] or bool(find_files(part, IMAGE_SUFFIXES, deep=False).files)


def _read_listed(part: ListedPart) -> Reader:
    names = listed_names(part.names)
    if names is None:
        raise DataError(f"{part.file}: no names; expected the classes' names, as a list or by id")
    return partial(_read_part, part, names, manner_of(part.content, part.file))


def _read_part(part: ListedPart, names: Sequence[str], manner: Manner) -> Reading[DetectionData]:
    lost: list[Fault] = []
    if part.images is not None:
        pairs: list[Pair] = [(image, label_of(image)) for image in part.images]
    elif part.path.is_dir():
        has_images = IMAGES in [name.lower() for name in part.path.parts]
        images = find_files(part.path, IMAGE_SUFFIXES).files
        pairs = _pairs(part.path) if has_images else [(image, label_of(image)) for image in images]
    else:
        pairs, lost = _from_list(part.path, (part.path.parent, part.root))
    if not pairs:
        return Reading(None, (*lost, Fault(part.path, None, "no images")))
    reading = read_yolo(pairs, part.path, names, manner)
    return replace(reading, faults=(*lost, *reading.faults))


def _from_list(file: Path, roots: Iterable[Path]) -> tuple[list[Pair], list[Fault]]:
    """Return the images of a list with their label files, and what is missing."""
    pairs: list[Pair] = []
    lost: list[Fault] = []
    for line, text, image in images_listed(file, list(dict.fromkeys(roots))):
        if image is None:
            lost.append(Fault(file, line, f"image {visible(text[:200])} does not exist"))
        else:
            pairs.append((image, label_of(image)))
    return pairs, lost


def _write(parts: Mapping[str, DetectionData], folder: Path, _: BoxScores) -> None:
    """Write label files in ``labels``, beside ``images``, and the ``data.yaml`` that Ultralytics reads."""
    for split, data in parts.items():
        labels = folder / LABELS / split
        labels.mkdir(parents=True)
        for image, objects in images_of(data):
            (labels / f"{image.path.stem}.txt").write_text(label_lines(image, objects), "utf-8")
    masks = any(data.has_masks for data in parts.values())
    places = {split: f"{IMAGES}/{split}" for split in parts}
    describe(folder, "yolo", places, next(iter(parts.values())).class_names, task="segment" if masks else "detect")


def label_lines(image: ImageRef, objects: Iterable[Stated], *, polygons: bool = True) -> str:
    """Return the text of a label file: a line for each object, in shares of the image's sides."""
    lines = []
    for one in objects:
        left, top, width, height = one.xywh
        points = one.points if polygons else None
        numbers = [side for point in points or () for side in point] or [
            *(left + width / 2, top + height / 2),
            *(width, height),
        ]
        shares = [value / (image.width, image.height)[at % 2] for at, value in enumerate(numbers)]
        lines.append(" ".join([str(one.class_id), *map(repr, shares)]))
    return "".join(f"{line}\n" for line in lines)


FORMATS = {
    "yolo": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="classes.txt with label files (YOLO)",
        suffixes=(".txt",),
        fits_folder=_fits,
        fits_listed=_fits_listed,
        read_listed=_read_listed,
        write=_write,
        holds=frozenset({"polygons"}),
    )
}
