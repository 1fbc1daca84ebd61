"""COCO annotation files: found by convention, and every fault told."""

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from crossstage.data.formats.coco import find_coco, read_coco
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
    "bad_boxes": r"9 faults\n  line 24: annotation 2: bbox \[100, 50, -40, 30\]; expected a positive",
    "unknown_category": r"annotation 2: category_id 91; expected one of the categories",
    "missing_images": r"image 2: .*not_there\.jpg does not exist",
    "nan_box": r"annotation 2: bbox \[nan, 10, 30, 30\]; expected four finite",
    "duplicate_ids": r"image 1: the id stands twice, for good\.jpg and gray\.jpg",
    "wrong_types": r"annotation 2: category_id '6'",
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
        ("[" * 100_000, "not JSON"),
        ("\0\1\2", "not JSON"),
        ('{"images": 3}', "'images' is int"),
        ('{"images": [3], "annotations": [], "categories": []}', "no object"),
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


def test_a_box_may_hang_over_the_border_by_rounding(content, tmp_path):
    content["annotations"][0]["bbox"] = [-0.4, 0, 40.8, 30.9]
    assert read_coco(write(tmp_path, content)).images
    content["annotations"][0]["bbox"] = [0, 0, 42, 30]
    with pytest.raises(DataError, match="reaches out of the image"):
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
        ("area", "100", "area '100'; expected a number"),
        ("area", float("inf"), "area inf; expected a number"),
        ("area", -1, "area -1; expected a number"),
        ("area", None, "area None; expected a number"),
        ("iscrowd", "1", "iscrowd '1'; expected 0 or 1"),
        ("iscrowd", None, "iscrowd None; expected 0 or 1"),
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
    content["images"].append({"id": 2, "file_name": "a.png", "width": "40", "height": 30})
    content["annotations"] += [{"id": i, "image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4]} for i in range(2, 9)]
    with pytest.raises(DataError, match="1 fault\n  line 1: image 2: width '40'"):
        read_coco(write(tmp_path, content))
