"""The study of masks: which photos it takes, which classes it sees, and the page of what it found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from crossstage.data.formats.coco import read_coco
from research.studies.masks import PARTS, RAW, group, has_masks, held, page, photos, write_coco

SIZE = 160


def polygon(*corners: tuple[float, float]) -> list[list[float]]:
    return [[float(value) for corner in corners for value in corner]]


def comb(left: int, top: int, teeth: int) -> list[list[float]]:
    """A back with teeth two pixels wide, which no grid of 28 cells holds."""
    corners: list[tuple[float, float]] = [(left, top), (left + 4 * teeth, top)]
    for tooth in reversed(range(teeth)):
        x = left + 4 * tooth
        corners += [(x + 2, top + 2), (x + 2, top + 100), (x, top + 100), (x, top + 2)]
    return polygon(*corners)


@pytest.fixture
def data(tmp_path):
    """Photos of a large square, a small one, a comb, a crowd, and a large and a small square."""

    def square(side: int):
        return polygon((10, 10), (10, 10 + side), (10 + side, 10 + side), (10 + side, 10))

    drawn = [[square(100)], [square(20)], [comb(10, 10, 30)], [square(90)], [square(112), square(56)]]
    images, annotations = [], []
    for number, masks in enumerate(drawn, start=1):
        Image.new("RGB", (SIZE, SIZE)).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE})
        for kind, mask in enumerate(masks, start=1):
            corners = np.array(mask[0]).reshape(-1, 2)
            (x, y), (right, bottom) = corners.min(0), corners.max(0)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": kind, "iscrowd": int(number == 4),
                 "bbox": [x, y, right - x, bottom - y], "area": 1.0, "segmentation": mask}
            )  # fmt: skip
    annotations[3]["segmentation"] = {"size": [SIZE, SIZE], "counts": [100, 50, SIZE * SIZE - 150]}
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "kite"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "instances.json")


def test_photos_are_those_of_large_objects_that_a_grid_holds(data):
    assert held(data, 0) > 0.97 and held(data, 2) < 0.9
    assert [has_masks(data, index) for index in range(5)] == [True, True, True, False, True]
    assert photos(data, 5) == [0, 4, 1]
    assert photos(data, 2) == [0, 4]


def test_classes_become_groups_and_others_are_left_out(data, tmp_path):
    write_coco(data, [4, 0], tmp_path / "out", "train", group)
    written = read_coco(tmp_path / "out" / "annotations" / "instances_train.json")
    assert written.class_names == ("animal",) and len(written) == 2
    assert written.boxes.xywh.tolist() == [[10, 10, 100, 100], [10, 10, 112, 112]]
    assert written.has_masks and all(image.path.is_file() for image in written.images)
    assert [group(name) for name in ("person", "truck", "kite")] == ["person", "vehicle", None]


def test_the_page_shows_what_was_found(tmp_path):
    scores = {"ap": 0.5, "ap50": 0.75, "ap75": None}
    row = {
        "boxes": scores, "masks": {**scores, "ap": 0.8125}, "classes": {"dog": [0.5, None]}, "epochs": 40,
        "history": [{"epoch": 20, "AP": 0.25, "AP_mask": 0.125}, {"epoch": 40, "AP": 0.5, "AP_mask": 0.8125}],
        "seconds": 600, "size": 256, "images": {"train": 12, "val": 12}, "objects": {"train": 17, "val": 17},
        "photos": ["000000000034"], "machine": "a machine",
    }  # fmt: skip
    for name in PARTS:
        (tmp_path / f"{name}.json").write_text(json.dumps(row))
    shown = page(tmp_path)
    assert "| 50.0 | 75.0 | 0.0 | 81.2 | 75.0 | 0.0 | 256 | 40 | 10 |" in shown
    assert "| dog | 50.0 | – |" in shown and "20: 0.25 and 0.12, 40: 0.50 and 0.81" in shown


def test_the_page_is_what_the_command_prints():
    if not RAW.is_dir():
        pytest.skip("the trainings have not been run yet")
    assert page(RAW) == RAW.with_suffix(".md").read_text()
