"""Datasets of every format, recognised and read, and every broken label file told with its line."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.cli import main
from crossstage.data.find import find_data, training_parts
from crossstage.data.formats.base import split_of
from crossstage.data.json_entries import items, members
from crossstage.data.records import ClassificationData, DetectionData, Objects, with_classes
from crossstage.errors import ConfigError, DataError


@pytest.fixture(scope="session")
def corrupt(shared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corrupt")
    with tarfile.open(shared / "data" / "corrupt" / "corrupt.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def bccd(shared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bccd")
    with tarfile.open(shared / "data" / "bccd" / "bccd.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "BCCD"


def objects_of(data: DetectionData) -> list[Objects]:
    return [sample.objects for sample in data]


def image(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "grey").save(path)
    return path


def yolo(root: Path, labels: dict[str, str], names: object = ("cat", "dog"), **more: object) -> Path:
    """A folder in Ultralytics' layout; label texts by image name."""
    for name, text in labels.items():
        image(root / "images" / "train" / f"{name}.png")
        (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
        if text:
            (root / "labels" / "train" / f"{name}.txt").write_text(text)
    content = {"path": str(root), "train": "images/train", "names": list(names) if names else None, **more}
    (root / "data.yaml").write_text(json.dumps(content))  # JSON is YAML
    return root / "data.yaml"


VOC = """<annotation><filename>{file}</filename><size><width>40</width><height>30</height></size>
<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>4</xmin><ymin>6</ymin><xmax>24</xmax><ymax>26</ymax></bndbox></object></annotation>"""


def voc(root: Path, splits: dict[str, dict[str, tuple[str, int]]]) -> Path:
    """A folder in VOC's layout; class name and difficulty by image name, by split."""
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, entries in splits.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(entries))
        for stem, (name, difficult) in entries.items():
            image(root / "JPEGImages" / f"{stem}.jpg")
            text = VOC.format(file=f"{stem}.jpg", name=name, difficult=difficult)
            (root / "Annotations" / f"{stem}.xml").write_text(text)
    return root


def tree(root: Path, splits: dict[str, dict[str, int]]) -> Path:
    for split, classes in splits.items():
        for name, count in classes.items():
            for number in range(count):
                image(root / split / name / f"{number}.png")
    return root


def parquet(path: Path, labels: list, *, label: str = "label", names: list | None = None) -> Path:
    pyarrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    content = image(path.parent / "one.png").read_bytes()
    table = pyarrow.table({"image": [{"bytes": content, "path": "x"}] * len(labels), label: labels})
    if names:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    files.write_table(table, path)
    return path


def test_coco_by_folder_by_pair_and_by_one_file_of_a_pair(shapes):
    train, val = (shapes / "annotations" / f"instances_{split}.json" for split in ("train", "val"))
    for told in (shapes, train, f"{train},{val}"):
        source = find_data(told)
        assert (source.format, set(source.parts), source.task) == ("coco", {"train", "val"}, "detect")
        assert len(source.read("train").images) == 32
        assert len(source.read("val").images) == 12


def test_yolo_labels_become_boxes_in_pixels(tmp_path):
    labels = {"a": "1 0.5 0.5 0.5 0.4\n0 .25 .25 .5 .5\n", "b": "", "c": "0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n"}
    source = find_data(yolo(tmp_path, labels))
    assert (source.format, source.task) == ("yolo", "detect")
    data = source.read("train")
    assert [image.path.name for image in data.images] == ["a.png", "b.png", "c.png"]
    first, background, polygon = objects_of(data)
    np.testing.assert_allclose(first.boxes_xyxy, [[10, 9, 30, 21], [0, 0, 20, 15]], atol=1e-4)
    assert first.class_ids.tolist() == [1, 0]
    assert len(background.class_ids) == 0
    np.testing.assert_allclose(polygon.boxes_xyxy, [[4, 6, 20, 18]], atol=1e-4)


def test_a_yolo_folder_is_found_by_its_yaml_and_names_may_be_numbered(tmp_path):
    yolo(tmp_path, {"a": "1 .5 .5 .1 .1"}, names=None)
    (tmp_path / "data.yaml").write_text("train: images/train\nnc: 2\nnames: {0: cat, 1: dog}\n")
    assert find_data(tmp_path).read("train").class_names == ("cat", "dog")


