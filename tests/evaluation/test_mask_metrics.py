"""COCO's metrics of masks: against pycocotools on perturbed ground truth, through val, training and reports."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from crossstage.cli import main
from crossstage.data.augment import NO_AUGMENTATION
from crossstage.data.find import find_data
from crossstage.data.formats.coco import read_coco
from crossstage.data.loading import val_loader
from crossstage.data.masks import rasterise
from crossstage.errors import DataError
from crossstage.evaluation import CocoReport, coco_metrics, evaluate, nms_sweep, print_report
from crossstage.evaluation.coco import coco_content
from crossstage.evaluation.plots import as_detections, detection_confusion
from crossstage.ops import masks, rle
from crossstage.structures import Instances, Preprocessing, Targets
from crossstage.training.options import RunOptions
from crossstage.training.tasks import DetectionTask, resized

pytest.importorskip("pycocotools")


def reference(path, dataset, results, kind):
    """The twelve metrics of pycocotools, read from a file; of masks as torchvision and detectron2 ask for them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    other = "segmentation" if kind == "bbox" else "bbox"
    results = [{key: value for key, value in entry.items() if key != other} for entry in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.imgIds = [image.id for image in dataset.images]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def numbers(metrics) -> list[float]:
    values = [metrics[name] for name in CocoReport.metric_names()]
    return [-1.0 if value is None else value for value in values]


def moved(dataset, seed, share=0.85):
    """Detections that are mostly right: masks and boxes shifted or eaten at, some missed, some of another class."""
    rng = np.random.default_rng(seed)
    results = []
    for sample in dataset:
        size = sample.image.height, sample.image.width
        for mask, box, class_id in zip(sample.masks, sample.boxes_xyxy, sample.class_ids, strict=True):
            if rng.random() > share:
                continue
            pixels = np.roll(rasterise(mask, size, box), rng.integers(-6, 7, 2), (0, 1))
            pixels[:: int(rng.integers(2, 12))] = False
            if not pixels.any():
                continue
            text = rle.pack(pixels)
            category = int(rng.choice(dataset.category_ids)) if rng.random() < 0.1 else dataset.category_ids[class_id]
            shifted = (rle.box(text, size) * (1 + rng.normal(0, 0.05, 4))).clip(1).tolist()
            results.append({"image_id": sample.image.id, "category_id": category, "bbox": shifted,
                            "score": float(rng.random()), "segmentation": rle.as_coco(text, size)})  # fmt: skip
    return results


@pytest.fixture(scope="module")
def whole(coco256):
    """Real images of which each object has a mask: COCO's train part, crowds as RLE included."""
    return find_data(coco256).read("train")


@pytest.mark.parametrize("seed", range(2))
def test_metrics_of_masks_equal_pycocotools_on_real_annotations(whole, seed):
    part = whole.take(range(seed, 128, 4))
    assert part.boxes.crowd.any()
    results = moved(part, seed)
    report = coco_metrics(results, part)
    boxes = {name: getattr(report, name) for name in CocoReport.metric_names()}
    assert report.masks is not None and 0.05 < report.masks["ap"] < 0.95
    assert numbers(report.masks) == pytest.approx(reference(part.path, part, results, "segm"), abs=1e-9)
    assert numbers(boxes) == pytest.approx(reference(part.path, part, results, "bbox"), abs=1e-9)
    known = [row.mask_ap for row in report.classes if row.mask_ap is not None]
    assert report.masks["ap"] == pytest.approx(float(np.mean(known)))


def test_objects_without_a_mask_are_neither_wanted_nor_wrong(coco256, tmp_path):
    dataset = find_data(coco256).read("val")
    dataset = dataset.take(range(0, 128, 4))
    results = moved(dataset, 0)
    content = json.loads((coco256 / "annotations" / "instances_val2017.json").read_text())
    for entry in content["annotations"]:  # as a person would say it to pycocotools
        if not entry["segmentation"]:
            x, y, w, h = entry["bbox"]
            entry |= {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "iscrowd": 1}
    (tmp_path / "said.json").write_text(json.dumps(content))
    report = coco_metrics(results, dataset)
    assert report.masks is not None
    assert numbers(report.masks) == pytest.approx(reference(tmp_path / "said.json", dataset, results, "segm"), abs=1e-9)
    # All that is found is right, and what cannot be judged is not held against it.
    perfect = [{**entry, "score": 1.0} for entry in coco_content(dataset, masks=True)["annotations"]]
    masks = coco_metrics(perfect, dataset).masks
    assert masks is not None and masks["ap"] == pytest.approx(1)


def test_masks_are_scored_only_where_both_sides_have_some(whole, shapes):
    results = moved(whole.take(range(4)), 0)
    boxes = [{key: value for key, value in entry.items() if key != "segmentation"} for entry in results]
    few = whole.take(range(4))
    assert coco_metrics(boxes, few).masks is None and coco_metrics(results, few, masks=False).masks is None
    assert coco_metrics([], few).masks is None
    empty = coco_metrics([], few, masks=True).masks
    assert empty is not None and empty["ap"] == 0
    none = find_data(shapes).read("val")
    assert coco_metrics([], none).masks is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no segmentation; expected a mask"),
        ({"size": [5, 5], "counts": "5"}, r"RLE of size \[5, 5\]; expected"),
        ([[1, 2, 3, 4]], "polygon of 4 numbers"),
        ({"size": None, "counts": "~~"}, "RLE of size None"),
    ],
)
def test_faulty_masks_of_detections_are_refused(whole, value, said):
    few = whole.take(range(4))
    results = moved(few, 0)
    results[1]["segmentation"] = value
    with pytest.raises(DataError, match=f"detection 1: .*{said}"):
        coco_metrics(results, few)


