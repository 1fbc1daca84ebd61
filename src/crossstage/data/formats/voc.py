"""PASCAL VOC: an XML file for each image; also Roboflow's folders, with XML files beside the images of each part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element as XMLElement
from xml.etree.ElementTree import ElementTree, SubElement, indent

from crossstage.data.faults import Fault, fault_in
from crossstage.data.formats.base import DataFormat, Names, Reader, listed_names, split_folders
from crossstage.data.named import Labels, NamedBox, NamedParts
from crossstage.data.records import DetectionData, ImageRef
from crossstage.data.written import BoxScores, Stated, describe, images_of
from crossstage.data.xml_reading import Element, children, root_name
from crossstage.errors import DataError
from crossstage.reading.finding import find_files
from crossstage.reading.numbers import number, whole
from crossstage.reading.text import read_lines, shown

MAX_BYTES = 16 << 20
MAX_ELEMENTS = 500_000  # some 50,000 objects
SIDES = ("xmin", "ymin", "xmax", "ymax")
ROOT = "annotation"
LOOKED_INTO = 10  # XML files of a folder, which tell what the others are


def _folder(root: Path) -> Path:
    """Return the folder of the XML files."""
    return next((folder for name in ("Annotations", "annotations") if (folder := root / name).is_dir()), root)


def _files(root: Path) -> tuple[Path, ...]:
    return find_files(_folder(root), (".xml",), deep=False).files


def _places(root: Path) -> list[Path]:
    """Return where the images of XML files may lie: in VOC's folder, in ``images``, and beside the XML files."""
    above = root.parent
    candidates = (root / "JPEGImages", root / "images", above / "JPEGImages", above / "images", root, _folder(root))
    return [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]


def _splits(root: Path) -> dict[str, list[Path]]:
    """Return XML files by part: as ``ImageSets/Main`` lists them, or as they lie in folders; else all are "train"."""
    lists = {path.stem: path for path in sorted(root.glob("ImageSets/Main/*.txt"))}
    splits = {name: _listed(root, lists[name]) for name in ("train", "val", "test") if name in lists}
    if not splits and "trainval" in lists:
        splits = {"train": _listed(root, lists["trainval"])}
    if not splits and (files := _files(root)):
        splits = {"train": list(files)}
    return {split: files for split, files in splits.items() if files}


def _listed(root: Path, path: Path) -> list[Path]:
    stems = [line.split()[0] for line in read_lines(path, expected="a name in each line") if line.split()]
    return [_folder(root) / f"{stem}.xml" for stem in stems]


def _entries(root: Path, files: Sequence[Path]) -> Iterator[Labels | Fault]:
    folders = _places(root)
    for file in files:
        try:
            yield _labels(file, folders)
        except DataError as error:
            yield fault_in(file, error)


def _labels(file: Path, folders: Sequence[Path]) -> Labels:
    named, size, objects = "", None, []
    for element in children(file, MAX_BYTES, MAX_ELEMENTS):
        if element.name == "filename":
            named = element.text.strip()
        elif element.name == "size":
            size = _size(element)
        elif element.name == "object":
            objects.append(_box(element))
    return Labels(file, None, named, objects, size, folders, file.stem)


def _size(element: Element) -> tuple[int, int] | None:
    """Return height and width in pixels, if both are stated."""
    try:
        height, width = (whole(element.value(side) or "") for side in ("height", "width"))
    except ValueError:
        return None
    return height, width


def _box(entry: Element) -> NamedBox:
    bounds, name = entry.child("bndbox"), entry.value("name")
    wrong: str | None = None
    corners = [0.0] * 4
    if bounds is None:
        wrong = f"no bndbox; expected one with {', '.join(SIDES)}"
    else:
        texts = [bounds.value(side) for side in SIDES]
        try:
            corners = [float(text or "missing") if text in ("inf", "nan") else number(text or "") for text in texts]
        except ValueError:
            found = ", ".join(f"{side} {text or 'missing'}" for side, text in zip(SIDES, texts, strict=True))
            wrong = f"{shown(found, 120)[1:-1]}; expected four numbers"
    left, top, right, bottom = corners
    return NamedBox(name, (left, top, right, bottom), entry.line, entry.value("difficult") == "1", wrong=wrong)


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    known = listed_names(names)
    if path.is_file():
        return NamedParts(path.parent, {"train": partial(_entries, path.parent, [path])}, known).readers()
    parts = {split: partial(_entries, path, files) for split, files in _splits(path).items()}
    for split, folder in {} if parts else split_folders(path).items():
        if files := [file for of_folder in _splits(folder).values() for file in of_folder]:
            parts[split] = partial(_entries, folder, files)
    return NamedParts(path, parts, known).readers()


def _is_voc(files: Iterable[Path]) -> bool:
    return any(root_name(file) == ROOT for file in files)


def _fits(folder: Path) -> str:
    """Return by what a folder is recognised; nothing if it is not."""
    for place in (folder, *split_folders(folder).values()):
        files = _files(place)
        if _is_voc(files[:LOOKED_INTO]) or (files and _folder(place).name == "Annotations"):
            inner = _folder(place).relative_to(folder)
            return f"{len(files)} XML files in {inner if inner.name else 'it'}, each with an <{ROOT}>"
    return ""


def _write(parts: Mapping[str, DetectionData], folder: Path, _: BoxScores) -> None:
    """Write an XML file for each image, and the list of each part."""
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    for split, data in parts.items():
        for image, objects in images_of(data, crowds=True):
            root = _written(image, objects)
            indent(root)
            ElementTree(root).write(folder / "Annotations" / f"{image.path.stem}.xml", "utf-8")
        stems = "".join(f"{image.path.stem}\n" for image in data.images)
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(stems, "utf-8")
    describe(folder, "voc", dict.fromkeys(parts, "."), next(iter(parts.values())).class_names)


def _written(image: ImageRef, objects: Sequence[Stated]) -> XMLElement:
    root = XMLElement(ROOT)
    SubElement(root, "folder").text = "JPEGImages"
    SubElement(root, "filename").text = image.path.name
    size = SubElement(root, "size")
    for side, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        SubElement(size, side).text = str(value)
    for one in objects:
        entry = SubElement(root, "object")
        SubElement(entry, "name").text = one.name
        SubElement(entry, "difficult").text = str(int(one.crowd))
        bounds = SubElement(entry, "bndbox")
        for side, value in zip(SIDES, one.xyxy, strict=True):
            SubElement(bounds, side).text = repr(value)
    return root


FORMATS = {
    "voc": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="Annotations/*.xml (VOC)",
        suffixes=(".xml",),
        fits_folder=_fits,
        write=_write,
        holds=frozenset({"crowds"}),
        image_folder="JPEGImages",
    )
}
