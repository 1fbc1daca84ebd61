"""A dataset format that this file defines: everything else works with it, and no other file knows it."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.cli import main
from crossstage.data.faults import Fault, Reading
from crossstage.data.find import find_data, part_to_measure, training_parts
from crossstage.data.formats import FORMATS, format_names
from crossstage.data.formats.base import DataFormat, Names, Reader
from crossstage.data.records import Box, DetectionBuilder, DetectionData
from crossstage.errors import DataError
from crossstage.evaluation import coco_metrics
from crossstage.evaluation.coco import coco_content
from crossstage.inference.images import image_size
from crossstage.training import TrainOptions, train


def read_table(path: Path, names: Names) -> Reading[DetectionData]:
    """Read a table with a line for each box: image, class, left, top, right and bottom."""
    rows = list(csv.DictReader(path.open(newline="")))
    classes = list(names or sorted({row["class"] for row in rows}))
    boxes: dict[str, list[Box]] = {row["image"]: [] for row in rows}
    faults = []
    for line, row in enumerate(rows, start=2):
        try:
            left, top, right, bottom = (float(row[side]) for side in ("left", "top", "right", "bottom"))
            boxes[row["image"]].append(Box(classes.index(row["class"]), (left, top, right, bottom)))
        except ValueError as error:
            faults.append(Fault(path, line, f"{error}; expected a known class and four numbers"))
    builder = DetectionBuilder()
    for name, found in boxes.items():
        builder.add(path.parent / name, image_size(path.parent / name), found)
    return Reading(builder.build(path, classes), tuple(faults), len(faults))


def parts(path: Path, names: Names) -> dict[str, Reader]:
    files = [path] if path.is_file() else [path / f"{split}.csv" for split in ("train", "val")]
    return {file.stem: partial(read_table, file, names) for file in files if file.is_file()}


TABLE = DataFormat(
    task="detect",
    parts=parts,
    looked_for="train.csv (tables)",
    suffixes=(".csv",),
    fits_folder=lambda folder: (folder / "train.csv").is_file(),
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch) -> None:
    monkeypatch.setitem(FORMATS, "table", TABLE)


@pytest.fixture
def folder(shapes, tmp_path) -> Path:
    """The shapes that other tests have in COCO's format, as tables."""
    root = tmp_path / "tables"
    root.mkdir()
    (root / "images").symlink_to(shapes / "images")
    for split in ("train", "val"):
        rows = [["image", "class", "left", "top", "right", "bottom"]]
        for sample in find_data(shapes).read(split):
            for class_id, box in zip(sample.class_ids.tolist(), sample.boxes_xyxy.tolist(), strict=True):
                rows.append([f"images/{split}/{sample.image.path.name}", ("circle", "square")[class_id], *box])
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return root


def test_it_is_recognised_and_may_be_named(folder, tmp_path_factory):
    assert format_names().index("table") < format_names().index("folder")
    for place in (folder, f"{folder}/train.csv,{folder}/val.csv"):
        for format in (None, "table"):
            source = find_data(place, format)
            assert (source.format, source.task, list(source.parts)) == ("table", "detect", ["train", "val"])
    assert find_data(folder / "val.csv").read("val").class_names == ("circle", "square")
    with pytest.raises(DataError, match="nothing in format 'table' was found there"):
        find_data(tmp_path_factory.mktemp("empty"), "table")
    with pytest.raises(DataError, match=r"looked for .*train\.csv \(tables\).* and a folder for each class"):
        find_data(tmp_path_factory.mktemp("empty"))


def test_it_is_read_as_the_same_boxes_are_in_coco(folder, shapes):
    ours, theirs = (part_to_measure(place) for place in (folder, shapes))
    assert isinstance(ours, DetectionData)
    assert isinstance(theirs, DetectionData)
    assert len(ours) == len(theirs) == 12
    for own, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(own.boxes_xyxy, other.boxes_xyxy)
        assert own.class_ids.tolist() == other.class_ids.tolist()
    perfect = [{**entry, "score": 1.0} for entry in coco_content(theirs)["annotations"]]
    assert coco_metrics(perfect, ours).ap == pytest.approx(1)


