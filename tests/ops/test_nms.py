"""Post-processing against a plain reference written with loops."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossstage.ops import nms
from crossstage.ops.nms import NMS, distance_iou, postprocess


def overlap(a: list[float], b: list[float], *, diou: bool) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inter = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    iou = inter / union
    if not diou:
        return iou
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    centres = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    return iou - centres / diagonal


def reference(boxes, scores, threshold, iou, *, agnostic, diou):
    candidates = [
        (score, index, label)
        for index, row in enumerate(scores)
        for label, score in enumerate(row)
        if score > threshold
    ]
    kept = []
    for score, index, label in sorted(candidates, reverse=True):
        rivals = (k for k in kept if agnostic or k[2] == label)
        if all(overlap(boxes[index], boxes[k[1]], diou=diou) <= iou for k in rivals):
            kept.append((score, index, label))
    return kept


@pytest.mark.parametrize("suppression", ["iou", "diou", "agnostic"])
@given(seed=st.integers(0, 10_000), count=st.integers(0, 30), iou=st.sampled_from([0.1, 0.45, 0.8]))
@settings(max_examples=30, deadline=None)
def test_result_equals_the_loop(suppression, seed, count, iou):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 50
    boxes = torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 50], 1)
    scores = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    (found,) = postprocess(boxes[None], scores[None], NMS(0.3, iou, suppression))
    options = {"agnostic": suppression == "agnostic", "diou": suppression == "diou"}
    expected = reference(boxes.tolist(), scores.tolist(), 0.3, iou, **options)
    assert found.scores.tolist() == [score for score, _, _ in expected]
    assert found.class_ids.tolist() == [label for _, _, label in expected]
    assert found.boxes_xyxy.tolist() == [boxes[index].tolist() for _, index, _ in expected]


@pytest.mark.parametrize("apart", [True, False], ids=["nothing overlaps", "everything does"])
def test_the_most_candidates_take_bounded_time(apart):
    """30,000 candidates, where each is kept or nearly all go: seconds, where a loop over all took half a minute."""
    number = torch.arange(nms.MAX_CANDIDATES + 100).float()
    corners = torch.stack([number % 200, number // 200], 1) * (20 if apart else 1e-3)
    boxes = torch.cat([corners, corners + 10], 1)[None]
    scores = torch.rand(1, len(number), 1, generator=torch.Generator().manual_seed(0)) / 2 + 0.5
    start = time.process_time()
    (found,) = postprocess(boxes, scores, NMS(0.01, 0.45, "diou"))
    assert time.process_time() - start < 10
    assert len(found.scores) == (300 if apart else 1)


def test_pieces_of_candidates_change_nothing(monkeypatch):
    """Candidates in pieces of 7 meet those kept before, of their class alone."""
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(1, 60, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 20], 2)
    scores = torch.rand(1, 60, 2, generator=generator).round(decimals=1)  # with equal ones
    (whole,) = postprocess(boxes, scores, NMS(0.1, 0.2, "diou"))
    monkeypatch.setattr(nms, "PIECE", 7)
    (found,) = postprocess(boxes, scores, NMS(0.1, 0.2, "diou"))
    assert 3 < len(found.scores) < 120
    assert torch.equal(found.boxes_xyxy, whole.boxes_xyxy) and torch.equal(found.class_ids, whole.class_ids)
    (few,) = postprocess(boxes, scores, NMS(0.1, 0.2, "diou", max_detections=3))
    assert torch.equal(few.boxes_xyxy, whole.boxes_xyxy[:3])


def test_the_best_are_kept_when_there_are_too_many():
    boxes = torch.tensor([[[10.0 * i, 0, 10.0 * i + 5, 5] for i in range(10)]])
    scores = torch.linspace(0.1, 1, 10).view(1, 10, 1)
    (found,) = postprocess(boxes, scores, NMS(0.0, max_detections=3))
    assert found.scores.tolist() == pytest.approx([1.0, 0.9, 0.8])


def test_only_wanted_classes_are_found():
    boxes, scores = torch.tensor([[[0.0, 0, 5, 5]]]), torch.tensor([[[0.9, 0.8, 0.7]]])
    (found,) = postprocess(boxes, scores, NMS(class_ids=(2, 0)))
    assert sorted(found.class_ids.tolist()) == [0, 2]


def test_images_of_a_batch_do_not_meet():
    boxes = torch.tensor([[[0.0, 0, 5, 5]], [[0.0, 0, 5, 5]]])
    first, second = postprocess(boxes, torch.tensor([[[0.9]], [[0.8]]]))
    assert (first.scores.item(), second.scores.item()) == pytest.approx((0.9, 0.8))


def test_distance_iou_of_equal_boxes_is_one_even_without_area():
    box = torch.tensor([[1.0, 2, 4, 6]])
    assert distance_iou(box, box).item() == pytest.approx(1)
    assert not distance_iou(torch.zeros(1, 4), torch.ones(1, 4)).isinf().any()
