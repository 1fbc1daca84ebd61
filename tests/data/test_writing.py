"""Datasets written and read back, in each format that is written; divided, merged and sampled."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.cli import main
from crossstage.data.find import find_data
from crossstage.data.formats import FORMATS
from crossstage.data.merging import merge_data
from crossstage.data.records import Box, ClassificationData, DetectionBuilder, DetectionData
from crossstage.data.splitting import groups_of, sample_data, split_data
from crossstage.data.writing import losses, writable, write_dataset
from crossstage.errors import ConfigError, DataError

DETECTION = [name for name in writable() if FORMATS[name].task == "detect"]
POLYGON = np.array([2.0, 3.0, 20.5, 3.0, 20.5, 11.25, 7.0, 14.0])


def image(path: Path, seed: int, size: tuple[int, int] = (37, 23), orientation: int = 1) -> Path:
    """An image of noise; ``size`` is its width and height as people see it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    turned = size[::-1] if orientation == 6 else size
    noise = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise).resize(turned, 0).save(path, exif=exif, quality=95)
    return path


@pytest.fixture
def data(tmp_path) -> DetectionData:
    """Names that are not ASCII, a turned image, one without objects, a class that does not occur, names not sorted."""
    found, source = DetectionBuilder(), tmp_path / "source"
    boxes = [Box(0, (1.5, 2.25, 30.1, 20.0)), Box(2, (0, 0, 37, 23)), Box(0, (3, 3, 9, 9), difficult=True)]
    found.add(image(source / "größe ü.jpg", 0), (23, 37), boxes)
    found.add(image(source / "turned.jpg", 1, (23, 37), 6), (37, 23), [Box(2, (2, 3, 20.5, 14.0), mask=[POLYGON])])
    found.add(image(source / "empty.jpg", 2), (23, 37), [])
    found.add(image(source / "other" / "empty.jpg", 3), (23, 37), [Box(0, (1 / 3, 2 / 3, 10 / 3, 9.9))])
    built = found.build(source, ("zebra", "unseen", "Äpfel"))
    assert built
    return built


@pytest.mark.parametrize("format", DETECTION)
def test_what_is_written_is_read_back_equal(data, tmp_path, format):
    parts = {"train": data, "val": data.take([1])}
    write_dataset(parts, tmp_path / "out", format)
    source = find_data(tmp_path / "out")
    assert source.format == format and list(source.parts) == ["train", "val"]
    holds = FORMATS[format].holds
    for split, written in parts.items():
        read = source.read(split)
        assert isinstance(read, DetectionData) and read.class_names == data.class_names
        by_name = {i.path.read_bytes(): sample for i, sample in zip(read.images, read, strict=True)}
        for ref, expected in zip(written.images, written, strict=True):
            sample = by_name[ref.path.read_bytes()]
            kept = slice(None) if "crowds" in holds else ~expected.crowd
            assert (sample.image.width, sample.image.height) == (ref.width, ref.height)
            np.testing.assert_allclose(sample.boxes_xyxy, expected.boxes_xyxy[kept], rtol=1e-6, atol=1e-5)
            np.testing.assert_array_equal(sample.class_ids, expected.class_ids[kept])
            np.testing.assert_array_equal(sample.crowd, expected.crowd[kept])
    masks = [mask for sample in source.read("train") for mask in sample.masks or () if mask is not None]
    assert len(masks) == bool(holds & {"masks", "polygons"})
    for mask in masks:
        np.testing.assert_allclose(mask[0], POLYGON, atol=1e-9)


def test_what_is_lost_is_told_before(data):
    assert losses({"train": data}, "coco") == []
    assert losses({"train": data}, "voc") == ["1 masks: left out, their boxes stay"]
    assert losses({"train": data}, "yolo") == ["1 difficult objects or crowds: left out"]


