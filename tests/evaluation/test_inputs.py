"""COCO metrics of detections and datasets as people have them: numbered from 0, odd names, faulty entries."""

import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from crossstage.data.formats.coco import read_coco
from crossstage.data.records import DetectionData
from crossstage.errors import DataError
from crossstage.evaluation import coco_metrics, evaluate, match_classes, print_report
from crossstage.evaluation.coco import coco_content
from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Preprocessing

BOX = [10, 20, 50, 40]


def make(
    folder: Path, *, first_id: int = 1, names: tuple[str, ...] = ("cat", "dog"), crowd: bool = False
) -> DetectionData:
    """Two images with a box each, of the first class; the second may be a crowd beside the only true object."""
    images, annotations = [], []
    for number in range(2):
        Image.new("RGB", (200, 100)).save(folder / f"{number}.png")
        images.append({"id": number + first_id, "file_name": f"{number}.png", "width": 200, "height": 100})
        annotations.append({"id": number + first_id, "image_id": number + first_id, "category_id": first_id,
                            "bbox": BOX, "area": 2000, "iscrowd": int(crowd and number == 1)})  # fmt: skip
    categories = [{"id": number + first_id, "name": name} for number, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return read_coco(folder / "instances.json")


def found(dataset: DetectionData) -> list[dict]:
    keys = ("image_id", "category_id", "bbox")
    return [{**{key: entry[key] for key in keys}, "score": 0.9} for entry in coco_content(dataset)["annotations"]]


@pytest.mark.parametrize("first_id", [0, -5, 1, 2**40])
def test_the_numbering_of_a_dataset_does_not_change_its_score(tmp_path, first_id):
    # pycocotools is no oracle here: it takes a match with annotation 0 for no match.
    dataset = make(tmp_path, first_id=first_id)
    report = coco_metrics(found(dataset), dataset)
    assert (report.ap, report.ap50, report.ar100) == pytest.approx((1, 1, 1))


def test_finds_in_a_crowd_count_neither_way(tmp_path):
    dataset = make(tmp_path, crowd=True)
    inside = {"image_id": 2, "category_id": 1, "bbox": [20, 25, 10, 10], "score": 1.0}
    outside = {**inside, "bbox": [120, 25, 10, 10]}
    (true, _) = found(dataset)
    assert coco_metrics([true, inside, inside], dataset).ap == pytest.approx(1)
    assert coco_metrics([true, outside], dataset).ap == pytest.approx(0.5)


def test_given_detections_are_left_as_they_are(tmp_path):
    dataset = make(tmp_path)
    results, content = found(dataset), coco_content(dataset)
    before = copy.deepcopy(results)
    coco_metrics(results, dataset)
    assert results == before and coco_content(dataset) == content


def test_numbers_of_numpy_are_numbers(tmp_path):
    dataset = make(tmp_path)
    results = [
        {"image_id": np.int64(e["image_id"]), "category_id": np.int32(e["category_id"]),
         "bbox": np.array(e["bbox"], dtype=np.float32), "score": np.float32(0.5)}
        for e in coco_content(dataset)["annotations"]
    ]  # fmt: skip
    assert coco_metrics(results, dataset).ap == pytest.approx(1)


@pytest.mark.parametrize(
    "fault",
    [
        {"image_id": 99},
        {"image_id": None},
        {"category_id": "cat"},
        {"bbox": [1, 2, 3]},
        {"bbox": [float("nan"), 2, 3, 4]},
        {"bbox": None},
        {"score": float("nan")},
        {"score": "high"},
    ],
    ids=str,
)
def test_a_faulty_detection_is_named(tmp_path, fault):
    dataset = make(tmp_path)
    good = found(dataset)
    with pytest.raises(DataError, match=r"detection 2: .*expected image_id of an image of .*instances\.json"):
        coco_metrics([*good, {**good[0], **fault}], dataset)
    (key,) = fault
    with pytest.raises(DataError, match="detection 0"):
        coco_metrics([{name: value for name, value in good[0].items() if name != key}], dataset)


def test_detections_of_categories_that_the_dataset_lacks_are_not_scored(tmp_path):
    dataset = make(tmp_path)
    foreign = [{**entry, "category_id": 77, "score": 1.0} for entry in found(dataset)]
    assert coco_metrics([*foreign, *found(dataset)], dataset).ap == pytest.approx(1)


class Crowded:
    """Sure of something that the dataset lacks, less sure of the cat: a detector that keeps the contract."""

    class_names = ("ghost", "cat")
    preprocessing = Preprocessing((100, 200))
    size_divisor = 1
    nms = NMS()

    def __call__(self, images):
        return [images]

    def detect(self, raw, image_size, nms=None, sizes=None):
        boxes = torch.tensor([[60.0, 60, 90, 90], [10, 20, 60, 60]])
        classes = torch.tensor([0, 1])
        kept = torch.isin(classes, torch.tensor(nms.class_ids if nms.class_ids is not None else [0, 1]))
        return [Instances(*(part[kept][: nms.max_detections] for part in (boxes, torch.tensor([0.9, 0.5]), classes)))]


def test_classes_that_the_dataset_lacks_take_no_detection_from_others(tmp_path):
    assert evaluate(Crowded(), make(tmp_path), nms=NMS(max_detections=1)).ap == pytest.approx(1)


def test_a_model_that_shares_no_class_with_the_dataset_is_refused_before_it_runs(tmp_path):
    dataset = make(tmp_path, names=("vase", "lamp"))
    dataset.images[0].path.unlink()
    with pytest.raises(DataError, match="the model knows ghost, cat; the dataset has vase, lamp"):
        evaluate(Crowded(), dataset)


def test_images_and_boxes_of_a_class_leave_crowds_out(tmp_path):
    rows = {row.name: (row.images, row.boxes) for row in coco_metrics([], make(tmp_path, crowd=True)).classes}
    assert rows == {"cat": (1, 1), "dog": (0, 0)}


def printed(dataset: DetectionData, **options) -> str:
    out = io.StringIO()
    report = coco_metrics(found(dataset), dataset, unknown_classes=[dataset.categories[1]])
    print_report(report, Console(file=out, width=200), **options)
    return out.getvalue()


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path):
    text = printed(make(tmp_path, names=("[/b] [red]cat", "dog")))
    assert text.count("[/b] [red]cat") == 2


