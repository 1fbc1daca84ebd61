"""The report on a dataset, its plots, and anchors."""

import json

import numpy as np
import pytest
from PIL import Image

from crossstage.cli import main
from crossstage.data.anchors import fit_anchors, judge, scaled_sizes
from crossstage.data.check import check_data
from crossstage.data.find import find_data
from crossstage.errors import DataError
from crossstage.structures import Preprocessing


def noise(path, seed, size=(48, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def faults_of(path) -> list[str]:
    return [str(fault).removeprefix(str(path)).lstrip("/") for fault in check_data(find_data(path)).faults]


def test_a_sound_dataset_has_no_faults(shapes, colours, capsys):
    assert main(["data", "check", str(shapes)]) == 0
    assert "nothing wrong was found" in capsys.readouterr().out
    report = check_data(find_data(colours))
    assert report.faults == ()
    assert [(part.name, part.images, part.readable, part.labels) for part in report.parts] == [
        ("train", 48, 48, 48),
        ("val", 21, 21, 21),
    ]


def test_duplicates_across_parts_unreadable_images_and_imbalance_are_told(tmp_path):
    for number in range(45):
        noise(tmp_path / "train" / "much" / f"{number}.png", number)
    for number in range(2):
        noise(tmp_path / "train" / "little" / f"{number}.png", 100 + number)
    noise(tmp_path / "val" / "much" / "copy.png", 7)
    noise(tmp_path / "val" / "little" / "wrong.png", 8)
    (tmp_path / "val" / "much" / "broken.jpg").write_text("text")
    told = faults_of(tmp_path)
    assert "val/much/broken.jpg: not an image that Pillow can read; expected a JPEG, PNG or the like" in told
    where = f"{tmp_path}/train/much"
    assert f"val/much/copy.png: the same image as {where}/7.png (in 'train', and this is 'val')" in told
    labelled = ", labelled 'much' there and 'little' here"
    same = f"val/little/wrong.png: the same image as {where}/8.png (in 'train', and this is 'val'){labelled}"
    assert same in told
    assert ": train: 45 labels of much, 2 of little; class_weights=balanced may help" in told
    assert main(["data", "check", str(tmp_path)]) == 1


def test_boxes_that_are_no_help_are_told(tmp_path):
    for name in ("a", "b"):
        noise(tmp_path / "images" / f"{name}.png", ord(name), (400, 400))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .5 .5\n0 .5 .5 .5 .50001\n1 .2 .2 .005 .1\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [x, y, z]\n")
    told = faults_of(tmp_path)
    assert "images/a.png: 1 box stands twice, with one class" in told
    assert "images: 1 boxes are below 4 pixels at an input of 416, the first in a.png" in told
    assert "data.yaml: train: no label of z" in told
    report = check_data(find_data(tmp_path))
    assert report.broken == 0
    assert report.parts[0].unlabelled == 1


def test_the_report_is_written_as_json(shapes, tmp_path):
    assert main(["data", "check", str(shapes), "--json", str(tmp_path / "r.json")]) == 0
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["format"] == "coco"
    assert content["parts"][0]["per_class"].keys() == {"circle", "square"}


def test_plots_and_sheets_are_png_files(shapes, colours, tmp_path, capsys):
    assert main(["data", "stats", str(shapes), "--out", str(tmp_path / "boxes")]) == 0
    assert sorted(path.name for path in (tmp_path / "boxes").iterdir()) == ["boxes.png", "classes.png", "samples.png"]
    assert main(["data", "stats", str(colours), "--out", str(tmp_path / "labels")]) == 0
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["classes.png", "samples.png"]
    for data in (shapes, colours):
        plain, augmented = tmp_path / "plain.png", tmp_path / "augmented.png"
        assert main(["data", "show", str(data), "--imgsz", "64", "--out", str(plain), "--count", "4"]) == 0
        words = ["--augment", "--imgsz", "64", "--out", str(augmented), "--count", "4"]
        assert main(["data", "show", str(data), *words]) == 0
        images = [np.asarray(Image.open(path)) for path in (plain, augmented)]
        assert images[0].shape == images[1].shape == (320, 1280, 3)
        assert not np.array_equal(*images)
    assert "4 images" in capsys.readouterr().out


def test_anchors_of_three_kinds_of_boxes_are_those_kinds():
    random = np.random.default_rng(0)
    kinds = np.array([[10, 20], [60, 50], [200, 300]], float)
    sizes = np.concatenate([kind + random.uniform(-1, 1, (50, 2)) for kind in kinds])
    fitted = fit_anchors(sizes, 3, seed=1)
    np.testing.assert_allclose(fitted, kinds, atol=0.6)
    fit = judge(sizes, fitted)
    assert fit.recall == 1
    assert fit.used == pytest.approx([1 / 3] * 3)
    nearest = np.repeat(fitted, 50, axis=0)
    inter = np.minimum(sizes, nearest).prod(1)
    assert fit.mean_iou == pytest.approx(float((inter / (sizes.prod(1) + nearest.prod(1) - inter)).mean()))
    with pytest.raises(DataError, match="2 different sizes of boxes; expected at least 3"):
        fit_anchors(np.array([[1.0, 1], [1, 1], [2, 2]]), 3)


def test_box_sizes_are_those_in_the_networks_input(shapes):
    data = find_data(shapes).read("train")
    stretched = scaled_sizes(data, Preprocessing((160, 200), "stretch"))
    boxed = scaled_sizes(data, Preprocessing((160, 160), "letterbox"))
    sides = data.boxes.xywh[:, 2]
    np.testing.assert_allclose(np.sort(stretched[:, 0]), np.sort(sides * 2.0))
    np.testing.assert_allclose(np.sort(boxed[:, 1]), np.sort(sides * 1.6))


def test_fitted_anchors_are_compared_with_the_models(shapes, colours, capsys):
    assert main(["data", "anchors", str(shapes), "--imgsz", "416", "--count", "4"]) == 0
    told = capsys.readouterr().out
    assert "mean IoU" in told
    assert "fitted" in told
    assert main(["data", "anchors", str(colours)]) == 2
    assert "has labels without boxes" in capsys.readouterr().err
    assert main(["data", "anchors", str(shapes), "--model", "resnet18"]) == 2
    assert "resnet18 has no anchors" in capsys.readouterr().err
