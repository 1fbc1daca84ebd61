"""A dataset on disk: which format it is in, which parts it has, and how each is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from crossstage.data.faults import OnBadLabel, Reading
from crossstage.data.formats.coco import CocoDataset, coco_files, find_coco, scan_coco
from crossstage.data.formats.folder import check_classes, class_folders, read_folder, read_parquet, split_of
from crossstage.data.formats.voc import VocFolder
from crossstage.data.formats.yolo import label_files, read_labels, read_yolo
from crossstage.data.records import ClassificationData, split_off
from crossstage.errors import DataError
from crossstage.files import read_yaml
from crossstage.inference.sources import IMAGE_SUFFIXES

Format = Literal["coco", "voc", "yolo", "folder", "parquet"]
Dataset = CocoDataset | ClassificationData
HELD_OUT = 0.1  # of the training images, where a dataset has no validation part

Kind = Format | Literal["yaml"]
_BY_SUFFIX: dict[str, Kind] = {
    ".json": "coco",
    ".xml": "voc",
    ".txt": "yolo",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".parquet": "parquet",
}

_SIGNS: tuple[tuple[Kind, Callable[[Path], object]], ...] = (  # what a folder holds, the first that fits
    ("coco", coco_files),
    ("voc", lambda folder: (folder / "Annotations").is_dir() or any(folder.glob("*.xml"))),
    ("yaml", lambda folder: any(folder.glob("*.yaml")) or any(folder.glob("*.yml"))),
    ("yolo", label_files),
    ("parquet", lambda folder: any(folder.rglob("*.parquet"))),
    ("folder", class_folders),
)

Reader = Callable[[], Reading[Any]]
Names = Sequence[str] | Mapping[str, str] | None  # of classes: by id, or by folder


@dataclass(frozen=True)
class DataSource:
    """A dataset whose format is known.

    Attributes:
        path: What was given.
        format: How it is stored.
        parts: A reader for each of "train", "val" and "test" that there are.
    """

    path: Path
    format: Format
    parts: Mapping[str, Reader]

    @property
    def task(self) -> Literal["detect", "classify"]:
        """What its labels are for."""
        return "classify" if self.format in ("folder", "parquet") else "detect"

    def read(self, split: str, on_bad_label: OnBadLabel = "refuse") -> Dataset:
        """Read a part.

        Raises:
            DataError: There is no such part, it has broken labels that are not to be skipped, or nothing is sound.
        """
        if split not in self.parts:
            raise DataError(f"{self.path}: no part {split!r}; it has {', '.join(self.parts)}")
        return self.parts[split]().usable(on_bad_label)

    def scored_split(self) -> str | None:
        """The part that a model is measured on: "val", else "test", else none."""
        return next((split for split in ("val", "test") if split in self.parts), None)


def training_parts(
    source: DataSource, *, on_bad_label: OnBadLabel = "refuse", seed: int = 0
) -> tuple[Reading[Dataset], Reading[Dataset], str]:
    """What to train on and what to measure on.

    Args:
        source: A dataset with a part "train".
        on_bad_label: Whether broken labels are skipped or refused.
        seed: Chooses the images that are held out if there is no other part.

    Returns:
        Both parts with what was skipped of them, and a word on where the second comes from.

    Raises:
        DataError: There is no part "train", or a part has broken labels that are not to be skipped.
    """
    if "train" not in source.parts:
        raise DataError(f"{source.path}: no part 'train'; it has {', '.join(source.parts)}")
    train = source.parts["train"]()
    learned = train.usable(on_bad_label)
    if split := source.scored_split():
        scored = source.parts[split]()
        scored.usable(on_bad_label)
        return train, scored, f"the part {split!r}"
    rest, held = split_off(learned, HELD_OUT, seed)
    return replace(train, data=rest), Reading(held), f"{HELD_OUT:.0%} of the training images, held out"


def part_to_measure(path: str | Path, split: str | None = None, on_bad_label: OnBadLabel = "refuse") -> Dataset:
    """The part of a dataset that a model is measured on.

    Args:
        path: See :func:`find_data`; a single COCO file is taken as it is.
        split: "train", "val" or "test", or part of the name of one of several COCO files; by default "val", else
            "test", else what there is.
        on_bad_label: Whether broken labels are skipped or refused.

    Raises:
        DataError: There is no such part, or it has broken labels that are not to be skipped.
    """
    if Path(path).suffix == ".json":
        return scan_coco(Path(path)).usable(on_bad_label)
    source = find_data(path)
    if source.format == "coco" and Path(path).is_dir() and split not in source.parts:
        return find_coco(Path(path), split=split)
    return source.read(split or source.scored_split() or next(iter(source.parts)), on_bad_label)


def find_data(path: str | Path, format: Format | None = None) -> DataSource:
    """Recognise a dataset.

    Args:
        path: A COCO ``.json``, two of them with a comma between (training, validation), or a folder with
            ``annotations/*.json``; a folder in PASCAL VOC's layout; a YOLO ``data.yaml``, or a folder with one, or of
            label files with a ``classes.txt``; a tree with a folder for each class, ``[train|val|test]/<class>/*.jpg``;
            a parquet file or a folder of them; or a YAML file with ``train``, ``val`` and ``test``, each one of these,
            and perhaps ``format`` and ``names``.
        format: The format, where it is not recognised or recognised wrongly.

    Raises:
        DataError: Nothing is there, it is in no format that is known, or a YAML file makes no sense.
    """
    if "," in str(path) and not Path(path).exists():
        train, _, val = str(path).partition(",")
        return DataSource(
            Path(train), "coco", {"train": partial(scan_coco, Path(train)), "val": partial(scan_coco, Path(val))}
        )
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    chosen = format or _recognised(path)
    if chosen == "yaml" or (chosen == "yolo" and not _labels_of(path)):
        return _from_yaml(path if path.is_file() else _yaml_in(path))
    if chosen not in _FINDERS:
        raise DataError(f"format {format!r}; expected one of {', '.join(get_args(Format))}")
    parts = _FINDERS[chosen](path, None)
    if not parts:
        raise DataError(f"{path}: nothing in format {chosen!r} was found there")
    return DataSource(path, chosen, parts)


def _recognised(path: Path) -> Kind:
    if path.is_file():
        if path.suffix.lower() in _BY_SUFFIX:
            return _BY_SUFFIX[path.suffix.lower()]
        known = ", ".join(_BY_SUFFIX)
        raise DataError(f"{path}: a file in no format that is known; expected one of {known}")
    for kind, is_there in _SIGNS:
        if is_there(path):
            return kind
    raise DataError(
        f"{path}: no dataset was recognised; looked for annotations/*.json (COCO), Annotations/*.xml (VOC), data.yaml "
        "(YOLO), *.parquet, and a folder for each class"
    )


def _labels_of(path: Path) -> list[Path]:
    """YOLO label files without a YAML file."""
    return [path] if path.suffix == ".txt" else label_files(path) if path.is_dir() else []


def _yaml_in(folder: Path) -> Path:
    found = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{folder}: YAML files: {names}; expected a single one")
    return found[0]


def _coco(path: Path, _: Sequence[str] | None) -> dict[str, Reader]:
    if path.is_file():
        beside = {split_of(file.name): file for file in coco_files(path.parent) if split_of(file.name)}
        own = split_of(path.name)
        files = {**beside, own: path} if own == "train" else {own or "train": path}
    else:
        found = coco_files(path)
        parts = [split_of(file.name) or "train" for file in found]
        several = {part for part, count in Counter(parts).items() if count > 1}
        files = {f.stem if part in several else part: f for part, f in zip(parts, found, strict=True)}
    order = sorted(files, key=lambda part: ("train", "val", "test", part).index(str(part)))
    return {str(part): partial(scan_coco, files[part]) for part in order}


def _voc(path: Path, names: Sequence[str] | None) -> dict[str, Reader]:
    if path.is_file():
        return {"train": partial(VocFolder(path.parent, names).read, [path])}
    folder = VocFolder(path, names)
    return {split: partial(folder.read, files) for split, files in folder.splits().items() if files}


def _folder(path: Path, names: Names) -> dict[str, Reader]:
    # a class may be called "train", too; a split has folders in it
    splits = {split: f for f in class_folders(path) if (split := split_of(f.name)) and class_folders(f)}
    if "train" not in splits:
        splits = {"train": path}
    folders, called = _classes(splits["train"], names, path)
    return {split: partial(read_folder, root, folders, called) for split, root in splits.items()}


def _classes(train: Path, names: Names, told_in: Path) -> tuple[list[str], list[str]]:
    """Folders of the classes, by class id, and what to call them."""
    folders = [folder.name for folder in class_folders(train)]
    check_classes(train, folders)
    called = [names.get(f, f) for f in folders] if isinstance(names, Mapping) else list(names or folders)
    if len(called) != len(folders):
        raise DataError(f"{told_in}: {len(called)} names for {len(folders)} class folders; expected as many")
    return folders, called


def _parquet(path: Path, names: Sequence[str] | None) -> dict[str, Reader]:
    files: dict[str, list[Path]] = {}
    for file in [path] if path.is_file() else sorted(path.rglob("*.parquet")):
        files.setdefault(split_of(file.name) or "train", []).append(file)
    if path.is_file() and path.parent != path:
        for file in sorted(path.parent.glob("*.parquet")):
            if (split := split_of(file.name)) and split not in files:
                files[split] = [file]
    return {split: partial(read_parquet, found, names) for split, found in files.items()}


_FINDERS: dict[str, Callable[[Path, Any], dict[str, Reader]]] = {
    "coco": _coco,
    "voc": _voc,
    "folder": _folder,
    "parquet": _parquet,
    "yolo": lambda path, _: {"train": partial(read_labels, _labels_of(path))},
}


def _from_yaml(path: Path) -> DataSource:
    """A YOLO ``data.yaml`` or a dataset YAML of ours; the latter's parts are in any format."""
    content = read_yaml(path, DataError, "train, val, names")
    root = path.parent
    if isinstance(content.get("path"), str):
        root = next((base for base in (root / content["path"], Path(content["path"])) if base.is_dir()), root)
    names = _names(path, content)
    parts = {split: content[split] for split in ("train", "val", "test") if content.get(split)}
    if not parts:
        raise DataError(f"{path}: no train, val or test; expected at least one of them")
    chosen: Any = content.get("format")
    if chosen not in (None, *get_args(Format)):
        raise DataError(f"{path}: format {chosen!r}; expected one of {', '.join(get_args(Format))}")
    readers: dict[str, Reader] = {}
    for split, told in parts.items():
        entries = told if isinstance(told, list) else [told]
        if not all(isinstance(entry, str) for entry in entries) or len(entries) != 1:
            raise DataError(f"{path}: {split}: {told!r}; expected one path")
        part = _resolved(root, entries[0])
        kind = chosen or ("yolo" if _looks_like_yolo(part) else _recognised(part))
        chosen = chosen or kind
        if kind == "yolo":
            if not isinstance(names, list):
                raise DataError(f"{path}: no names; expected the classes' names, as a list or by id")
            readers[split] = partial(read_yolo, part, names)
        elif kind == "folder":
            train = _resolved(root, parts["train"]) if "train" in parts else part
            readers[split] = partial(read_folder, part, *_classes(train, names, path))
        else:
            found = _FINDERS[kind](part, names)
            reader = found.get(split) or next(iter(found.values()), None)
            if reader is None:
                raise DataError(f"{part}: nothing in format {kind!r} was found there")
            readers[split] = reader
    assert chosen
    return DataSource(path, chosen, readers)


def _looks_like_yolo(part: Path) -> bool:
    if part.is_file():
        return part.suffix == ".txt"
    return "images" in part.parts or any(file.suffix.lower() in IMAGE_SUFFIXES for file in part.iterdir())


def _resolved(root: Path, told: str) -> Path:
    """A path as YOLO files tell it: from the file's folder, from the dataset's root, or absolute."""
    candidates = [root / told, root / told.removeprefix("../"), Path(told)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise DataError(f"{root / told}: no such file or folder")


def _names(path: Path, content: Mapping[str, Any]) -> list[str] | dict[str, str] | None:
    """Class names by id, as a list; or by folder name, as a dictionary."""
    names = content.get("names")
    if isinstance(names, dict) and names and all(isinstance(key, int) for key in names):
        if sorted(names) != list(range(len(names))):
            raise DataError(f"{path}: names of classes {sorted(names)[:8]}; expected 0 to {len(names) - 1}")
        names = [names[key] for key in range(len(names))]
    if isinstance(names, dict):
        return {str(key): str(value) for key, value in names.items()}
    if names is not None and (not isinstance(names, list) or not names):
        raise DataError(f"{path}: names: {names!r}; expected a list, or names by id")
    counted = content.get("nc")
    if names is not None and counted is not None and counted != len(names):
        raise DataError(f"{path}: nc is {counted}, and there are {len(names)} names; expected as many")
    return None if names is None else [str(name) for name in names]
