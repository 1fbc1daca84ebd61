"""COCO annotation files: found by convention, and every fault told."""

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from crossstage.data.find import find_data
from crossstage.data.formats.coco import find_coco, read_coco, scan_coco
from crossstage.errors import DataError


@pytest.fixture
def content() -> dict:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
    }


def write(folder: Path, content: object, name: str = "instances_val.json", images: str = "images/val") -> Path:
    (folder / images).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / images / "a.png")
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / name).write_text(json.dumps(content))
    return folder / "annotations" / name


@pytest.mark.parametrize("images", ["images/val", "val", "images", ".", "annotations", "JPEGImages"])
def test_images_are_found_where_people_put_them(content, tmp_path, images):
    dataset = read_coco(write(tmp_path, content, images=images))
    assert dataset.images[0].path.samefile(tmp_path / images / "a.png")
    assert dict(dataset.categories) == {1: "dog", 3: "cat"}
    assert list(dataset.categories) == [1, 3]


def test_a_folder_gives_its_validation_part_or_the_one_asked_for(content, tmp_path):
    write(tmp_path, content, images="images")
    write(tmp_path, content, "instances_train.json", images="images")
    assert find_coco(tmp_path).path.name == "instances_val.json"
    assert find_coco(tmp_path, split="train").path.name == "instances_train.json"
    with pytest.raises(DataError, match=r"instances_train\.json, instances_val\.json; expected one .*'test'"):
        find_coco(tmp_path, split="test")
    write(tmp_path, content, "other_val.json", images="images")
    with pytest.raises(DataError, match="expected a single one"):
        find_coco(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        find_coco(tmp_path / "nowhere")


FAULTS = {
    "truncated": r"truncated\.json: not JSON",
    "bad_boxes": r"7 faults\n  line 24: annotation 2: bbox \[100, 50, -40, 30\]; expected a positive",
    "unknown_category": r"annotation 2: category_id 91; expected one of the categories",
    "missing_images": r"image 2: .*not_there\.jpg does not exist",
    "nan_box": r"annotation 2: bbox \[nan, 10, 30, 30\]; expected four finite",
    "duplicate_ids": r"image 1: the id stands twice, for good\.jpg and gray\.jpg",
    "wrong_types": r"annotation 3: bbox None; expected four finite numbers",
    "no_annotations_key": r"'annotations' is missing",
}


def test_every_broken_file_is_refused_and_every_good_one_read(shared, tmp_path):
    with tarfile.open(shared / "data" / "corrupt" / "corrupt.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    files = sorted((tmp_path / "coco").glob("*.json"))
    assert len(files) == 12
    for file in files:
        if file.stem in FAULTS:
            with pytest.raises(DataError, match=FAULTS[file.stem]):
                read_coco(file)
        else:
            assert read_coco(file).images


@pytest.mark.parametrize("name", ["groceries25", "bccd"])
def test_real_datasets_are_read(shared, tmp_path, name):
    with tarfile.open(shared / "data" / name / f"{name}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    (file,) = list(tmp_path.rglob("instances_val.json"))
    dataset = read_coco(file)
    assert len(dataset.images) == {"groceries25": 1018, "bccd": 87}[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[1]", "holds a list"),
        ("[" * 100_000, "JSON that is nested too deeply"),
        ('{"images": [{"id": ' + "1" * 5001 + "}]}", "JSON with a number of too many digits"),
        ("\0\1\2", "not JSON"),
        ('{"images": 3}', "'images' is int"),
        ('{"images": [3], "annotations": [], "categories": []}', r"images\[0\]: 3; expected an object"),
        ('{"images": [], "annotations": [], "categories": []}', "categories: empty"),
    ],
)
def test_other_json_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_coco(tmp_path / "x.json")


def test_many_faults_are_counted_and_the_first_shown(content, tmp_path):
    content["annotations"] = [{"id": i, "image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]} for i in range(30)]
    with pytest.raises(DataError, match=r"30 faults") as caught:
        read_coco(write(tmp_path, content))
    assert str(caught.value).count("category_id 9") == 10 and "and 20 more" in str(caught.value)


def test_a_box_over_the_border_is_clipped_and_told_and_one_outside_is_no_box(content, tmp_path):
    content["annotations"][0]["bbox"] = [-0.4, 0, 40.8, 30.9]
    path = write(tmp_path, content)
    assert scan_coco(path).faults == ()
    content["annotations"][0]["bbox"] = [-8, 2, 20, 10]
    (odd,) = scan_coco(write(tmp_path, content)).faults
    assert not odd.broken
    assert "bbox [-8, 2, 20, 10] hangs over the image's border by 8 pixels; clipped to 40 x 30" in odd.text
    data = read_coco(path)
    assert data[0].boxes_xyxy.tolist() == [[0, 2, 12, 12]]
    assert data.boxes.xywh.tolist() == [[-8, 2, 20, 10]]  # what COCO's metrics are to see
    content["annotations"][0]["bbox"] = [41, 0, 42, 30]
    with pytest.raises(DataError, match="lies outside of the image"):
        read_coco(write(tmp_path, content))


def test_a_year_in_the_annotations_name_need_not_be_in_the_folders(content, tmp_path):
    dataset = read_coco(write(tmp_path, content, "instances_val2017.json", images="images/val"))
    assert dataset.images[0].path.samefile(tmp_path / "images" / "val" / "a.png")


def test_the_folder_that_coco_hands_out_gives_its_boxes(content, tmp_path):
    write(tmp_path, content, "instances_val2017.json", images="val2017")
    for task in ("captions", "person_keypoints", "stuff", "panoptic"):
        write(tmp_path, content, f"{task}_val2017.json", images="val2017")
    assert find_coco(tmp_path).path.name == "instances_val2017.json"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("area", "much", "area 'much'; expected a number"),
        ("iscrowd", "x", "iscrowd 'x'; expected 0 or 1"),
        ("area", float("inf"), "area inf; expected a number"),
        ("area", -1, "area -1; expected a number"),
        ("iscrowd", 2, "iscrowd 2; expected 0 or 1"),
        ("bbox", [0, 0, 10**400, 5], "expected four finite numbers"),
        ("id", 2**63, "expected a whole number"),
        ("image_id", True, "image_id True; expected one of the images"),
    ],
)
def test_values_that_would_change_the_score_unseen_are_refused(content, tmp_path, key, value, message):
    content["annotations"][0][key] = value
    with pytest.raises(DataError, match=rf"1 fault\n.*{message}"):
        read_coco(write(tmp_path, content))


@pytest.mark.parametrize("crowd", [0, 1, True])
def test_area_and_iscrowd_are_optional_and_crowds_are_read(content, tmp_path, crowd):
    content["annotations"][0]["iscrowd"] = crowd
    assert read_coco(write(tmp_path, content)).images
    del content["annotations"][0]["iscrowd"], content["annotations"][0]["area"]
    assert read_coco(write(tmp_path, content)).images


@pytest.mark.parametrize(
    "value", [list(range(100_000)), "x" * 100_000, json.loads("[" * 300 + "]" * 300)], ids=["long", "text", "deep"]
)
def test_a_monstrous_value_gives_a_short_message(content, tmp_path, value):
    content["annotations"][0]["bbox"] = value
    content["categories"].append({"id": value, "name": value})
    content["images"].append({"id": 2, "file_name": value, "width": 1, "height": 1})
    with pytest.raises(DataError, match="3 faults") as caught:
        read_coco(write(tmp_path, content))
    assert len(str(caught.value)) < 1500


def test_file_names_longer_than_the_system_allows_are_missing_images(content, tmp_path):
    content["images"].append({"id": 2, "file_name": "x" * 900, "width": 40, "height": 30})
    with pytest.raises(DataError, match=r"image 2: .* does not exist"):
        read_coco(write(tmp_path, content))


def test_a_faulty_image_is_told_once_not_for_each_of_its_boxes(content, tmp_path):
    content["images"].append({"id": 2, "file_name": "a.png", "width": "wide", "height": 30})
    content["annotations"] += [{"id": i, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]} for i in range(2, 9)]
    with pytest.raises(DataError, match="1 fault\n  line 1: image 2: width 'wide'"):
        read_coco(write(tmp_path, content))


def test_what_pycocotools_takes_is_taken(content, tmp_path):
    """Ids of other kinds, numbers as texts, a null area, an image without a size."""
    content["images"] = [
        {"id": "left", "file_name": "a.png"},
        {"id": "right", "file_name": "a.png", "width": None, "height": "30"},
    ]
    content["categories"] = [{"id": "k", "name": "cat"}, {"id": "7.0", "name": 7}]
    content["annotations"] = [
        {"id": "x", "image_id": "right", "category_id": "k", "bbox": ["1", "2.5", 10, 1e1], "area": None},
        {"id": 2.0, "image_id": "left", "category_id": 7, "bbox": [1, 2, 3, 4], "area": "5", "iscrowd": "1"},
        {"id": "3", "image_id": "left", "category_id": 7.0, "bbox": [1, 2, 3, 4], "iscrowd": None},
    ]
    data = read_coco(write(tmp_path, content))
    assert data.categories == {1: "7", 2: "cat"}
    assert [(image.id, image.width, image.height) for image in data.images] == [(1, 40, 30), (2, 40, 30)]
    assert data.boxes.areas.tolist() == [5, 12, 100]
    assert data.boxes.crowd.tolist() == [True, False, False]
    assert data[1].boxes_xyxy.tolist() == [[1, 2.5, 11, 12.5]]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_missing_image_costs_one_image_wherever_it_stands(content, tmp_path, lost):
    names = ["a.png", "sub/b.PNG", "c.png"]
    content["images"] = [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(names)]
    content["annotations"] = [{"id": n, "image_id": n, "category_id": 3, "bbox": [1, 2, 3, 4]} for n in range(3)]
    path = write(tmp_path, content)
    (tmp_path / "images" / "val" / "sub").mkdir()
    for position, name in enumerate(("a.png", "sub/b.png", "c.png")):
        if position != lost:
            Image.new("RGB", (40, 30)).save(tmp_path / "images" / "val" / name)
    (tmp_path / "images" / "val" / names[lost].lower()).unlink(missing_ok=True)
    reading = scan_coco(path)
    (fault,) = reading.faults
    assert f"image {lost}: {names[lost]} does not exist; looked in" in fault.text
    assert [image.id for image in reading.data.images] == [n for n in range(3) if n != lost]
    assert len(reading.data.boxes.class_ids) == 2


def test_a_million_annotations_would_not_be_objects_at_once(content, tmp_path):
    """Entries are read one by one, in any order of the lists, and their lines are known."""
    boxes = [{"id": n, "image_id": 1, "category_id": 3, "bbox": [n % 30, 2, 5, 5]} for n in range(300)]
    boxes[7]["bbox"] = None
    content["annotations"] = boxes
    turned = {key: content[key] for key in ("annotations", "categories", "images")}
    path = write(tmp_path, content)
    path.write_text(json.dumps(turned, indent=1))
    reading = scan_coco(path)
    (fault,) = reading.faults
    assert path.read_text().splitlines()[fault.line] == '   "id": 7,'
    assert (len(reading.data.boxes.class_ids), reading.skipped) == (299, 1)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_of_text_are_read(content, tmp_path, encoding):
    path = write(tmp_path, content)
    path.write_text(json.dumps(content), encoding=encoding)
    assert find_coco(tmp_path).class_names == ("dog", "cat")
    assert find_data(tmp_path).format == "coco"
