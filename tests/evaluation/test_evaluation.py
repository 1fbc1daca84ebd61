"""COCO metrics: against pycocotools on random and real data, and the cases in which nothing is defined."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from crossstage.data.formats.coco import read_coco
from crossstage.data.records import DetectionData
from crossstage.errors import DataError
from crossstage.evaluation import CocoReport, coco_metrics, coco_result, evaluate, match_classes, print_report
from crossstage.evaluation.coco import coco_content
from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Preprocessing


def reference(path: Path, results: list[dict]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def numbers(report: CocoReport) -> list[float]:
    return [-1.0 if (value := getattr(report, name)) is None else value for name in CocoReport.metric_names()]


def jittered(dataset: DetectionData, seed: int, share: float = 0.8) -> list[dict]:
    """Detections that are mostly right: moved, some missed, some of another class, some invented."""
    rng = np.random.default_rng(seed)
    categories, results = list(dataset.categories), []
    for entry in coco_content(dataset)["annotations"]:
        if rng.random() < share:
            box = np.array(entry["bbox"]) * (1 + rng.normal(0, 0.1, 4))
            wrong = rng.random() < 0.1
            category = int(rng.choice(categories)) if wrong else entry["category_id"]
            results.append({"image_id": entry["image_id"], "category_id": category, "bbox": box.clip(1).tolist(),
                            "score": float(rng.random())})  # fmt: skip
    return results


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionData:
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for i in range(8):
        Image.new("RGB", (300, 200)).save(tmp_path / f"{i}.png")
        images.append({"id": i + 10, "file_name": f"{i}.png", "width": 300, "height": 200})
        for _ in range(6):
            w, h = rng.uniform(5, 150, 2)
            x, y = rng.uniform(0, 300 - w), rng.uniform(0, 200 - h)
            category = int(rng.choice([2, 5, 7]))
            annotations.append({"id": len(annotations) + 1, "image_id": i + 10, "category_id": category,
                                "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(rng.random() < 0.1)})  # fmt: skip
    categories = [{"id": 7, "name": "airplane"}, {"id": 2, "name": "Cat"}, {"id": 5, "name": "unseen"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "instances.json")


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_pycocotools_on_random_detections(dataset, seed):
    results = jittered(dataset, seed)
    assert numbers(coco_metrics(results, dataset)) == pytest.approx(reference(dataset.path, results), abs=1e-9)


def test_metrics_equal_pycocotools_on_real_annotations(coco256):
    dataset = read_coco(coco256 / "annotations" / "instances_val2017.json")
    assert len(dataset.images) == 128 and any(entry["iscrowd"] for entry in coco_content(dataset)["annotations"])
    results = jittered(dataset, 0)
    report = coco_metrics(results, dataset)
    assert numbers(report) == pytest.approx(reference(dataset.path, results), abs=1e-9)
    known = [row.ap for row in report.classes if row.ap is not None]
    assert report.ap == pytest.approx(float(np.mean(known)))


def test_perfect_detections_score_one(dataset):
    results = [{**entry, "score": 1.0} for entry in coco_content(dataset)["annotations"] if not entry["iscrowd"]]
    report = coco_metrics(results, dataset)
    assert (report.ap, report.ap50, report.ar100) == pytest.approx((1, 1, 1))


def test_no_detection_scores_zero(dataset):
    report = coco_metrics([], dataset)
    assert report.ap == 0 and report.detections == 0
    assert all(row.ap == 0 for row in report.classes if row.boxes)


def test_what_has_no_ground_truth_is_undefined_not_zero(dataset, tmp_path):
    content = coco_content(dataset)
    content["annotations"] = [e for e in content["annotations"] if e["category_id"] == 2 and e["area"] > 96**2]
    (tmp_path / "few.json").write_text(json.dumps(content))
    report = coco_metrics([], read_coco(tmp_path / "few.json"))
    assert report.ap_small is None and report.ap_large == 0
    assert {row.name: row.ap for row in report.classes} == {"Cat": 0, "unseen": None, "airplane": None}
    assert json.loads(report.to_json())["ap_small"] is None
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    assert "–" in out.getvalue() and "airplane" not in out.getvalue()


class Centre:
    """Always finds an aeroplane in the middle of the input, and something that no dataset has."""

    class_names = ("person", "aeroplane")
    preprocessing = Preprocessing((64, 64))
    size_divisor = 32
    nms = NMS()

    def __call__(self, images):
        return [images]

    def detect(self, raw, image_size, nms=None, sizes=None):
        return [Instances(torch.tensor([[16.0, 16, 48, 48]] * 2), torch.tensor([0.9, 0.8]), torch.tensor([1, 0]))]


def test_evaluation_runs_a_model_over_the_images(dataset):
    report = evaluate(Centre(), dataset, model_name="centre")
    expected = [coco_result(image.id, 7, [75, 50, 225, 150], 0.9) for image in dataset.images]
    assert numbers(report) == pytest.approx(numbers(coco_metrics(expected, dataset)))
    assert report.images == report.detections == 8
    assert report.unknown_classes == ("Cat", "unseen")
    assert set(report.milliseconds) == {"decode", "preprocess", "forward", "postprocess"}
    assert CocoReport(**{**json.loads(report.to_json())}).ap == report.ap


def test_images_of_another_size_than_annotated_are_refused(dataset):
    Image.new("RGB", (150, 100)).save(dataset.images[3].path)
    with pytest.raises(DataError, match=r"image 13 is 300 x 200; 3\.png has 150 x 100"):
        evaluate(Centre(), dataset)


def test_classes_meet_by_name_whatever_their_case_or_age():
    categories = {5: "airplane", 9: "TV", 1: "Dining Table"}
    assert match_classes(["tvmonitor", "aeroplane", "ghost", "diningtable"], categories) == {0: 9, 1: 5, 3: 1}
    with pytest.raises(DataError, match="the model knows ghost; the dataset has airplane, TV"):
        match_classes(["ghost"], categories)


def test_report_is_written_whole(dataset, tmp_path):
    coco_metrics([], dataset).save(tmp_path / "deep" / "report.json")
    assert json.loads((tmp_path / "deep" / "report.json").read_text())["images"] == 8
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["report.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        coco_metrics([], dataset).save(tmp_path / "file" / "report.json")