def test_voc_has_splits_difficult_objects_and_the_classes_that_occur(tmp_path):
    entries = {"train": {"a": ("dog", 0), "b": ("cat", 1)}, "val": {"c": ("emu", 0)}}
    source = find_data(voc(tmp_path, entries))
    assert (source.format, list(source.parts)) == ("voc", ["train", "val"])
    data = source.read("train")
    assert data.class_names == ("cat", "dog", "emu")
    easy, hard = objects_of(data)
    assert (easy.boxes_xyxy.tolist(), easy.class_ids.tolist()) == ([[4, 6, 24, 26]], [1])
    assert len(hard.class_ids) == 0
    assert data[1].crowd.tolist() == [True]


def test_class_folders_with_and_without_parts(tmp_path):
    whole = find_data(tree(tmp_path / "a", {".": {"x": 30, "y": 10}}))
    assert (whole.format, list(whole.parts), whole.task) == ("folder", ["train"], "classify")
    train, held, told = training_parts(whole)
    assert (len(train.data.labels), len(held.data.labels)) == (36, 4)
    assert held.data.counts.tolist() == [3, 1]
    assert "held out" in told
    assert not set(map(str, train.data.images)) & set(map(str, held.data.images))
    split = find_data(tree(tmp_path / "b", {"train": {"x": 2, "y": 3}, "valid": {"x": 1, "y": 1}, "test": {"x": 1}}))
    assert set(split.parts) == {"train", "val", "test"}
    assert split.read("train").counts.tolist() == [2, 3]


def test_classes_may_be_called_like_parts(tmp_path):
    data = find_data(tree(tmp_path, {".": {"train": 3, "car": 2, "contestant": 1}})).read("train")
    assert data.class_names == ("car", "contestant", "train")
    names = ["instances_val2017.json", "train-00000-of-00001.parquet", "Testing", "latest.json", "device", "trains"]
    assert [split_of(name) for name in names] == ["val", "train", "test", None, None, None]


def test_parquet_with_names_in_its_metadata(tmp_path):
    parquet(tmp_path / "train-00000.parquet", [0, 1, 1], names=["cat", "dog"])
    parquet(tmp_path / "test-00000.parquet", [1], names=["cat", "dog"])
    source = find_data(tmp_path)
    assert (source.format, set(source.parts), source.val_split()) == ("parquet", {"train", "test"}, "test")
    data = source.read("train")
    assert isinstance(data, ClassificationData)
    assert (data.class_names, data.counts.tolist()) == (("cat", "dog"), [1, 2])
    assert data.images[0].startswith(b"\x89PNG")
    assert set(find_data(tmp_path / "train-00000.parquet").parts) == {"train", "test"}


def test_labels_are_counted_in_the_names_of_the_training_part(tmp_path):
    names = ("ant", "bee", "cat")
    data = find_data(parquet(tmp_path / "a" / "val.parquet", [0, 1, 1], names=["cat", "ant"])).read("val")
    assert with_classes(data, names).labels.tolist() == [2, 0, 0]
    with pytest.raises(DataError, match="no class of cat to learn from"):
        with_classes(data, ("ant", "bee"))


def test_parquet_faults(tmp_path):
    bad = find_data(parquet(tmp_path / "a" / "train.parquet", [0, None, 7], names=["cat", "dog"]))
    with pytest.raises(DataError, match=r"2 faults\n  row 1: label -1; expected 0 to 1\n  row 2: label 7"):
        bad.read("train")
    assert len(bad.read("train", "skip").labels) == 1
    with pytest.raises(DataError, match="columns image, klass; expected an image and a label"):
        find_data(parquet(tmp_path / "b" / "train.parquet", [0], label="klass")).read("train")
    (tmp_path / "c.parquet").write_text("no")
    with pytest.raises(DataError, match="not a parquet file"):
        find_data(tmp_path / "c.parquet").read("train")


def test_a_format_may_be_named_where_a_folder_holds_several(tmp_path, shapes):
    yolo(tmp_path, {"a": "1 .5 .5 .1 .1"})
    voc(tmp_path, {"train": {"b": ("dog", 0)}})
    (tmp_path / "annotations").symlink_to(shapes / "annotations")
    for format in ("voc", "yolo", "coco"):
        assert find_data(tmp_path, format).format == format
    with pytest.raises(DataError, match=r"coco or voc or yolo; expected one .* to be named \(coco: annotations/inst"):
        find_data(tmp_path)
    with pytest.raises(DataError, match="nothing in format 'parquet' was found"):
        find_data(tmp_path, "parquet")


