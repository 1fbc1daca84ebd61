"""Dynamic-k matching against slow loops in the authors' order, and at its limits."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from crossstage.ops import matching
from crossstage.ops.matching import ALIGN_OTA, DYNAMIC_SOFT_LABEL, SIM_OTA, MatchRule, Predictions, match_dynamically
from crossstage.ops.points import NO_OBJECT, cell_points
from crossstage.structures import Targets

CLASSES = 4


def _predictions(batch: int, side: int, seed: int, *, objectness: bool) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    like = torch.zeros(0, dtype=torch.float64)
    points = [cell_points((side // stride, side // stride), stride, like) for stride in (8, 16, 32)]
    strides = torch.cat([x.new_full((len(x),), s) for x, s in zip(points, (8, 16, 32), strict=True)])
    at = torch.cat(points)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    centres = at + 0.5 * strides.unsqueeze(1) * normal(batch, len(at), 2)
    sides = strides.unsqueeze(1) * (0.3 * normal(batch, len(at), 2)).exp() * 2.5
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)
    return Predictions(
        at, strides, boxes, 2 * normal(batch, len(at), CLASSES), normal(batch, len(at)) if objectness else None
    )


def _targets(counts: list[int], side: int, seed: int) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    count = sum(counts)
    centres = side * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    sides = 6 + side / 2 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    classes = torch.randint(CLASSES, (count,), generator=generator)
    return Targets(image, classes, torch.cat([centres - sides / 2, centres + sides / 2], dim=1))


def _iou(a: list[float], b: list[float]) -> float:
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(across, 0.0) * max(down, 0.0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _entropy(p: float, target: float) -> float:
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def _loop(rule: str, predictions: Predictions, targets: Targets) -> tuple[list[list[int]], list[list[float]], int]:
    """Match as the authors' code does, one image, object, point and class after the other.

    Returns each point's object and overlap, and how many points were contested.
    """
    batch, count = predictions.boxes_xyxy.shape[:2]
    index = [[NO_OBJECT] * count for _ in range(batch)]
    overlap = [[0.0] * count for _ in range(batch)]
    contested = 0
    for image in range(batch):
        mine = (targets.image_index == image).nonzero().squeeze(1).tolist()
        region: dict[tuple[int, int], tuple[bool, bool]] = {}
        for m in mine:
            x1, y1, x2, y2 = targets.boxes_xyxy[m].tolist()
            for k in range(count):
                (x, y), s = predictions.points[k].tolist(), float(predictions.strides[k])
                inside = x1 < x < x2 and y1 < y < y2
                reach = {"sim": 1.5, "align": 2.5}.get(rule, 0) * s
                near = abs(x - (x1 + x2) / 2) < reach and abs(y - (y1 + y2) / 2) < reach
                region[m, k] = {
                    "sim": (near, near),
                    "soft": (inside, inside),
                    "align": (near or inside, near and inside),
                }[rule]
        candidates = [k for k in range(count) if any(region[m, k][0] for m in mine)]
        cost, iou = {}, {}
        for m in mine:
            box = targets.boxes_xyxy[m].tolist()
            for k in candidates:
                iou[m, k] = _iou(box, predictions.boxes_xyxy[image, k].tolist())
                total = 0.0
                for c, logit in enumerate(predictions.logits[image, k].tolist()):
                    own = float(c == targets.class_ids[m])
                    if rule == "sim":
                        assert predictions.objectness is not None
                        score = math.sqrt(_sigmoid(logit) * _sigmoid(float(predictions.objectness[image, k])))
                        total += _entropy(score, own)
                    else:
                        label = own * iou[m, k]
                        total += _entropy(_sigmoid(logit), label) * (label - _sigmoid(logit)) ** 2
                total -= 3 * math.log(iou[m, k] + (1e-8 if rule == "sim" else 1e-7))
                if rule == "soft":
                    (x, y), s = predictions.points[k].tolist(), float(predictions.strides[k])
                    total += 10 ** (math.hypot(x - (box[0] + box[2]) / 2, y - (box[1] + box[3]) / 2) / s - 3)
                elif not region[m, k][1]:
                    total += {"sim": 1e6, "align": 1e8}[rule]
                cost[m, k] = total
        wanted: dict[int, list[int]] = {}
        for m in mine:
            top = sorted((iou[m, k] for k in candidates), reverse=True)[: 13 if rule == "soft" else 10]
            for k in sorted(candidates, key=lambda k, m=m: cost[m, k])[: max(1, int(sum(top)))]:
                wanted.setdefault(k, []).append(m)
        for k, objects in wanted.items():
            contested += len(objects) > 1
            index[image][k] = objects[0] if len(objects) == 1 else min(mine, key=lambda m, k=k: cost[m, k])
            overlap[image][k] = iou[index[image][k], k]
    return index, overlap, contested


@pytest.mark.parametrize(("name", "rule"), [("sim", SIM_OTA), ("soft", DYNAMIC_SOFT_LABEL), ("align", ALIGN_OTA)])
@pytest.mark.parametrize("seed", [0, 1])
def test_matches_are_those_of_the_authors_loop(name, rule, seed):
    predictions = _predictions(3, 96, seed, objectness=name == "sim")
    targets = _targets([9, 0, 4], 96, seed)
    index, overlaps, contested = _loop(name, predictions, targets)
    matches = match_dynamically(rule, predictions, targets)
    assert matches.object_index.tolist() == index
    torch.testing.assert_close(matches.overlaps, torch.tensor(overlaps, dtype=torch.float64))
    assert contested > 0


@pytest.mark.parametrize("rule", [SIM_OTA, DYNAMIC_SOFT_LABEL, ALIGN_OTA])
def test_images_may_come_in_any_grouping(rule, monkeypatch):
    predictions, targets = _predictions(4, 96, 3, objectness=False), _targets([2, 6, 0, 1], 96, 3)
    whole = match_dynamically(rule, predictions, targets)
    monkeypatch.setattr(matching, "PAIRS", 1)
    single = match_dynamically(rule, predictions, targets)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    shuffled = match_dynamically(
        rule, predictions, Targets(targets.image_index[order], targets.class_ids[order], targets.boxes_xyxy[order])
    )
    assert torch.equal(whole.object_index, single.object_index)
    back = torch.where(shuffled.object_index >= 0, order[shuffled.object_index.clamp(min=0)], NO_OBJECT)
    assert torch.equal(whole.object_index, back)


@pytest.mark.parametrize("rule", [SIM_OTA, DYNAMIC_SOFT_LABEL, ALIGN_OTA])
def test_objects_in_images_or_out_of_them(rule):
    predictions = _predictions(2, 64, 0, objectness=False)
    none = match_dynamically(rule, predictions, _targets([0, 0], 64, 0))
    assert (none.object_index == NO_OBJECT).all()
    assert not none.overlaps.any()
    away = Targets(torch.tensor([1]), torch.tensor([0]), torch.tensor([[5000.0, 5000, 5010, 5010]]).double())
    assert (match_dynamically(rule, predictions, away).object_index == NO_OBJECT).all()


def test_each_object_is_found_though_its_boxes_overlap_nothing():
    predictions = _predictions(1, 64, 0, objectness=True)
    predictions = predictions._replace(boxes_xyxy=predictions.boxes_xyxy + 1e4)
    targets = _targets([3], 64, 5)
    matches = match_dynamically(SIM_OTA, predictions, targets)
    assert matches.object_index[matches.object_index >= 0].unique().tolist() == [0, 1, 2]
    assert (matches.object_index >= 0).sum() == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_matches_nothing(bad):
    predictions = _predictions(1, 64, 0, objectness=True)
    matches = match_dynamically(
        SIM_OTA, predictions._replace(boxes_xyxy=torch.full_like(predictions.boxes_xyxy, bad)), _targets([3], 64, 5)
    )
    assert matches.overlaps.isfinite().all()


def test_a_radius_of_its_own_widens_the_region():
    predictions, targets = _predictions(1, 96, 0, objectness=True), _targets([1], 96, 1)
    near = matching.regions(SIM_OTA, predictions.points, predictions.strides, targets.boxes_xyxy)[0]
    wide = matching.regions(replace(SIM_OTA, radius=3.0), predictions.points, predictions.strides, targets.boxes_xyxy)[
        0
    ]
    assert (wide | ~near).all()
    assert wide.sum() > near.sum()


@pytest.mark.parametrize("rule", [SIM_OTA, DYNAMIC_SOFT_LABEL, ALIGN_OTA])
def test_a_thousand_objects_are_matched_quickly(rule: MatchRule):
    predictions = _predictions(2, 320, 0, objectness=False)
    predictions = Predictions(*(x if x is None else x.float() for x in predictions))
    generator = torch.Generator().manual_seed(0)
    centres = 320 * torch.rand(1001, 2, generator=generator)
    boxes = torch.cat([centres - 8, centres + 8], dim=1)
    image = torch.tensor([0] * 1000 + [1])
    began = time.process_time()
    matches = match_dynamically(rule, predictions, Targets(image, torch.zeros(1001, dtype=torch.int64), boxes))
    assert time.process_time() - began < 5
    assert (matches.object_index[0] >= 0).sum() > 500
    assert set(matches.object_index[1].unique().tolist()) <= {NO_OBJECT, 1000}
