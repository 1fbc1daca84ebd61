"""Layouts as label tools write them: recognised by what files hold, read, or refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.cli import main
from crossstage.data.check import check_data
from crossstage.data.find import DataSource, find_data, training_parts
from crossstage.errors import DataError

BOX = [8.0, 6.0, 28.0, 21.0]  # of an image of 40 x 30


def image(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def text(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def boxes(source: DataSource, part: str = "train") -> list[tuple[str, str, list[float]]]:
    """Image, class and corners of each box of a part."""
    data = source.read(part)
    return [
        (sample.image.path.name, data.class_names[class_id], [round(side, 2) for side in box])
        for sample in data
        for class_id, box in zip(sample.class_ids.tolist(), sample.boxes_xyxy.tolist(), strict=True)
    ]


def odd(source: DataSource, part: str = "train") -> str:
    return "\n".join(fault.text for fault in source.parts[part]().faults if not fault.broken)


def coco(images: list[str], folder: Path, name: str) -> None:
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [8, 6, 20, 15], "area": 300} for n in range(len(images))
    ]
    entries = [{"id": n, "file_name": file, "width": 40, "height": 30} for n, file in enumerate(images)]
    categories = [{"id": 0, "name": "things"}, {"id": 1, "name": "cat"}]
    text(folder / name, {"images": entries, "annotations": annotations, "categories": categories})


def test_roboflows_coco_has_a_file_in_the_folder_of_each_part(tmp_path):
    for part, count in (("train", 2), ("valid", 1), ("test", 1)):
        names = [image(tmp_path / part / f"{part}{n}.jpg").name for n in range(count)]
        coco(names, tmp_path / part, "_annotations.coco.json")
    source = find_data(tmp_path)
    assert (source.format, list(source.parts)) == ("coco", ["train", "val", "test"])
    assert source.why == "train/_annotations.coco.json, valid/_annotations.coco.json, test/_annotations.coco.json"
    assert boxes(source, "val") == [("valid0.jpg", "cat", BOX)]


VOC = """<annotation><filename>{file}</filename><size><width>40</width><height>30</height></size>
<object><name>cat</name><bndbox><xmin>8</xmin><ymin>6</ymin><xmax>28</xmax><ymax>21</ymax></bndbox></object></annotation>"""


def test_roboflows_voc_has_files_beside_the_images_of_each_part(tmp_path):
    for part in ("train", "valid"):
        image(tmp_path / part / f"{part}.jpg")
        text(tmp_path / part / f"{part}.xml", VOC.format(file=f"{part}.jpg"))
    source = find_data(tmp_path)
    assert (source.format, list(source.parts)) == ("voc", ["train", "val"])
    assert boxes(source, "val") == [("valid.jpg", "cat", BOX)]


def test_two_label_files_that_name_one_image_are_told(tmp_path):
    for name in ("a", "b"):
        image(tmp_path / f"{name}.jpg")
        text(tmp_path / f"{name}.xml", VOC.format(file="a.jpg"))
    source = find_data(tmp_path)
    assert [name for name, *_ in boxes(source)] == ["a.jpg", "b.jpg"]
    assert "names 'a.jpg', and b.jpg has its own name; the latter is taken" in odd(source)
    (tmp_path / "b.jpg").unlink()
    assert [name for name, *_ in boxes(source)] == ["a.jpg", "a.jpg"]
    assert main(["data", "check", str(tmp_path)]) == 0


def test_label_studios_yolo_has_its_classes_beside_images_and_labels(tmp_path):
    image(tmp_path / "images" / "a.JPG")
    text(tmp_path / "labels" / "a.txt", "1.000e+00 0.45 0.45 0.5 0.5\n")
    text(tmp_path / "classes.txt", "dog\ncat\n\n")
    text(tmp_path / "notes.json", {"categories": [{"id": 0, "name": "dog"}], "info": {"year": 2024}})
    for format in (None, "yolo"):
        source = find_data(tmp_path, format)
        assert source.format == "yolo"
        assert boxes(source) == [("a.JPG", "cat", BOX)]
    text(tmp_path / "classes.txt", "dog\n\ncat\n")
    with pytest.raises(DataError, match=r"classes\.txt:2: name ''; expected a text"):
        find_data(tmp_path).read("train")


def test_yolo_labels_without_names_are_no_class_folders(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", "0 0.45 0.45 0.5 0.5\n")
    with pytest.raises(DataError, match=r"YOLO labels without names; expected classes\.txt"):
        find_data(tmp_path).read("train")


def test_a_label_file_without_its_image_is_told(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    for name in ("a", "lost"):
        text(tmp_path / "labels" / f"{name}.txt", "0 0.45 0.45 0.5 0.5\n")
    text(tmp_path / "data.yaml", "train: images\nnc: 1\n")
    reading = find_data(tmp_path).parts["train"]()
    assert reading.data.class_names == ("class0",)
    (fault,) = reading.faults
    assert fault.file.name == "lost.txt" and "no image lost.*" in fault.text


RESULT = {
    "value": {"x": 20, "y": 20, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]},
    "original_width": 40, "original_height": 30, "type": "rectanglelabels", "from_name": "label",
}  # fmt: skip


@pytest.mark.parametrize("form", ["json", "min", "csv"])
def test_label_studios_own_exports_are_read(tmp_path, form):
    image(tmp_path / "images" / "photo.jpg")
    address = "/data/upload/1/01234567-photo.jpg"
    short = {**RESULT["value"], "original_width": 40, "original_height": 30}
    if form == "json":
        skeleton = {"value": {"text": ["x"]}, "type": "textarea"}
        cancelled = {"was_cancelled": True, "result": []}
        tasks = [{"id": 1, "data": {"image": address}, "annotations": [cancelled, {"result": [RESULT, skeleton]}]}]
        file = text(tmp_path / "project-1.json", tasks)
    elif form == "min":
        file = text(tmp_path / "project-1.json", [{"image": address, "id": 1, "label": [short]}])
    else:
        cell = json.dumps([short]).replace('"', '""')
        file = text(tmp_path / "project-1.csv", f'image,id,label,annotator\n{address},1,"{cell}",2\n')
    for place in (tmp_path, file):
        source = find_data(place)
        assert source.format == "labelstudio"
        assert boxes(source) == [("photo.jpg", "cat", BOX)]
    assert ("textarea" in odd(source)) == (form == "json")


def test_label_studios_turned_boxes_and_polygons_become_upright_boxes(tmp_path):
    image(tmp_path / "a.png", (100, 100))
    turned = {"x": 50, "y": 20, "width": 20, "height": 10, "rotation": 90, "rectanglelabels": ["cat"]}
    polygon = {"points": [[10, 10], [30, 10], [20, 40]], "polygonlabels": ["dog"]}
    results = [{"value": value, "original_width": 100, "original_height": 100} for value in (turned, polygon)]
    text(tmp_path / "x.json", [{"data": {"image": "s3://bucket/a.png"}, "annotations": [{"result": results}]}])
    source = find_data(tmp_path)
    assert boxes(source) == [("a.png", "cat", [40, 20, 50, 40]), ("a.png", "dog", [10, 10, 30, 40])]
    assert source.read("train").masked == 1


CVAT = """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task/></meta>
<image id="0" name="sub/a.jpg" width="40" height="30">
<box label="cat" occluded="0" xtl="8" ytl="6" xbr="28" ybr="21" z_order="0"><attribute name="x">1</attribute></box>
<polygon label="dog" points="1,2;11,2;11,12" /><points label="cat" points="3,3"/>
<box label="cat" xtl="8" ytl="much" xbr="28" ybr="21"/></image>
<image id="1" name="lost.jpg" width="40" height="30"/></annotations>"""


def test_cvats_xml_has_an_element_for_each_image(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    file = text(tmp_path / "annotations.xml", CVAT)
    for place in (tmp_path, file):
        source = find_data(place)
        assert source.format == "cvat"
        reading = source.parts["train"]()
        broken = [str(fault).removeprefix(f"{file}:") for fault in reading.faults if fault.broken]
        assert broken[0].startswith("5: cat: box of ['8', 'much', '28', '21']; expected numbers")
        assert broken[1].startswith("6: image 'lost.jpg' is in none of")
        assert "1 of kind 'points': left out" in odd(source)
    data = source.read("train", "skip")
    assert data.class_names == ("cat", "dog")
    assert data[0].boxes_xyxy.tolist() == [BOX, [1, 2, 11, 12]]
    assert data.masked == 1


def test_a_box_of_cvat_that_is_turned_becomes_the_upright_one_around_it(tmp_path):
    image(tmp_path / "a.jpg", (40, 40))
    box = '<box label="cat" xtl="10" ytl="15" xbr="30" ybr="25" rotation="{}"/>'
    boxes_of = "".join(box.format(degrees) for degrees in ("0", "90", "30"))
    text(
        tmp_path / "x.xml", f'<annotations><image name="a.jpg" width="40" height="40">{boxes_of}</image></annotations>'
    )
    upright, turned, oblique = find_data(tmp_path).read("train")[0].boxes_xyxy.tolist()
    assert upright == [10, 15, 30, 25] and turned == pytest.approx([15, 10, 25, 30])
    half, tall = (20 * 3**0.5 / 2 + 10 / 2) / 2, (20 / 2 + 10 * 3**0.5 / 2) / 2
    assert oblique == pytest.approx([20 - half, 20 - tall, 20 + half, 20 + tall])


@pytest.mark.parametrize(("stated", "told"), [("1", False), ("2", True), ("many", True)])
def test_a_number_of_classes_that_differs_from_the_names_is_told(tmp_path, stated, told):
    image(tmp_path / "a.jpg")
    text(tmp_path / "a.txt", "0 0.45 0.45 0.5 0.5\n")
    text(tmp_path / "obj.names", "cat\n")
    text(tmp_path / "train.txt", "a.jpg\n")
    text(tmp_path / "obj.data", f"classes = {stated}\ntrain = train.txt\nnames = obj.names\n")
    faults = [fault.text for fault in find_data(tmp_path).parts["train"]().faults]
    assert any("and there are 1 names; the names count" in fault for fault in faults) == told


@pytest.mark.parametrize("kept", ["data/", "", "C:\\job\\data\\"])
def test_cvats_yolo_is_darknets_data_file(tmp_path, kept):
    image(tmp_path / "obj_train_data" / "a.jpg")
    text(tmp_path / "obj_train_data" / "a.txt", "0 0.45 0.45 0.5 0.5\n")
    text(tmp_path / "obj.names", "cat\n")
    text(tmp_path / "train.txt", f"{kept}obj_train_data/a.jpg\n")
    text(
        tmp_path / "obj.data", "classes = 1\n# a remark\ntrain = data/train.txt\nnames = data/obj.names\nbackup = x/\n"
    )
    for place in (tmp_path, tmp_path / "obj.data"):
        source = find_data(place)
        assert (source.format, list(source.parts)) == ("darknet", ["train"])
        assert boxes(source) == [("a.jpg", "cat", BOX)]


def labelme(folder: Path, name: str, shapes: list, named: str) -> None:
    content = {"version": "5", "flags": {}, "shapes": shapes, "imagePath": named, "imageData": "x" * 5000}
    text(folder / f"{name}.json", {**content, "imageHeight": 30, "imageWidth": 40})


def test_labelmes_shapes_are_read_and_its_image_data_is_not(tmp_path):
    image(tmp_path / "a.jpg")
    shapes = [
        {"label": "cat", "points": [[28, 21], [8, 6]], "shape_type": "rectangle"},
        {"label": "dog", "points": [[1, 2], [11, 2], [11, 12]], "shape_type": "polygon"},
        {"label": "dog", "points": [[20, 15], [23, 19]], "shape_type": "circle"},
        {"label": "dog", "points": [[1, 1]], "shape_type": "point"},
        {"label": "dog", "points": [[1, None]], "shape_type": "rectangle"},
    ]
    labelme(tmp_path, "a", shapes, "..\\photos\\a.jpg")
    for place in (tmp_path, tmp_path / "a.json"):
        source = find_data(place)
        assert source.format == "labelme"
        data = source.read("train", "skip")
        assert data[0].boxes_xyxy.tolist() == [BOX, [1, 2, 11, 12], [15, 10, 25, 20]]
        assert (data.masked, source.parts["train"]().skipped) == (1, 1)
    assert "1 of kind 'point': left out" in odd(source)


TABLES = {
    "tensorflow": "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,40,30,cat,8,6,28,21\n",
    "semicolons": "xmin;ymin;xmax;ymax;label;image\n8,0;6;28;21;cat;a.jpg\n".replace("8,0", "8.0"),
    "keras": "a.jpg,8,6,28,21,cat\nb.jpg,,,,,\n",
    "open images": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf\na,x,/m/1,1,.2,.7,.2,.7,0\n",
}


@pytest.mark.parametrize("form", TABLES)
def test_tables_of_boxes_are_read_in_their_common_forms(tmp_path, form):
    for name in ("a", "b"):
        image(tmp_path / "images" / f"{name}.jpg")
    text(tmp_path / "annotations.csv", TABLES[form])
    text(tmp_path / "class-descriptions-boxable.csv", "/m/1,cat\n")
    for place in (tmp_path, tmp_path / "annotations.csv"):
        source = find_data(place)
        assert source.format == "csv"
        assert boxes(source) == [("a.jpg", "cat", BOX)]
    assert len(source.read("train")) == 1 + (form == "keras")


def test_rows_of_a_table_that_make_no_sense_are_told_with_their_lines(tmp_path):
    image(tmp_path / "train" / "a.jpg")
    rows = ["a.jpg,cat,8,6,28,21", "lost.jpg,cat,1,2,3,4", "a.jpg,cat,1,2,x,4", "a.jpg,cat,1", "a.jpg,,1,2,3,4"]
    text(tmp_path / "train" / "_annotations.csv", "\n".join(["filename,class,xmin,ymin,xmax,ymax", *rows]))
    source = find_data(tmp_path)
    faults = sorted((fault.line, fault.text) for fault in source.parts["train"]().faults)
    assert [line for line, _ in faults] == [3, 4, 5, 6]
    for (_, told), expected in zip(
        faults, ("'lost.jpg' is in none of", "corners", "3 columns", "without"), strict=True
    ):
        assert expected in told
    assert len(source.read("train", "skip").boxes.class_ids) == 1


YAMLS = {
    "folders": "train: [v1/images, v2/images]",
    "a list": "train: list.txt",
    "a pattern": "train: v*/images",
    "a pattern of images": "train: v?/images/*.jpg",
    "a path": "path: {root}\ntrain: [v1/images, v2/images]",
    "a path of elsewhere": "path: ../datasets/x\ntrain:\n  - v1/images # the first\n  - ./v2/images",
    "windows": "train: ['v1\\images', '..\\v2\\images']",
}


@pytest.mark.parametrize("form", YAMLS)
def test_the_parts_of_a_yaml_file_are_paths_lists_and_patterns(tmp_path, form):
    for number in (1, 2):
        image(tmp_path / f"v{number}" / "images" / f"a{number}.jpg")
        text(tmp_path / f"v{number}" / "labels" / f"a{number}.txt", "0 0.45 0.45 0.5 0.5\n")
    text(tmp_path / "list.txt", "./v1/images/a1.jpg\nv2/images/a2.jpg\n")
    text(tmp_path / "data.yaml", YAMLS[form].format(root=tmp_path) + "\nnames: [cat]\ndownload: https://x.org/x.zip\n")
    source = find_data(tmp_path)
    assert boxes(source) == [("a1.jpg", "cat", BOX), ("a2.jpg", "cat", BOX)]
    notes = [fault.text for fault in source.notes]
    assert any("download is passed over" in note for note in notes)
    assert any("path '../datasets/x' is not there" in note for note in notes) == (form == "a path of elsewhere")


def test_names_stay_the_text_that_was_written_and_a_lost_test_part_is_no_fault(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    text(tmp_path / "labels" / "a.txt", "0 0.45 0.45 0.5 0.5\n")
    text(
        tmp_path / "data.yaml",
        "train: images\nval: images\ntest: ../test/images\nnc: '4'\nnames: [no, yes, 007, 1e3]\n",
    )
    source = find_data(tmp_path)
    assert list(source.parts) == ["train", "val"]
    assert source.read("train").class_names == ("no", "yes", "007", "1e3")
    assert "test is passed over" in source.notes[0].text


POSE = "0 0.45 0.45 0.5 0.5 0.4 0.4 2 0.5 0.5 1 0.3 0.3 0\n"
TURNED = "0 0.45 0.2 0.7 0.45 0.45 0.7 0.2 0.45\n"  # in a square image


@pytest.mark.parametrize(
    ("more", "label", "expected", "told"),
    [
        ("kpt_shape: [3, 3]", POSE, [20.0, 20, 70, 70], "1 lines have key points, which are left out"),
        ("", POSE, [20.0, 20, 70, 70], "1 lines have key points"),
        ("", TURNED, [20.0, 20, 70, 70], "1 oriented boxes; the upright boxes around them are used"),
        ("task: obb", TURNED, [20.0, 20, 70, 70], "1 oriented boxes"),
        ("task: segment", TURNED, [20.0, 20, 70, 70], ""),
    ],
)
def test_key_points_and_oriented_boxes_give_their_upright_box(tmp_path, more, label, expected, told):
    image(tmp_path / "images" / "a.png", (100, 100))
    text(tmp_path / "labels" / "a.txt", label)
    text(tmp_path / "data.yaml", f"train: images\nnames: [cat]\n{more}\n")
    source = find_data(tmp_path)
    assert boxes(source) == [("a.png", "cat", expected)]
    assert told in odd(source)
    assert source.read("train").has_masks == (more == "task: segment")


def test_lines_that_are_not_of_the_stated_key_points_are_refused(tmp_path):
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "labels" / "a.txt", POSE)
    text(tmp_path / "data.yaml", "train: images\nnames: [cat]\nkpt_shape: [4, 3]\n")
    with pytest.raises(DataError, match=r"14 columns: .*expected 17, as kpt_shape says, or 5"):
        find_data(tmp_path).read("train")
    text(tmp_path / "data.yaml", "train: images\nnames: [cat]\nkpt_shape: many\n")
    with pytest.raises(DataError, match="kpt_shape: 'many'; expected how many points"):
        find_data(tmp_path)


@pytest.mark.parametrize("written", ["1.0", "1", "1.000e+00"])
def test_class_ids_may_be_written_as_floats_but_have_no_fraction(tmp_path, written):
    image(tmp_path / "images" / "a.png")
    text(tmp_path / "data.yaml", "train: images\nnames: [dog, cat]\n")
    text(tmp_path / "labels" / "a.txt", f"{written} 0.45 0.45 0.5 0.5\n")
    assert boxes(find_data(tmp_path)) == [("a.png", "cat", BOX)]
    text(tmp_path / "labels" / "a.txt", "0.5 0.45 0.45 0.5 0.5\n")
    with pytest.raises(DataError, match=r"class '0\.5'; expected a whole number from 0 to 1"):
        find_data(tmp_path).read("train")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("train/a.jpg", "valid/b.jpg", "train/_classes.csv"), "folders train, valid, and none in them"),
        (("train/a.jpg", "test/b.jpg", "train/boxes.createml.json"), "folders test, train, and none in them"),
        (("img/a.jpg", "ann/a.jpg.json"), "images in folder img alone; expected them in at least 2"),
        (("training/image_2/a.png", "training/label_2/a.txt"), "images in folder image_2 alone"),
    ],
)
def test_labels_in_a_format_that_is_not_known_are_no_classes(tmp_path, files, told):
    for name in files:
        image(tmp_path / name) if name.endswith(("jpg", "png")) else text(tmp_path / name, "{}")
    with pytest.raises(DataError, match=told):
        find_data(tmp_path)


def test_what_a_class_folder_holds_besides_images_is_told(tmp_path):
    for name in ("cat/a.png", "dog/b.png"):
        image(tmp_path / name)
    text(tmp_path / "cat" / "a.heic", "")
    text(tmp_path / "cat" / ".hidden", "")
    (tmp_path / "cat" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    assert ".heic" in odd(find_data(tmp_path)) and "broken link" in odd(find_data(tmp_path))


def test_a_label_file_whose_image_is_a_link_to_nowhere_is_told(tmp_path):
    for name in ("a", "b"):
        text(tmp_path / "labels" / f"{name}.txt", "0 0.45 0.45 0.5 0.5\n")
    image(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "nowhere.png")
    text(tmp_path / "classes.txt", "cat\n")
    reading = find_data(tmp_path).parts["train"]()
    assert [fault.text.split(" beside")[0] for fault in reading.faults] == ["no image b.*"]


def test_a_part_of_nothing_but_what_is_left_out_is_broken(tmp_path, capsys):
    text(tmp_path / "annotations.xml", '<annotations><version>1.1</version><track id="0" label="x"/></annotations>')
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "train: no image with labels that are read" in capsys.readouterr().out


def test_a_file_of_another_encoding_is_one_fault_with_its_line_and_its_path_once(tmp_path):
    image(tmp_path / "a.png")
    table = tmp_path / "boxes.csv"
    table.write_bytes("filename,class,xmin,ymin,xmax,ymax\na.png,B\xe4r,1,2,20,20\n".encode("latin-1"))
    (fault,) = find_data(tmp_path).parts["train"]().faults
    assert (fault.file, fault.line) == (table, 2)
    assert fault.text.startswith("byte 43 (0xe4) is no UTF-8")


def test_several_datasets_in_a_folder_are_named_not_taken_for_classes(tmp_path):
    for name in ("first", "second"):
        image(tmp_path / name / "images" / "a.png")
        text(tmp_path / name / "labels" / "a.txt", "0 0.45 0.45 0.5 0.5\n")
        text(tmp_path / name / "classes.txt", "cat\n")
    with pytest.raises(DataError, match=r"looks like several datasets: first \(yolo\), second \(yolo\); expected one"):
        find_data(tmp_path)
    for name in ("x", "y"):
        for part in ("train", "val"):
            image(tmp_path / "trees" / name / part / "cat" / "a.png")
    with pytest.raises(DataError, match=r"several datasets: x \(folder\), y \(folder\)"):
        find_data(tmp_path / "trees")


def test_a_part_without_a_label_is_told_and_no_training_begins(tmp_path, capsys):
    image(tmp_path / "images" / "train" / "a.png")
    image(tmp_path / "images" / "val" / "b.jpg")
    text(tmp_path / "labels" / "val" / "b.txt", "0 0.45 0.45 0.5 0.5\n")
    text(tmp_path / "data.yaml", "train: images/train\nval: images/val\nnames: [cat]\n")
    assert main(["data", "check", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert f"looked in {tmp_path}/labels/train and beside them" in told
    assert "train: no label in any of 1 images: there is nothing to learn" in told
    with pytest.raises(
        DataError, match=r"the train part has nothing to learn: no label in any of 1 images; no label fi"
    ):
        training_parts(find_data(tmp_path))
    text(tmp_path / "data.yaml", "train: images/val\nval: images/train\nnames: [cat]\n")
    with pytest.raises(DataError, match="the val part has nothing to measure by"):
        training_parts(find_data(tmp_path))
    assert main(["data", "check", str(tmp_path)]) == 1
    text(tmp_path / "data.yaml", "train: images/val\nval: images/val\ntest: images/train\nnames: [cat]\n")
    capsys.readouterr()
    assert not [fault for fault in check_data(find_data(tmp_path)).faults if "test:" in fault.text and fault.broken]
    text(tmp_path / "data.yaml", "train: images/val\nnames: [cat]\n")
    with pytest.raises(DataError, match="1 image; expected at least 2 of a kind"):
        training_parts(find_data(tmp_path))


@pytest.mark.parametrize(
    ("data", "out"), [("obj.data", "train.txt"), ("obj.data", "a.jpg"), (".", "a.json"), ("coco.json", "other.json")]
)
def test_a_report_replaces_no_labels_and_an_earlier_report_alone(tmp_path, capsys, data, out):
    picture = image(tmp_path / "a.jpg")
    if data == ".":
        labelme(tmp_path, "a", [{"label": "cat", "points": [[8, 6], [28, 21]], "shape_type": "rectangle"}], "a.jpg")
    else:
        text(tmp_path / "a.txt", "0 0.45 0.45 0.5 0.5\n")
        text(tmp_path / "train.txt", "a.jpg\n")
        text(tmp_path / "obj.names", "cat\n")
        text(tmp_path / "obj.data", "train = train.txt\nnames = obj.names\n")
        for name in ("coco.json", "other.json"):
            coco([picture.name], tmp_path, name)
    before = (tmp_path / out).read_bytes()
    assert main(["data", "check", str(tmp_path / data), "--json", str(tmp_path / out)]) == 2
    assert (
        f"--json would replace {'an image' if out == 'a.jpg' else 'a file of the dataset'}; expected"
        in capsys.readouterr().err
    )
    assert (tmp_path / out).read_bytes() == before
    for _ in range(2):
        assert main(["data", "check", str(tmp_path / data), "--json", str(tmp_path / "report.json")]) == 0


def test_crowds_alone_are_nothing_to_learn(tmp_path):
    names = [image(tmp_path / f"{n}.png").name for n in range(3)]
    coco(names, tmp_path, "train.json")
    content = json.loads((tmp_path / "train.json").read_text())
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    text(tmp_path / "train.json", content)
    with pytest.raises(DataError, match="nothing to learn: no label but 3 crowds or difficult objects, in 3 images"):
        training_parts(find_data(tmp_path))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        ("<?xml version='1.0' encoding='hex'?>", "encoding 'hex'; expected one of text"),
        ("<?xml version='1.0' encoding='klingon'?>", "encoding 'klingon'; expected one of text"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>", "declares an entity"),
    ],
)
def test_xml_that_is_odd_before_it_begins_is_one_fault(tmp_path, head, reason):
    image(tmp_path / "a.jpg")
    text(tmp_path / "Annotations" / "a.xml", head + VOC.format(file="a.jpg"))
    (fault,) = find_data(tmp_path).parts["train"]().faults
    assert reason in fault.text


@pytest.mark.parametrize("encoding", ["utf-16", "gbk", "shift_jis", "latin-1", "utf-8-sig"])
def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path, encoding):
    image(tmp_path / "a.jpg")
    name = "né" if encoding == "latin-1" else "日本"
    declared = f"<?xml version='1.0' encoding='{encoding.removesuffix('-sig')}'?>"
    content = declared + VOC.format(file="a.jpg").replace("cat", name)
    (tmp_path / "a.xml").write_bytes(content.encode(encoding))
    assert boxes(find_data(tmp_path)) == [("a.jpg", name, BOX)]


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        ("<a/>" * 2000, "more than 1,000 elements"),
        ("<size>" + "<a/>" * 2000 + "</size>", "more than 1,000 elements"),
        ("<a>" * 60, "nested more than 50 deep"),
        ("<a>" + "x&#65;" * 600_000 + "</a>", "an element with more than 1,048,576 characters"),
    ],
    ids=["children", "inside", "deep", "text"],
)
def test_xml_has_bounds(tmp_path, monkeypatch, inner, told):
    monkeypatch.setattr("crossstage.data.formats.voc.MAX_ELEMENTS", 1000)
    text(tmp_path / "a.xml", f"<annotation>{inner}</annotation>")
    (fault,) = find_data(tmp_path / "a.xml", "voc").parts["train"]().faults
    assert told in fault.text


def test_text_in_many_pieces_is_joined_once(tmp_path):
    image(tmp_path / "a.jpg")
    pieces = VOC.format(file="a.jpg").replace("cat", "&#99;&#97;t" + " " * 900_000)
    text(tmp_path / "a.xml", pieces)
    assert boxes(find_data(tmp_path)) == [("a.jpg", "cat", BOX)]


@pytest.mark.parametrize("inner", ["images/train", "images/train/deep", "set/images/images"])
def test_a_label_file_without_its_image_is_told_wherever_the_folder_of_images_lies(tmp_path, inner):
    labels = "labels".join(inner.rsplit("images", 1))
    image(tmp_path / inner / "a.png")
    for name in ("a", "gone"):
        text(tmp_path / labels / f"{name}.txt", "0 0.45 0.45 0.5 0.5\n")
    text(tmp_path / "data.yaml", f"train: {inner}\nnames: [cat]\n")
    reading = find_data(tmp_path).parts["train"]()
    told = [str(fault) for fault in reading.faults]
    assert len(reading.data) == 1 and len(told) == 1 and "gone.txt" in told[0] and "no image" in told[0]
