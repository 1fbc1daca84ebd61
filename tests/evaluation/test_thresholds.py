"""Suggested thresholds: against pycocotools' own matches, at their edges, and as val and training write them."""

import contextlib
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crossstage.cli import main
from crossstage.data.find import part_to_measure
from crossstage.evaluation import coco_metrics, confidence_curves, thresholds_of
from crossstage.evaluation.classification import measure_classifier
from crossstage.evaluation.coverage import coverage_curve, coverages
from crossstage.evaluation.saving import save_classified
from crossstage.evaluation.thresholds import GRID, Judged, curve_of, matched, plot_curves, save_curves
from crossstage.models.classifier import Classifier
from crossstage.structures import Preprocessing
from crossstage.weights.loading import create_model
from tests.evaluation.test_evaluation import dataset, jittered  # noqa: F401  # a fixture


def pycoco_matches(path: Path, results: list[dict]) -> dict[int, list[tuple[float, bool]]]:
    """The detections of each category with whether they are right at IoU .5, those on crowds left out."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
    found: dict[int, list[tuple[float, bool]]] = {}
    for entry in evaluation.evalImgs:
        if entry and entry["aRng"] == evaluation.params.areaRng[0] and entry["maxDet"] == 100:
            for number, score in enumerate(entry["dtScores"]):
                if not entry["dtIgnore"][0][number]:
                    right = bool(entry["dtMatches"][0][number])
                    found.setdefault(entry["category_id"], []).append((score, right))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_right_and_wrong_are_pycocotools_own(dataset, seed):  # noqa: F811
    results = jittered(dataset, seed)
    curves = confidence_curves(results, dataset)
    oracle = pycoco_matches(dataset.path, results)
    for curve, category, count in zip(curves[1:], dataset.category_ids, dataset.counts, strict=True):
        judged = oracle.get(category, [])
        for at in (0.0, 0.25, 0.5, 0.75):
            kept = [right for score, right in judged if score > at]
            place = int(np.flatnonzero(np.isclose(GRID, at))[0])
            assert curve.recall[place] == pytest.approx(sum(kept) / count)
            assert not kept or curve.precision[place] == pytest.approx(sum(kept) / len(kept))


@pytest.mark.parametrize("seed", range(3))
def test_no_other_threshold_has_a_better_f1(dataset, seed):  # noqa: F811
    results = jittered(dataset, seed)
    best = thresholds_of(confidence_curves(results, dataset)).together
    kept = [entry for entry in results if entry["score"] > best.threshold]
    again = thresholds_of(confidence_curves(kept, dataset)).together
    assert again.f1 == best.f1
    judged = [pair for pairs in pycoco_matches(dataset.path, results).values() for pair in pairs]
    objects = int(dataset.counts.sum())
    for at in [0.0, *(score for score, _ in judged)]:
        right = [found for score, found in judged if score > at]
        assert 2 * sum(right) / (len(right) + objects) <= best.f1 + 1e-12


def test_a_threshold_lies_between_the_scores_it_parts():
    judged = Judged(np.array([0.9, 0.60001, 0.60002, 0.2]), np.array([True, False, True, False]), 2)
    best = curve_of("cat", judged).best
    assert 0.60001 <= best.threshold < 0.60002 and (best.precision, best.recall, best.f1) == (1, 1, 1)


def test_equal_scores_are_kept_or_dropped_together():
    best = curve_of("cat", Judged(np.array([0.5, 0.5, 0.5]), np.array([True, False, False]), 1)).best
    assert best.threshold < 0.5 and best.precision == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "judged",
    [
        Judged(np.zeros(0), np.zeros(0, bool), 3),
        Judged(np.array([0.5]), np.array([False]), 3),
        Judged(np.array([0.5]), np.array([False]), 0),
    ],
    ids=["no detection", "none right", "no object"],
)
def test_nothing_found_suggests_nothing(judged, tmp_path):
    curve = curve_of("cat", judged)
    assert curve.best.threshold is None
    save_curves([curve], tmp_path / "curves.csv")
    plot_curves([curve, curve])
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert len(rows) == 101 and rows[-1]["precision"] == ""


def test_a_crowd_makes_a_detection_neither_right_nor_wrong():
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 9, 10], [50, 50, 5, 5], [80, 80, 5, 5]])
    objects = np.array([[0.0, 0, 10, 10], [40, 40, 40, 40]])
    assert matched(boxes, objects, np.array([False, True])).tolist() == [1, -1, 0, -1]


def test_reports_hold_their_thresholds(dataset, tmp_path):  # noqa: F811
    report = coco_metrics(jittered(dataset, 0), dataset)
    assert report.confidence is None and json.loads(report.to_json())["confidence"] is None


def test_coverage_falls_where_accuracy_is_asked_for():
    likeliest, right = np.array([0.99, 0.9, 0.8, 0.7, 0.6]), np.array([True, True, True, True, False])
    found = coverages(likeliest, right)
    assert [each.coverage for each in found] == [0.8, 0.8, 0.8] and found[0].threshold == 0.6
    assert (likeliest > found[0].threshold).mean() == found[0].coverage
    coverage, accuracy = coverage_curve(likeliest, right)
    assert coverage[0] == 1 and accuracy[0] == pytest.approx(0.8) and np.isnan(accuracy[-1])
    assert coverages(np.array([0.9]), np.array([False]))[0].threshold is None
    assert coverages(np.zeros(0), np.zeros(0, bool))[0].threshold is None


def test_val_writes_what_coco_tools_score_alike(coco256, tmp_path, capsys):
    from faster_coco_eval import COCO as FastCOCO
    from faster_coco_eval import COCOeval_faster

    content = json.loads((coco256 / "annotations" / "instances_val2017.json").read_text())
    content["images"] = content["images"][:6]
    keep = {entry["id"] for entry in content["images"]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in keep]
    for entry in content["images"]:
        entry["file_name"] = str(next(coco256.rglob(entry["file_name"])).absolute())
    part = tmp_path / "few.json"
    part.write_text(json.dumps(content))
    found, folder = tmp_path / "found.json", tmp_path / "val"
    words = ["--model", "cspdarknet53_tiny_yolo.coco", "--imgsz", "160", "--batch", "6"]
    assert main(["val", "--data", str(part), *words, "--save-json", str(found), "--save", str(folder), "--quiet"]) == 0
    report = json.loads((folder / "report.json").read_text())
    assert {entry["image_id"] for entry in json.loads(found.read_text())} <= keep
    stats = []
    for coco, evaluator in ((COCO, COCOeval), (FastCOCO, COCOeval_faster)):
        with contextlib.redirect_stdout(io.StringIO()):
            annotations = coco(str(part))
            evaluation = evaluator(annotations, annotations.loadRes(str(found)), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        stats.append(float(evaluation.stats[0]))
    assert stats == pytest.approx([report["ap"]] * 2, abs=1e-9) and report["ap"] > 0.1
    names = {"report.json", "confidence.csv", "confidence.png", "pr_curve.png", "confusion.png"}
    assert {file.name for file in folder.iterdir()} == names
    best = report["confidence"]["together"]
    assert 0 < best["threshold"] < 1 and f"--conf {best['threshold']:.2f} has the best F1" in capsys.readouterr().out


def test_val_refuses_what_does_not_fit(shapes, colours, tmp_path, capsys):
    words = ["--model", "cspdarknet53_tiny_yolo.coco", "--save-json", str(tmp_path / "found.json")]
    assert main(["val", "--data", str(shapes), *words, "--nms-sweep"]) == 2
    assert "save and save_json are of one" in capsys.readouterr().err


def test_a_classifiers_measurement_is_a_folder(colours, tmp_path):
    model = Classifier(
        create_model("cspdarknet_x_nano", num_classes=3).backbone, 3, preprocessing=Preprocessing((32, 32))
    )
    data = part_to_measure(colours)
    report, found = measure_classifier(model, data, batch=8)
    names = save_classified(report, found, data, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == set(names)
    rows = list(csv.DictReader((tmp_path / "confidence.csv").open()))
    assert float(rows[0]["accuracy"]) == pytest.approx(report.top1) and float(rows[0]["coverage"]) == 1