def test_a_yaml_of_ours_points_at_any_format(tmp_path, shapes):
    (tmp_path / "mine.yaml").write_text(f"train: {shapes}/annotations/instances_train.json\n")
    assert find_data(tmp_path / "mine.yaml").format == "coco"
    tree(tmp_path / "images", {"here": {"n1": 2, "n2": 1}, "there": {"n1": 1}})
    (tmp_path / "named.yaml").write_text(
        "train: images/here\nval: images/there\nnames: {n1: tench, n2: church}\nformat: folder\n"
    )
    source = find_data(tmp_path / "named.yaml")
    assert source.read("train").class_names == source.read("val").class_names == ("tench", "church")
    voc(tmp_path / "v", {"train": {"a": ("dog", 0)}})
    (tmp_path / "voc.yaml").write_text("train: v\nnames: [cat]\n")
    with pytest.raises(DataError, match=r"a\.xml: 1 fault\n  line 2: class 'dog' is unknown"):
        find_data(tmp_path / "voc.yaml").read("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a]", "no train, val or test"),
        ("train: nowhere\nnames: [a]", "nowhere: no such file or folder"),
        ("train: .\nnames: {0: a, 2: b}", r"names of classes \[0, 2\]; expected 0 to 1"),
        ("train: .\nnames: [a, b]\nnc: 3", "nc is 3, and there are 2 names"),
        ("train: .\nformat: tfrecord", "format 'tfrecord'; expected one of coco"),
        ("- a", "holds a list; expected train, val, names"),
        ("train: [images/train, b]", "b: no such file or folder"),
        ("train: [1, 2]", r"train: \[1, 2\]; expected a path, or a list of paths"),
        ("train: images/train\nnames: [a, '']", "names: 1: name ''; expected a text"),
        ("train: images/train\nnc: many", "nc: found 'many', expected a whole number"),
        ("a: b: c", "not YAML"),
        ("train: images/train", "no names; expected the classes' names"),
    ],
)
def test_yaml_that_makes_no_sense_is_refused(tmp_path, text, message):
    yolo(tmp_path, {"a": ""})
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        find_data(tmp_path / "data.yaml")


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        find_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no dataset was recognised; looked for"):
        find_data(tmp_path)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(DataError, match=r"in no format that is known; expected one of \.json, \.csv"):
        find_data(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"format 'cvs'; expected one of .*; did you mean csv"):
        find_data(tmp_path, "cvs")  # pyright: ignore[reportArgumentType]
    tree(tmp_path / "t", {"train": {"only": 3}})
    with pytest.raises(DataError, match="1 class folder; expected at least 2"):
        find_data(tmp_path / "t")


def test_hostile_xml_is_refused(tmp_path):
    root = voc(tmp_path, {"train": {"a": ("dog", 0), "b": ("dog", 0)}})
    lol = '<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
    (root / "Annotations" / "a.xml").write_text(lol)
    (root / "Annotations" / "b.xml").write_text("<a>" * 100_000)
    with pytest.raises(DataError, match=r"declares an entity.*\n.*nested more than 50 deep"):
        find_data(root).read("train")


BROKEN_YOLO = {
    "wrong_columns": ["1: 4 columns", "2: 6 columns", "3: 1 columns"],
    "class_out_of_range": ["1: class '2'", "2: class '99'", "3: class '-1'", "4: class '1.5'"],
    "not_normalised": ["1: '1 175 109 230 106': looks like pixels"],
    "outside": [
        "2: '1 -0.1 0.5 0.1 0.1' lies outside",
        "3: '1 0.5 0.5 0 0.2'; expected a positive",
        "4: '1 0.5 0.5 -0.2",
    ],
    "not_numbers": ["1: '1 nan", "2: '1 a b c d'; expected numbers", "3: class 'bus'", "4: '1 0,5"],
}