class Finder(torch.nn.Module):
    """Finds all objects of the images that it is shown, by their pixels, as grids over their boxes."""

    finds_masks = True
    size_divisor = 1

    def __init__(self, dataset, preprocessing):
        super().__init__()
        from crossstage.ops.nms import NMS

        self.class_names, self.preprocessing, self.nms = dataset.class_names, preprocessing, NMS()
        self.samples = iter(dataset)

    def forward(self, images):
        return {"raw": images}

    def detect(self, raw, image_size, nms=None, sizes=None):
        return [self.find(next(self.samples), image_size) for _ in raw["raw"]]

    def find(self, sample, image_size):
        from crossstage.inference.preprocessing import place

        size = sample.image.height, sample.image.width
        boxes = torch.from_numpy(sample.boxes_xyxy)
        grids = []
        for mask, (left, top, right, bottom) in zip(sample.masks, boxes.round().int().tolist(), strict=True):
            piece = torch.from_numpy(rasterise(mask, size, ()))[top : max(bottom, top + 1), left : max(right, left + 1)]
            grids.append(torch.nn.functional.interpolate(piece[None, None].float(), (56, 56), mode="area")[0, 0])
        placed = place(size, self.preprocessing).to_input(boxes)
        return Instances(placed, torch.full((len(boxes),), 0.9), torch.from_numpy(sample.class_ids), torch.stack(grids))


@pytest.fixture
def few(whole):
    return whole.take([position for position in range(14) if len(whole[position].class_ids)])


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "shortest"])
def test_a_model_that_finds_masks_is_measured_on_both(few, resize):
    report = evaluate(Finder(few, Preprocessing((200, 300), resize)), few)
    assert report.masks is not None and report.ap > 0.99 and report.masks["ap50"] > 0.97 and report.masks["ap"] > 0.8
    told = json.loads(report.to_json())
    assert set(told["masks"]) == set(CocoReport.metric_names()) and told["classes"][0]["mask_ap"] is not None
    out = io.StringIO()
    print_report(report, Console(file=out, width=200))
    lines = out.getvalue().splitlines()
    assert "mask AP50" in lines[0]
    assert any(line.startswith("boxes ") for line in lines) and any(line.startswith("masks ") for line in lines)
    without = replace(few, boxes=replace(few.boxes, masks=None))
    boxes = evaluate(_of_boxes(few), without)
    assert boxes.masks is None
    out = io.StringIO()
    print_report(boxes, Console(file=out, width=200))
    assert "mask" not in out.getvalue() and not out.getvalue().startswith("boxes")


def _of_boxes(few):
    finder = Finder(few, Preprocessing((200, 300)))
    finder.finds_masks = False
    return finder


