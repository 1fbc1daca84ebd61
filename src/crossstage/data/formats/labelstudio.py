"""Label Studio's own exports: JSON, its short form JSON-MIN, and CSV, whose column ``label`` holds the same.

Its YOLO, COCO and VOC exports are read as these. Sizes and places are percent of the image's sides. Boxes that are
turned, and the hulls of polygons, become upright boxes; other results are left out, and told.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from crossstage.data.faults import Fault, fault_in
from crossstage.data.formats.base import DataFormat, Names, Reader, listed_names
from crossstage.data.json_entries import begins_with, mentions, parsed
from crossstage.data.named import LONGEST_PATH, Labels, NamedBox, NamedParts, image_in
from crossstage.data.records import DetectionData, ImageRef
from crossstage.data.written import BoxScores, Stated, describe, images_of, text_of
from crossstage.errors import DataError
from crossstage.inference.sources import IMAGE_SUFFIXES
from crossstage.reading.finding import find_files
from crossstage.reading.numbers import number
from crossstage.reading.text import read_text, shown

MAX_BYTES = 512 << 20
BOXES, POLYGONS = "rectanglelabels", "polygonlabels"
LOOKED_INTO = 20
PREFIX = 9  # characters that an upload gets before its name: eight and a dash


def fits_file(file: Path) -> bool:
    """Return whether a JSON or CSV file is Label Studio's export of boxes or polygons."""
    if file.suffix.lower() == ".csv":
        return _is_csv(file)
    return begins_with(file, "[") and (mentions(file, BOXES) or mentions(file, POLYGONS))


def _is_csv(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            head = opened.read(1 << 16)
    except OSError:
        return False
    first = head.split(b"\n", 1)[0].lower()
    return b"label" in first and (BOXES.encode() in head or POLYGONS.encode() in head)


def _entries(file: Path) -> Iterator[Labels | Fault]:
    left_out = Counter[str]()
    folders = [folder for folder in (file.parent / "images", file.parent, file.parent.parent) if folder.is_dir()]
    try:
        tasks = _tasks(file)
    except DataError as error:
        yield fault_in(file, error)
        return
    for count, task in enumerate(tasks):
        found = _named_image(task)
        if found is None:
            yield Fault(file, None, f"task {count}: no image in {shown(task)}; expected its name")
            continue
        boxes = [_box(result, left_out) for result in _results(task)]
        known = [box for box in boxes if box is not None]
        yield Labels(file, None, found, known, None, folders, _without_prefix(found, folders))
    if left_out:
        text = ", ".join(f"{many} of kind {name!r}" for name, many in left_out.items())
        yield Fault(file, None, f"{text}: left out; rectanglelabels and polygonlabels are read", broken=False)


def _tasks(file: Path) -> list[Any]:
    text = read_text(file, expected="Label Studio's tasks", max_bytes=MAX_BYTES)
    if file.suffix.lower() != ".csv":
        content = parsed(text)
        if not isinstance(content, list):
            raise DataError(f"holds a {type(content).__name__}; expected a list of tasks")
        return content
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"not a table: {error}") from None
    tasks = []
    for row in rows:
        cells = [value for value in row.values() if isinstance(value, str) and value.lstrip().startswith("[{")]
        results = [result for cell in cells for result in parsed(cell)]
        tasks.append({key: value for key, value in row.items() if key} | {"label": results})
    return tasks


def _named_image(task: Any) -> str | None:
    """Return the image that a task is about: the first value that looks like the path or address of one."""
    if not isinstance(task, Mapping):
        return None
    data = task.get("data") if isinstance(task.get("data"), Mapping) else task
    assert isinstance(data, Mapping)
    for value in data.values():
        path = _path_in(value) if isinstance(value, str) and len(value) < LONGEST_PATH else ""
        if Path(path).suffix.lower() in IMAGE_SUFFIXES:
            return path.removeprefix("/")
    return None


def _path_in(value: str) -> str:
    """Return the path of an address: ``s3://bucket/x.jpg``, ``/data/local-files/?d=folder/x.jpg``."""
    if "://" not in value and "?" not in value:
        return unquote(value)
    try:
        address = urlsplit(value)
        asked = parse_qs(address.query).get("d")
    except ValueError:  # such as a host that is no IPv6 address
        return ""
    return unquote(asked[0] if asked else address.path)


def _without_prefix(named: str, folders: list[Path]) -> str:
    """Return the name without what an upload put before it, where an image of that name lies in a folder."""
    name = Path(named).name
    short = name[PREFIX:] if len(name) > PREFIX and name[PREFIX - 1] == "-" else ""
    there = [any(image_in(folder, each, whole=True) for folder in folders) for each in (name, short) if each]
    return Path(short).stem if there == [False, True] else ""