@pytest.mark.parametrize("name", BROKEN_YOLO)
def test_broken_yolo_labels_are_told_line_by_line(corrupt, tmp_path, name, capsys):
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    (tmp_path / "images" / "train").mkdir(parents=True)
    for stem in (name, "good"):
        shutil.copy(corrupt / "images" / "good.jpg", tmp_path / "images" / "train" / f"{stem}.jpg")
        shutil.copy(corrupt / "yolo" / f"{stem}.txt", labels)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [person, bus]\n")
    assert main(["data", "check", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    for fault in BROKEN_YOLO[name]:
        assert f"{name}.txt:{fault}" in told
    assert f"{len(BROKEN_YOLO[name])} broken" in told
    reading = find_data(tmp_path).parts["train"]()
    assert reading.skipped == len(BROKEN_YOLO[name])
    clipped = [fault for fault in reading.faults if "hangs over the image's border" in fault.text]
    assert len(clipped) == (name == "outside")
    assert sum(len(entry.class_ids) for entry in objects_of(reading.data)) == 1 + len(clipped)  # that of good.txt


def test_label_files_with_their_list_of_classes_are_a_dataset(corrupt, tmp_path, capsys):
    assert main(["data", "check", str(corrupt / "yolo")]) == 1
    told = capsys.readouterr().out
    for name, faults in BROKEN_YOLO.items():
        assert all(f"{name}.txt:{fault}" in told for fault in faults)
    assert "yolo/good.txt:" not in told
    assert "yolo/outside.txt: no image outside.* beside it or in" in told
    assert main(["data", "check", str(corrupt / "yolo" / "wrong_columns.txt")]) == 1
    assert main(["data", "check", str(corrupt / "voc" / "good.xml")]) == 0
    assert main(["data", "check", str(corrupt / "voc" / "inverted_boxes.xml")]) == 1
    image(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("1 .5 .5 .5 .5")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    data = find_data(tmp_path).read("train")
    assert (data.class_names, objects_of(data)[0].class_ids.tolist()) == (("cat", "dog"), [1])
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"no classes\.txt"):
        find_data(tmp_path / "a.txt").read("train")


@pytest.mark.parametrize("name", ["good", "empty", "bom_crlf_tabs"])
def test_odd_yolo_labels_are_read(corrupt, tmp_path, name):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    shutil.copy(corrupt / "images" / "good.jpg", tmp_path / "images" / f"{name}.jpg")
    shutil.copy(corrupt / "yolo" / f"{name}.txt", tmp_path / "labels")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [person, bus]\n")
    (objects,) = objects_of(find_data(tmp_path).read("train"))
    expected = [[60.0, 56.0, 290.0, 162.0]] if name != "empty" else np.zeros((0, 4))
    np.testing.assert_allclose(objects.boxes_xyxy, expected, atol=0.1)


def test_broken_voc_labels_are_told_line_by_line(corrupt, capsys):
    assert main(["data", "check", str(corrupt / "voc")]) == 1
    told = capsys.readouterr().out
    for fault in (
        "missing_bndbox.xml:5: bus: no bndbox",
        "missing_bndbox.xml:7: bus: xmin 4, ymin 3, xmax missing, ymax missing",
        "inverted_boxes.xml:5: bus: box 290, 162 to 60, 56; expected a positive width and height",
        "inverted_boxes.xml:6: bus: box 40, 30 to 40, 30",
        "inverted_boxes.xml:7: bus: box 60, 56 to 380, 274 hangs over the image's border by 60 pixels",
        "unknown_class.xml:5: class 'Bus'; expected 'bus', as elsewhere",
        "unknown_class.xml:7: an object without a name",
        "wrong_filename.xml: image 'C:\\\\data\\\\img_0001.jpg' is in none of",
        "not_well_formed.xml: not well-formed XML",
    ):
        assert fault in told, fault
    assert "8 broken" in told
    for fine in ("good.xml", "float_boxes.xml", "no_size.xml"):
        assert fine not in told


BROKEN_COCO = "truncated bad_boxes unknown_category missing_images nan_box duplicate_ids wrong_types no_annotations_key"


@pytest.mark.parametrize("name", BROKEN_COCO.split())
def test_broken_coco_files_are_told(corrupt, capsys, name):
    assert main(["data", "check", str(corrupt / "coco" / f"{name}.json")]) == 1
    assert f"{name}.json" in capsys.readouterr().out


def test_a_folder_with_several_files_for_a_part_is_checked_whole(corrupt, capsys):
    assert main(["data", "check", str(corrupt / "coco")]) == 1
    told = capsys.readouterr().out
    assert all(f"/{name}.json" in told for name in BROKEN_COCO.split())
    with pytest.raises(DataError, match="no part 'train'; it has all_images, bad_boxes"):
        training_parts(find_data(corrupt / "coco"))


def test_faults_of_coco_files_have_the_lines_of_their_entries(corrupt):
    text = (corrupt / "coco" / "bad_boxes.json").read_text()
    faults = find_data(corrupt / "coco" / "bad_boxes.json").parts["train"]().faults
    lines = text.splitlines()
    assert [fault.broken for fault in faults].count(False) == 2
    assert len(faults) == 9
    for fault in faults:
        assert lines[fault.line - 1].strip() == "{"
        number = fault.text.removeprefix("annotation ").partition(":")[0]
        assert f'"id": {number},' in lines[fault.line]


def test_suspect_coco_files_are_told(corrupt, capsys):
    assert main(["data", "check", str(corrupt / "coco" / "size_mismatch.json")]) == 1
    assert "good.jpg: 320 x 214 pixels; its labels are for 640 x 428" in capsys.readouterr().out
    assert main(["data", "check", str(corrupt / "coco" / "all_images.json")]) == 1
    told = capsys.readouterr().out
    for name in ("truncated.jpg", "zero_byte.jpg", "text.jpg", "no_header.jpg", "truncated.png", "huge_400MP.png"):
        assert f"images/{name}: " in told
    assert "zero_byte.jpg: empty file" in told
    capsys.readouterr()
    assert main(["data", "check", str(corrupt / "coco" / "no_boxes.json")]) == 1
    assert "there is nothing to learn" in capsys.readouterr().out


def test_training_refuses_broken_labels_unless_they_are_skipped(bccd):
    source = find_data(bccd)
    with pytest.raises(DataError, match=r"BloodImage_00343\.xml: 1 fault\n  line 50: RBC: box 181, 329 to 181, 329"):
        training_parts(source)
    train, scored, told = training_parts(source, on_bad_label="skip")
    assert (train.skipped, scored.skipped) == (1, 1)
    assert told == "the part 'val'"


def test_voc_and_coco_forms_of_one_dataset_agree(bccd):
    """The repository's XML files against the json that others made of them."""
    from_xml, from_json = find_data(bccd).read("test"), find_data(bccd / "coco").read("test")
    by_name = {}
    for data in (from_xml, from_json):
        names = data.class_names
        for image, objects in zip(data.images, objects_of(data), strict=True):
            found = sorted(
                (names[c], *map(float, b)) for b, c in zip(objects.boxes_xyxy, objects.class_ids, strict=True)
            )
            by_name.setdefault(image.path.name, []).append(found)
    assert len(by_name) == 72
    assert all(len(pair) == 2 and pair[0] == pair[1] for pair in by_name.values())


def test_real_classification_sets(shared):
    data = find_data(shared / "data" / "cifar10").read("test")
    assert data.class_names[:3] == ("airplane", "automobile", "bird")
    assert data.counts.tolist() == [1000] * 10


def test_entries_of_json_are_read_one_by_one():
    text = ' {\n "a": [1,\n  {"x": "}]\\""},\n  [2]],\n "b": {"c": [1]}, "d": [],\n "e": [\n"z" ] } '
    content = json.loads(text)
    found = {key: [value for _, value in items(text, at)] for key, at in members(text) if text[at] == "["}
    assert found == {key: value for key, value in content.items() if isinstance(value, list)}
    assert [key for key, _ in members(text)] == list(content)
    places = [text.count("\n", 0, at) for key, start in members(text) if key in "ae" for at, _ in items(text, start)]
    assert places == [1, 2, 3, 6]


@pytest.mark.parametrize(
    "text", ['{"a" 1}', '{"a": [1 2]}', '{"a": 1} x', '{"a": [1,', '{"a": 1 "b": 2}', "{a: 1}", "", "{"]
)
def test_what_is_no_json_ends_as_an_error_of_value(text):
    with pytest.raises(ValueError):
        list(members(text))


def test_a_missing_reader_says_what_to_install(tmp_path, monkeypatch):
    path = parquet(tmp_path / "train.parquet", [0])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'crossstage\[parquet\]'"):
        find_data(path).read("train")


def test_crowds_are_not_learnt(coco256):
    data = find_data(coco256).read("train")
    assert isinstance(data, DetectionData)
    assert sum(len(objects.class_ids) for objects in objects_of(data)) == 929
