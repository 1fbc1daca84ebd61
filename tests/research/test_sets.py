"""Sets for comparisons of trainers: what was packed as COCO is read as YOLO with the same boxes."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from crossstage.data.find import find_data
from research.bench import sets
from research.bench.bars import Outcome, page


@pytest.fixture
def archives(tmp_path, monkeypatch):
    monkeypatch.setitem(
        sets.SETS,
        "small",
        sets.ImageSet(
            "small.tar",
            dict.fromkeys(("train", "val"), "images"),
            {part: f"{part}.json" for part in ("train", "val")},
            only="b",
        ),
    )
    categories = [{"id": 3, "name": "a"}, {"id": 7, "name": "b"}]
    with tarfile.open(tmp_path / "small.tar", "w") as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        for part, first in (("train", 0), ("val", 10)):
            images = [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 20} for n in range(first, first + 6)]
            annotations = [
                {"id": n, "image_id": n, "category_id": (7, 3)[n % 2], "bbox": [n, 2, 8, 4], "area": 32, "iscrowd": 0}
                for n in range(first, first + 6)
            ]
            listing = {"images": images, "annotations": annotations, "categories": categories}
            add(f"{part}.json", json.dumps(listing).encode())
            for image in images:
                buffer = io.BytesIO()
                Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(buffer, "PNG")
                add(f"images/{image['file_name']}", buffer.getvalue())
    return tmp_path


def test_boxes_stay_what_they_are_and_one_class_can_be_kept(archives, tmp_path):
    listing = sets.prepared("small", archives, tmp_path / "work")
    train, val = (find_data(str(listing)).read(part) for part in ("train", "val"))
    assert train.class_names == ("b",)
    assert [image.path.name for image in train.images] == ["0.png", "2.png", "4.png"]  # the others hold none of it
    np.testing.assert_allclose(train.boxes.xywh, [[0, 2, 8, 4], [2, 2, 8, 4], [4, 2, 8, 4]], atol=1e-5)
    assert len(val) == 6


def test_draws_are_parts_of_the_training_images_alone(archives, tmp_path):
    drawn = [sets.prepared(f"small@2.{number}", archives, tmp_path / "work") for number in (0, 1, 0)]
    names = [[image.path.name for image in find_data(str(path)).read("train").images] for path in drawn]
    assert names[0] == names[2] and all(len(each) == 2 for each in names)
    assert len(find_data(str(drawn[0])).read("val")) == 6


def test_the_page_has_a_row_for_each_job_best_first(tmp_path, monkeypatch):
    monkeypatch.setattr("research.bench.bars.RAW", tmp_path)
    common = {"data": "bccd", "ap50": 0.8, "ap75": 0.5, "cpu_seconds": 9.0, "epochs": 2, "parameters": 10**6}
    rest = {"gflops": 1.5, "machine": "m", "finished": "2026-11-30T10:00", "command": "c"}
    for job, seed, ap, seconds in (("yolo11n", 0, 0.4, 60.0), ("ours", 0, 0.5, 120.0), ("ours", 1, 0.6, 120.0)):
        outcome = Outcome(job=job, seed=seed, ap=ap, seconds=seconds, **common, **rest)
        (tmp_path / f"{job}{seed}.json").write_text(json.dumps(outcome.__dict__))
    rows = [line for line in page().splitlines() if line.startswith("| o") or line.startswith("| u")]
    assert rows[0].startswith("| ours, default | 2 | 55.0 (50.0 to 60.0) | 80.0 | 2.0 |")
    assert rows[1].startswith("| ultralytics yolo11n, from scratch | 1 | 40.0 | 80.0 | 1.0 |")
