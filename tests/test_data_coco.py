"""COCO annotation files: found by convention, and every fault told."""

import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from crossstage.data import find_coco, read_coco
from crossstage.errors import DataError


@pytest.fixture
def content() -> dict:
    return {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
    }


def write(folder: Path, content: object, name: str = "instances_val.json", pictures: str = "images/val") -> Path:
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(folder / pictures / "a.png")
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / name).write_text(json.dumps(content))
    return folder / "annotations" / name


@pytest.mark.parametrize("pictures", ["images/val", "val", "images", ".", "annotations"])
def test_pictures_are_found_where_people_put_them(content, tmp_path, pictures):
    dataset = read_coco(write(tmp_path, content, pictures=pictures))
    assert dataset.images[0].path.samefile(tmp_path / pictures / "a.png")
    assert dict(dataset.categories) == {1: "dog", 3: "cat"}
    assert list(dataset.categories) == [1, 3]


def test_a_folder_gives_its_validation_part_or_the_one_asked_for(content, tmp_path):
    write(tmp_path, content, pictures="images")
    write(tmp_path, content, "instances_train.json", pictures="images")
    assert find_coco(tmp_path).path.name == "instances_val.json"
    assert find_coco(tmp_path, split="train").path.name == "instances_train.json"
    with pytest.raises(DataError, match=r"instances_train\.json, instances_val\.json; expected one .*'test'"):
        find_coco(tmp_path, split="test")
    write(tmp_path, content, "other_val.json", pictures="images")
    with pytest.raises(DataError, match="expected a single one"):
        find_coco(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        find_coco(tmp_path / "nowhere")


FAULTS = {
    "truncated": r"truncated\.json: not JSON",
    "bad_boxes": r"9 faults\n  annotation 2: bbox \[100, 50, -40, 30\]; expected a positive",
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
    if name == "bccd":  # its pictures keep their place in the VOC layout
        (file.parent.parent / "images").symlink_to(file.parent.parent / "JPEGImages")
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