def _results(task: Mapping[str, Any]) -> list[Any]:
    """Return the results of a task's first annotation that was not cancelled, or those of the short form."""
    annotations = task.get("annotations", task.get("completions"))
    if isinstance(annotations, list):
        kept = [a for a in annotations if isinstance(a, Mapping) and not a.get("was_cancelled")]
        results = kept[0].get("result") if kept else []
        return results if isinstance(results, list) else []
    lists = [value for value in task.values() if isinstance(value, list)]
    return [{"value": value} for values in lists for value in values if _kind(value) != "other"]


def _kind(value: Any) -> str:
    return next((kind for kind in (BOXES, POLYGONS) if isinstance(value, Mapping) and kind in value), "other")


def _box(result: Any, left_out: Counter[str]) -> NamedBox | None:
    value = result.get("value") if isinstance(result, Mapping) else None
    kind = _kind(value)
    if not isinstance(value, Mapping) or kind == "other":
        left_out[str(result.get("type", "other"))[:40] if isinstance(result, Mapping) else "other"] += 1
        return None
    names = value.get(kind)
    name = names[0] if isinstance(names, list) and names else None
    try:
        if kind == POLYGONS:
            polygon = [number(side) / 100 for point in value["points"] for side in point]
            if len(polygon) < 6 or len(polygon) % 2:
                raise ValueError
            hull = min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])
            return NamedBox(name, hull, polygon=polygon, shares=True)
        box = _corners(value, result)
    except (KeyError, TypeError, ValueError):
        return NamedBox(name, (0.0, 0.0, 0.0, 0.0), wrong=f"{shown(dict(value))}; expected numbers of percent")
    return NamedBox(name, box, shares=True)


def _corners(value: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return the upright box around a result's box, which is turned about its upper left corner."""
    x, y, width, height = (number(value[side]) / 100 for side in ("x", "y", "width", "height"))
    degrees = number(value.get("rotation") or 0)
    if not degrees:
        return x, y, x + width, y + height
    across, down = (number(result.get(side, value.get(side)) or 1) for side in ("original_width", "original_height"))
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    steps = [(0.0, 0.0), (width * across, 0.0), (0.0, height * down), (width * across, height * down)]
    turned = [((a * cosine - b * sine) / across, (a * sine + b * cosine) / down) for a, b in steps]
    xs, ys = [x + a for a, _ in turned], [y + b for _, b in turned]
    return min(xs), min(ys), max(xs), max(ys)


def _files(folder: Path) -> list[Path]:
    found = find_files(folder, (".json", ".csv"), deep=False).files[:LOOKED_INTO]
    return [file for file in found if fits_file(file)][:1]


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    files = [path] if path.is_file() else _files(path)
    entries = {"train": partial(_entries, files[0])} if files else {}
    return NamedParts(path, entries, listed_names(names)).readers()


def _fits(folder: Path) -> str:
    return "".join(f"{file.name} with results of Label Studio" for file in _files(folder))


def _write(parts: Mapping[str, DetectionData], folder: Path, scores: BoxScores) -> None:
    """Write a JSON file of tasks for each part, whose images Label Studio finds in its folder of local files."""
    for split, data in parts.items():
        tasks = []
        for image, objects in images_of(data, scores.get(split)):
            address = f"/data/local-files/?d={quote(image.path.relative_to(folder).as_posix())}"
            results = [_written(one, image, number_) for number_, one in enumerate(objects)]
            tasks.append({"data": {"image": address}, "annotations": [{"result": results}]})
        (folder / f"{split}.json").write_text(text_of(tasks), "utf-8")
    describe(folder, "labelstudio", {split: f"{split}.json" for split in parts}, next(iter(parts.values())).class_names)


def _written(one: Stated, image: ImageRef, number_: int) -> dict[str, Any]:
    across, down = 100 / image.width, 100 / image.height
    left, top, width, height = one.xywh
    kind = POLYGONS if one.points else BOXES
    if one.points:
        value = {"points": [[x * across, y * down] for x, y in one.points]}
    else:
        value = {"x": left * across, "y": top * down, "width": width * across, "height": height * down, "rotation": 0}
    stated = {
        "id": f"object{number_}",
        "type": kind,
        "from_name": "label",
        "to_name": "image",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "value": {**value, kind: [one.name]},
    }
    return stated if one.score is None else {**stated, "score": one.score}


FORMATS = {
    "labelstudio": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="a JSON export (Label Studio)",
        suffixes=(".json", ".csv"),
        fits_folder=_fits,
        fits_file=fits_file,
        write=_write,
        holds=frozenset({"polygons"}),
    )
}
