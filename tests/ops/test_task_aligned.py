"""Task-aligned assignment against loops over images, objects and cells."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crossstage.ops import task_aligned
from crossstage.ops.losses import paired_ciou
from crossstage.ops.points import cell_points
from crossstage.ops.task_aligned import assign_by_task, inside
from crossstage.structures import Targets

SIZES, STRIDES = [(6, 8), (3, 4)], [8, 16]
YOLOV9 = {"count": 4, "box_power": 6.0, "power": 0.5, "overlap": "ciou", "reach": 2.99, "orphans": True}
PP_YOLOE = {"count": 13, "box_power": 6.0, "power": 1.0, "overlap": "iou", "reach": None, "orphans": False}


def _overlap(a: list[float], b: list[float], kind: str) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(wide, 0) * max(high, 0)
    iou = inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter + 1e-7)
    if kind == "iou":
        return iou
    across, down = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    centres = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    turn = math.atan((a[2] - a[0]) / (a[3] - a[1] + 1e-7)) - math.atan((b[2] - b[0]) / (b[3] - b[1] + 1e-7))
    v = 4 / math.pi**2 * turn**2
    return max(0.0, iou - centres / (across**2 + down**2 + 1e-7) - v * v / (v - iou + 1 + 1e-7))


def _slow(
    logits: Tensor, boxes: Tensor, targets: Targets, *, count, box_power, power, overlap, reach, orphans
) -> list[tuple[int, int, int, float]]:
    """Return image, cell, object and score of each match, in this order."""
    cells = [
        ((column + 0.5) * stride, (row + 0.5) * stride, stride)
        for (height, width), stride in zip(SIZES, STRIDES, strict=True)
        for row in range(height)
        for column in range(width)
    ]
    matched = []
    for image in range(len(logits)):
        takers: dict[int, list[tuple[float, int, float]]] = {}
        for o in (targets.image_index == image).nonzero().flatten().tolist():
            box, class_id = targets.boxes_xyxy[o].tolist(), int(targets.class_ids[o])
            fits = {}
            for k in range(len(cells)):
                iou = _overlap(boxes[image, k].tolist(), box, overlap)
                fits[k] = (iou**box_power / (1 + math.exp(-float(logits[image, k, class_id]))) ** power, iou)
            allowed = []
            for k, (x, y, stride) in enumerate(cells):
                sides = [side / stride for side in (x - box[0], y - box[1], box[2] - x, box[3] - y)]
                if min(sides) >= 0 and (reach is None or max(sides) <= reach) and fits[k][0] > 0:
                    allowed.append(k)
            chosen = sorted(allowed, key=lambda k: -fits[k][0])[:count]
            if not chosen and orphans:
                best = max(fits, key=lambda k: fits[k][0])
                chosen = [best] if fits[best][0] > 0 else []
            for k in chosen:
                takers.setdefault(k, []).append((fits[k][1], o, fits[k][0]))
        won = [(k, *max(mine, key=lambda taker: (taker[0], -taker[1]))) for k, mine in takers.items()]
        for k, _, o, fit in won:
            best_iou = max(iou for _, iou, other, _ in won if other == o)
            best_fit = max(each for _, _, other, each in won if other == o)
            matched.append((image, k, o, fit / (best_fit + 1e-9) * best_iou))
    return sorted(matched)


def _scene(seed: int, images: int = 3, objects: int = 12, classes: int = 4) -> tuple[Tensor, Tensor, Targets]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.cat([cell_points(size, stride, torch.zeros(1)) for size, stride in zip(SIZES, STRIDES, strict=True)])
    half = torch.rand(images, len(points), 2, generator=generator) * 16 + 2
    centres = points + torch.randn(images, len(points), 2, generator=generator) * 3
    boxes = torch.cat([centres - half, centres + half], -1)
    logits = torch.randn(images, len(points), classes, generator=generator) * 2
    sides = torch.rand(objects, 2, generator=generator) ** 2 * 44 + 2
    low = torch.rand(objects, 2, generator=generator) * (torch.tensor([64.0, 48.0]) - sides)
    found = Targets(
        torch.randint(0, images - 1, (objects,), generator=generator),  # the last image is empty
        torch.randint(0, classes, (objects,), generator=generator),
        torch.cat([low, low + sides], 1),
    )
    return logits, boxes, found


def _matches(found: task_aligned.TaskAlignment) -> list[tuple[int, int, int, float]]:
    return sorted(zip(*(tensor.tolist() for tensor in found), strict=True))


@pytest.mark.parametrize("settings", [YOLOV9, PP_YOLOE], ids=["yolov9", "pp_yoloe"])
@pytest.mark.parametrize("seed", range(4))
def test_matches_are_those_of_slow_loops(settings, seed):
    logits, boxes, targets = _scene(seed)
    expected = _slow(logits, boxes, targets, **settings)
    found = _matches(assign_by_task(logits, boxes, targets, SIZES, STRIDES, **settings))
    assert [match[:3] for match in found] == [match[:3] for match in expected]
    assert [match[3] for match in found] == pytest.approx([match[3] for match in expected], rel=2e-4, abs=1e-9)
    contested = {cell for cell in found if sum(cell[:2] == other[:2] for other in found) > 1}
    assert found and not contested


def test_blocks_change_nothing(monkeypatch):
    logits, boxes, targets = _scene(7, objects=40)
    whole = _matches(assign_by_task(logits, boxes, targets, SIZES, STRIDES, **YOLOV9))
    monkeypatch.setattr(task_aligned, "BLOCK", 150)  # two objects at a time
    assert _matches(assign_by_task(logits, boxes, targets, SIZES, STRIDES, **YOLOV9)) == whole


def test_an_object_between_the_cells_gets_the_best_one_outside():
    points = torch.cat([cell_points(size, stride, torch.zeros(1)) for size, stride in zip(SIZES, STRIDES, strict=True)])
    boxes = torch.cat([points - 5, points + 5], 1).unsqueeze(0)
    targets = Targets(torch.tensor([0]), torch.tensor([0]), torch.tensor([[4.5, 4.5, 7.0, 7.0]]))
    logits = torch.zeros(1, len(points), 1)
    assert not inside(targets.boxes_xyxy, SIZES, STRIDES).any()
    assert assign_by_task(logits, boxes, targets, SIZES, STRIDES, **YOLOV9).cell.tolist() == [0]
    assert len(assign_by_task(logits, boxes, targets, SIZES, STRIDES, **PP_YOLOE).cell) == 0


def test_an_object_that_nothing_overlaps_is_left_out_and_equal_ones_go_to_the_first():
    points = torch.cat([cell_points(size, stride, torch.zeros(1)) for size, stride in zip(SIZES, STRIDES, strict=True)])
    boxes = torch.cat([points - 6, points + 6], 1).unsqueeze(0)
    there, away = [8.0, 8.0, 24.0, 24.0], [500.0, 500.0, 540.0, 540.0]
    targets = Targets(torch.zeros(3, dtype=torch.long), torch.tensor([0, 1, 0]), torch.tensor([there, there, away]))
    found = assign_by_task(torch.zeros(1, len(points), 2), boxes, targets, SIZES, STRIDES, **YOLOV9)
    assert set(found.object_index.tolist()) == {0}


def test_no_objects_and_boxes_without_area_give_finite_numbers():
    logits, boxes, targets = _scene(1)
    none = Targets(*(tensor[:0] for tensor in targets[:3]))
    assert all(len(tensor) == 0 for tensor in assign_by_task(logits, boxes, none, SIZES, STRIDES))
    flat = targets._replace(boxes_xyxy=targets.boxes_xyxy[:, [0, 1, 2, 1]])
    assert assign_by_task(logits, boxes, flat, SIZES, STRIDES).score.isfinite().all()


def test_complete_iou_has_finite_gradients_for_boxes_without_sides():
    first = torch.tensor([[1.0, 1, 1, 1], [1, 1, 4, 1], [0, 0, 2, 3]], requires_grad=True)
    value = paired_ciou(first, torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 1], [0, 0, 2, 3]]))
    value.sum().backward()
    assert value.isfinite().all() and first.grad is not None and first.grad.isfinite().all()
    assert value[2].item() == pytest.approx(1, abs=1e-5)


def test_a_thousand_objects_take_bounded_memory():
    """16 GB would be needed for all pairs of objects and cells with a few tensors each."""
    generator = torch.Generator().manual_seed(2)
    sizes, strides, images, each = [(80, 80), (40, 40), (20, 20)], [8, 16, 32], 2, 1000
    cells = sum(height * width for height, width in sizes)
    low = torch.rand(images * each, 2, generator=generator) * 560
    targets = Targets(
        torch.arange(images * each) // each,
        torch.randint(0, 3, (images * each,), generator=generator),
        torch.cat([low, low + 10 + torch.rand(images * each, 2, generator=generator) * 60], 1),
    )
    points = torch.cat([cell_points(size, stride, low) for size, stride in zip(sizes, strides, strict=True)])
    boxes = torch.cat([points - 20, points + 20], 1).expand(images, -1, -1)
    seen = 0

    def watch(first: Tensor, second: Tensor) -> Tensor:
        nonlocal seen
        seen = max(seen, len(first))
        return paired_ciou(first, second)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_aligned, "paired_ciou", watch)
        found = assign_by_task(torch.zeros(images, cells, 3), boxes, targets, sizes, strides)
    assert len(found.cell) > 3000 and 0 < seen <= task_aligned.BLOCK
    keys = found.image_index * cells + found.cell
    assert len(keys.unique()) == len(keys)