def test_a_yaml_file_may_name_its_parts_and_classes(folder):
    (folder / "mine.yaml").write_text("train: train.csv\nval: val.csv\nnames: [square, circle]\n")
    source = find_data(folder / "mine.yaml")
    assert (source.format, list(source.parts)) == ("table", ["train", "val"])
    assert source.read("val").class_names == ("square", "circle")


def test_faults_have_their_lines_and_are_checked_by_the_command_line(folder, tmp_path, capsys):
    assert main(["data", "check", str(folder), "--json", str(tmp_path / "report.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["format"] == "table"
    lines = (folder / "train.csv").read_text().splitlines()
    lines[2] = lines[2].rpartition(",")[0] + ",much"
    (folder / "train.csv").write_text("\n".join(lines))
    capsys.readouterr()
    assert main(["data", "check", str(folder), "--format", "table"]) == 1
    assert "train.csv:3: could not convert string to float: 'much'; expected a known class" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"train\.csv: 1 fault\n  line 3: "):
        training_parts(find_data(folder))
    assert training_parts(find_data(folder), on_bad_label="skip")[0].skipped == 1


def test_it_trains_and_measures_a_detector(folder, tmp_path):
    for format in (None, "table"):
        options = TrainOptions(
            "cspdarknet53_tiny_yolo", str(folder), format=format, epochs=1, imgsz=32, batch=16, workers=0,
            accelerator="cpu", name=f"run-{format}", out=str(tmp_path / "runs"), fit_anchors=True,
        )  # fmt: skip
        result = train(options)
        assert len(result.history) == 1
    report = tmp_path / "report.json"
    assert (
        main(["val", "--model", str(result.folder), "--data", str(folder), "--json", str(report), "--runtime", "torch"])
        == 0
    )
    content = json.loads(report.read_text())
    assert (content["data"], content["images"]) == (str(folder / "val.csv"), 12)
    assert [row["name"] for row in content["classes"]] == ["circle", "square"]


def test_unknown_names_are_answered_with_the_nearest(folder):
    with pytest.raises(DataError, match=r"format 'tabel'; expected one of coco, .*; did you mean table"):
        find_data(folder, "tabel")
    (folder / "mine.yaml").write_text("train: train.csv\nformat: Table\n")
    with pytest.raises(DataError, match=r"mine\.yaml: format 'Table'; .*did you mean table"):
        find_data(folder / "mine.yaml")


def test_what_two_formats_of_one_order_fit_is_ambiguous(folder, monkeypatch):
    monkeypatch.setitem(FORMATS, "other", TABLE)
    for place in (folder, folder / "val.csv"):
        with pytest.raises(DataError, match="may be in format other or table; expected one of them to be named"):
            find_data(place)
        assert find_data(place, "other").format == "other"


def test_formats_that_share_a_suffix_are_told_apart_by_what_files_hold(folder, shapes, monkeypatch):
    def is_list(path: Path) -> bool:
        return path.read_text().startswith("[")

    monkeypatch.setitem(FORMATS, "rows", DataFormat("detect", parts, "*.json", (".json",), fits_file=is_list))
    (folder / "rows.json").write_text("[]")
    assert find_data(folder / "rows.json").format == "rows"
    assert find_data(shapes / "annotations" / "instances_val.json").format == "coco"


def test_a_classification_format_is_one_more_record(folder, monkeypatch):
    from crossstage.data.records import ClassificationData

    def read() -> Reading[ClassificationData]:
        images = sorted((folder / "images" / "train").iterdir())
        labels = np.arange(len(images)) % 2
        return Reading(ClassificationData(folder, ("even", "odd"), [str(image) for image in images], labels, images))

    record = DataFormat("classify", lambda path, names: {"train": read}, "images/train", fits_folder=lambda _: True)
    monkeypatch.setitem(FORMATS, "parity", record)
    source = find_data(folder, "parity")
    assert source.task == "classify"
    train_part, held, _ = training_parts(source)
    assert (len(train_part.data), len(held.data)) == (28, 4)
    assert Image.open(held.data.images[0]).size == (100, 80)