def test_the_table_of_classes_can_be_left_out(tmp_path):
    dataset = make(tmp_path)
    with_classes, totals = printed(dataset), printed(dataset, per_class=False)
    assert "boxes" in with_classes and "boxes" not in totals
    assert with_classes.endswith(totals) and "100.0" in totals


@pytest.mark.parametrize(
    "names", [("K", "k", "Q", "q"), ("sofa", "couch"), ("left", "left"), ("tvmonitor", "tv", "TV")], ids=str
)
def test_classes_of_equal_lists_are_the_same_one_by_one(tmp_path, names):
    """Those that differ in case alone, synonyms, and two of one name: a detector that finds everything scores 1."""
    make(tmp_path, names=names)
    content = json.loads((tmp_path / "instances.json").read_text())
    content["annotations"] = [
        {"id": n, "image_id": 1, "category_id": n, "bbox": [20 * n, 5 * n, 15, 12], "area": 180, "iscrowd": 0}
        for n in range(1, len(names) + 1)
    ]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    dataset = read_coco(tmp_path / "instances.json")
    assert match_classes(names, dataset.categories) == {n: n + 1 for n in range(len(names))}

    class Finder(Crowded):
        class_names = names

        def detect(self, raw, image_size, nms=None, sizes=None):
            sample = dataset[0]
            boxes = torch.from_numpy(sample.boxes_xyxy)
            return [Instances(boxes, torch.full((len(boxes),), 0.9), torch.from_numpy(sample.class_ids))]

    dataset = dataset[:1]
    report = evaluate(Finder(), dataset)
    assert report.ap == pytest.approx(1)
    assert [row.ap for row in report.classes] == pytest.approx([1] * len(names))


def test_classes_of_other_lists_meet_by_their_very_name_first():
    categories = {1: "k", 2: "K", 5: "couch", 6: "dup", 7: "dup"}
    assert match_classes(["K", "k", "sofa", "dup", "dup", "other"], categories) == {0: 2, 1: 1, 2: 5, 3: 6, 4: 7}
    assert match_classes(["a", "sofa", "couch"], {1: "A", 2: "couch"}) == {0: 1, 2: 2}
    assert match_classes(["Cat", "CAT", "dog"], {1: "cat", 2: "dog"}) == {2: 2}  # nobody knows which is meant
