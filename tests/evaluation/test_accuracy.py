"""The shipped detector on real images: its score, COCO's own tools' score, and OpenCV's."""

import contextlib
import io
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from crossstage.data.formats.coco import find_coco
from crossstage.data.records import DetectionData
from crossstage.evaluation import CocoReport, coco_metrics, coco_results, evaluate, match_classes
from crossstage.inference.predictor import Predictor
from crossstage.ops.nms import NMS
from crossstage.weights.loading import load_detector
from research.bench.peers import OpenCVDetector

CFG = Path(__file__).parents[2] / "examples" / "darknet" / "yolov4-tiny.cfg"
TENTH = 0.001  # of an AP point, as a fraction


@pytest.fixture(scope="module")
def dataset(coco256: Path) -> DetectionData:
    return find_coco(coco256, split="val")


@pytest.fixture(scope="module")
def results(dataset: DetectionData) -> list[dict]:
    detector = load_detector("cspdarknet53_tiny_yolo.coco")
    predictor = Predictor(detector, NMS(score=0.001, iou=0.45, max_detections=100))
    return coco_results(predictor, dataset, match_classes(detector.class_names, dataset.categories))[0]


@pytest.fixture(scope="module")
def shipped(results: list[dict], dataset: DetectionData) -> CocoReport:
    return coco_metrics(results, dataset)


def test_shipped_detector_scores_what_the_docs_say(shipped):
    assert shipped.ap == pytest.approx(0.2645, abs=TENTH)
    assert shipped.ap50 == pytest.approx(0.4890, abs=TENTH)


def test_score_equals_pycocotools_on_the_same_detections(shipped, results, dataset):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.path))
        reference = COCOeval(truth, truth.loadRes(results), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    found = [getattr(shipped, name) for name in CocoReport.metric_names()]
    assert found == pytest.approx(reference.stats.tolist(), abs=1e-9)


@pytest.mark.slow
def test_score_equals_the_same_network_run_by_opencv(shipped, dataset, shared):
    native = load_detector("cspdarknet53_tiny_yolo.coco")
    peer = evaluate(OpenCVDetector(CFG, shared / "weights" / "yolov4-tiny.weights", native), dataset)
    assert shipped.ap == pytest.approx(peer.ap, abs=TENTH)
    assert shipped.ap50 == pytest.approx(peer.ap50, abs=TENTH)