def test_masks_of_an_image_are_laid_one_at_a_time(few, monkeypatch):
    shapes, piece = [], masks._piece

    def watched(mask, box, size):
        shapes.append(tuple(mask.shape))
        return piece(mask, box, size)

    monkeypatch.setattr(masks, "_piece", watched)
    evaluate(Finder(few, Preprocessing((200, 300))), few)
    assert len(shapes) == len(few.boxes.class_ids) and set(shapes) == {(56, 56)}


def test_the_sweep_of_suppressions_is_of_boxes(few):
    rows = nms_sweep(_Repeating(few), few.take([0]), thresholds=[0.5])
    assert len(rows) == 3 and all(row.ap is not None for row in rows)


class _Repeating(Finder):
    def __init__(self, dataset):
        super().__init__(dataset, Preprocessing((200, 300)))
        self.first = dataset[0]

    def detect(self, raw, image_size, nms=None, sizes=None):
        return [self.find(self.first, image_size) for _ in raw["raw"]]


def test_training_is_scored_by_masks_if_there_are_any(few):
    options = RunOptions.plain("resnet18", augment=NO_AUGMENTATION)
    model = Finder(few, Preprocessing((200, 300), "letterbox"))
    task = DetectionTask(model, few, few, options)
    assert task.masks and task.fitness_name == "AP_mask"
    found = []
    for batch in val_loader(few, task.preprocessing, batch=3, workers=0):
        found += task.find(model, batch)
    scores = task.score(found)
    assert scores.fitness == scores.metrics["AP_mask"] == scores.report.masks["ap"] > 0.8
    assert set(scores.metrics) == {"AP", "AP50", "AP75", "AP_mask", "AP50_mask", "AP75_mask"}
    assert json.loads(json.dumps(scores.found)) == scores.found
    drawn = as_detections([entry for entry in scores.found if entry["image_id"] == few.images[0].id], few)
    assert drawn.mask.shape == (len(drawn), few.images[0].height, few.images[0].width)
    assert detection_confusion(scores.found, few).trace() > 0
    without = replace(few, boxes=replace(few.boxes, masks=None))
    task = DetectionTask(model, few, without, options)
    assert task.masks and task.fitness_name == "AP"


def test_multi_scale_training_resizes_masks_and_sizes_with_boxes():
    masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    masks[0, 10:30, 20:50] = True
    targets = Targets(torch.tensor([0]), torch.tensor([0]), torch.tensor([[20.0, 10, 50, 30]]), masks,
                      torch.tensor([[40, 45]]))  # fmt: skip
    small = resized(targets, (40, 60), (20, 120))
    assert small.boxes_xyxy.tolist() == [[40, 5, 100, 15]] and small.sizes.tolist() == [[20, 90]]
    assert small.masks.shape == (1, 20, 120) and small.masks.dtype == torch.bool
    assert small.masks[0, 5:15, 40:100].all() and small.masks.sum() == 600
    assert resized(targets._replace(masks=None, sizes=None), (40, 60), (20, 120)).masks is None


def test_a_command_line_check_tells_how_many_objects_have_masks(coco256, capsys, tmp_path):
    file, report = coco256 / "annotations" / "instances_val2017.json", tmp_path / "check.json"
    assert main(["data", "check", str(file), "--json", str(report)]) == 0
    assert "masks" in capsys.readouterr().out
    parts = json.loads(report.read_text())["parts"]
    assert next(part for part in parts if part["name"] == "val")["masks"] == 706


def test_annotations_are_read_back_as_they_were(few, tmp_path):
    """What COCO's tools are given is COCO's own form: it can be written, and read again, masks included."""
    content = coco_content(few, masks=True)
    for image, sample in zip(content["images"], few, strict=True):
        image["file_name"] = str(sample.image.path)
    (tmp_path / "a.json").write_text(json.dumps(content))
    again = read_coco(tmp_path / "a.json")
    assert again.masked == few.masked
    for before, after in zip(few, again, strict=True):
        size = before.image.height, before.image.width
        for one, other in zip(before.masks, after.masks, strict=True):
            np.testing.assert_array_equal(rasterise(one, size, ()), rasterise(other, size, ()))