def test_nothing_that_is_there_is_replaced(data, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is there already; expected a new or empty folder"):
        write_dataset({"train": data}, tmp_path / "out", "yolo")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_format_for_other_labels_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match="has boxes; format folder is for one label an image"):
        write_dataset({"train": data}, tmp_path / "out", "folder")


def test_images_that_are_linked_are_the_same_files(data, tmp_path):
    write_dataset({"train": data}, tmp_path / "out", "yolo", link=True)
    assert (tmp_path / "out" / "images" / "train" / "turned.jpg").samefile(tmp_path / "source" / "turned.jpg")


def test_class_folders_are_written(tmp_path):
    images = [image(tmp_path / "source" / f"{at}.jpg", at) for at in range(4)]
    data = ClassificationData(tmp_path, ("a", "b"), [str(i) for i in images], np.array([0, 1, 1, 0]), images)
    write_dataset({"train": data, "val": data}, tmp_path / "out", "folder")
    read = find_data(tmp_path / "out").read("val")
    assert isinstance(read, ClassificationData)
    assert read.class_names == ("a", "b") and read.counts.tolist() == [2, 2]


def many(folder: Path, count: int = 40) -> DetectionData:
    found = DetectionBuilder()
    for at in range(count):
        found.add(image(folder / f"s{at // 4}_{at}.png", at), (23, 37), [Box(int(at % 4 == 3), (1, 1, 9, 9))])
    built = found.build(folder, ("often", "rare"))
    assert built
    return built


def test_parts_have_their_shares_of_each_class(tmp_path):
    parts = split_data(many(tmp_path), {"val": 0.2, "test": 0.1}, seed=1)
    counts = np.array([part.counts for part in parts.values()])
    assert list(parts) == ["train", "val", "test"] and counts.sum(0).tolist() == [30, 10]
    assert np.abs(counts - [[21, 7], [6, 2], [3, 1]]).max() <= 1


def test_groups_and_copies_stay_on_one_side(tmp_path):
    data = many(tmp_path)
    image(tmp_path / "s9_39.png", 0)  # the first image again
    groups = groups_of(data, r"/s(\d+)_")
    assert groups[39] == groups[0] and len(set(groups[4:8])) == 1 and groups[4] != groups[8]
    parts = split_data(data, {"val": 0.3}, group_by=r"/s(\d+)_")
    stems = [{ref.path.stem.split("_")[0] for ref in part.images} for part in parts.values()]
    assert not stems[0] & stems[1]


def test_a_pattern_that_fits_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="fits no image"):
        split_data(many(tmp_path, 4), {"val": 0.3}, group_by="camera")


def test_a_sample_has_so_many_images_and_each_class_in_its_share(tmp_path):
    sample = sample_data(many(tmp_path), 12)
    assert len(sample) == 12 and sample.counts.tolist() == [9, 3]


def test_classes_are_joined_by_name(data, tmp_path):
    other = many(tmp_path / "many", 4)
    merged = merge_data([{"train": data}, {"train": other, "val": other}])
    assert merged["train"].class_names == ("zebra", "unseen", "Äpfel", "often", "rare")
    assert merged["val"].counts.tolist() == [0, 0, 0, 3, 1] and len(merged["train"]) == 8


def test_the_commands(tmp_path, capsys):
    write_dataset({"train": many(tmp_path / "source", 20)}, tmp_path / "a", "coco")
    a, b, c, d, e = (str(tmp_path / name) for name in "abcde")
    assert main(["data", "convert", a, b, "--to", "voc"]) == 0
    assert main(["data", "split", b, c, "--val", "0.25"]) == 0
    assert main(["data", "merge", a, c, d, "--to", "yolo"]) == 0
    assert main(["data", "sample", d, e, "--images", "5"]) == 0
    assert find_data(c).format == "voc" and len(find_data(c).read("val")) == 5
    assert find_data(e).format == "yolo" and sum(len(find_data(e).read(part)) for part in find_data(e).parts) == 5
    assert main(["data", "convert", a, b, "--to", "voc"]) == 2
    assert "is there already" in capsys.readouterr().err
