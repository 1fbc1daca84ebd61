"""Losses of boxes, classes and distances: against loops over numbers, and their gradients against differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crossstage.ops.losses import BOX_LOSSES, distribution_focal, focal_bce, paired_iou, sparse_focal, varifocal
from crossstage.ops.points import expected_distances


def _boxes(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=draw, dtype=torch.float64) * 6
    return torch.cat([corners, corners + 0.5 + torch.rand(count, 2, generator=draw, dtype=torch.float64) * 5], dim=1)


def _iou(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """IoU, union and area of the enclosing box of two boxes."""
    across = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    down = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - across * down
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return across * down / union, union, hull


def _slow_box_loss(kind: str, a: list[float], b: list[float]) -> float:
    iou, union, hull = _iou(a, b)
    if kind == "iou":
        return 1 - iou
    if kind == "giou":
        return 1 - iou + (hull - union) / hull
    apart = (a[0] + a[2] - b[0] - b[2]) ** 2 / 4 + (a[1] + a[3] - b[1] - b[3]) ** 2 / 4
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    loss = 1 - iou + apart / diagonal
    if kind == "diou":
        return loss
    angle = math.atan((b[2] - b[0]) / (b[3] - b[1])) - math.atan((a[2] - a[0]) / (a[3] - a[1]))
    shape = 4 / math.pi**2 * angle**2
    return loss + shape**2 / (1 - iou + shape)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_losses_of_boxes_are_those_of_loops(kind):
    first, second = _boxes(40, 1), _boxes(40, 2)
    slow = [_slow_box_loss(kind, a, b) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert BOX_LOSSES[kind](first, second, reduction="none").tolist() == pytest.approx(slow, rel=1e-5)
    assert float(BOX_LOSSES[kind](first, second, reduction="sum")) == pytest.approx(sum(slow), rel=1e-5)
    assert float(BOX_LOSSES[kind](first, second, reduction="mean")) == pytest.approx(sum(slow) / 40, rel=1e-5)
    assert any(value < 1 for value in slow) and BOX_LOSSES[kind](first[:0], second[:0]).shape == (0,)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])  # CIoU's weight of shapes is a constant to its gradient
def test_gradients_of_losses_of_boxes_are_differences(kind):
    first, second = _boxes(12, 3).requires_grad_(), _boxes(12, 4)
    assert torch.autograd.gradcheck(lambda boxes: BOX_LOSSES[kind](boxes, second, reduction="none"), first)


def test_overlap_of_pairs_has_any_shape_and_none_of_empty_boxes():
    first, second = _boxes(6, 5).view(2, 3, 4), _boxes(6, 6).view(2, 3, 4)
    assert paired_iou(first, second).flatten().tolist() == pytest.approx(
        [_iou(a, b)[0] for a, b in zip(first.view(6, 4).tolist(), second.view(6, 4).tolist(), strict=True)], rel=1e-5
    )
    empty = torch.zeros(1, 4, requires_grad=True)
    paired_iou(empty, torch.zeros(1, 4)).sum().backward()
    assert empty.grad is not None and empty.grad.isfinite().all()


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _slow_focal(x: float, y: float, beta: float) -> float:
    p = _sigmoid(x)
    return -(abs(y - p) ** beta) * ((1 - y) * math.log(1 - p) + y * math.log(p))


def _slow_varifocal(x: float, q: float, alpha: float, gamma: float) -> float:
    p = _sigmoid(x)
    return -q * (q * math.log(p) + (1 - q) * math.log(1 - p)) if q > 0 else -alpha * p**gamma * math.log(1 - p)


def _logits_and_qualities() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(7)
    logits = torch.randn(5, 4, generator=draw, dtype=torch.float64) * 2
    return logits, torch.rand(5, 4, generator=draw, dtype=torch.float64).sub(0.4).clamp(min=0)


def test_losses_of_classes_are_those_of_loops():
    logits, quality = _logits_and_qualities()
    pairs = list(zip(logits.flatten().tolist(), quality.flatten().tolist(), strict=True))
    for beta in (0.0, 1.5, 2.0):
        slow = [_slow_focal(x, y, beta) for x, y in pairs]
        assert focal_bce(logits, quality, beta).flatten().tolist() == pytest.approx(slow)
    slow = [_slow_varifocal(x, q, 0.6, 1.5) for x, q in pairs]
    assert varifocal(logits, quality, 0.6, 1.5).flatten().tolist() == pytest.approx(slow)


def test_gradients_of_losses_of_classes_are_differences():
    logits, quality = _logits_and_qualities()
    for loss in (lambda x: focal_bce(x, quality, 2.0), lambda x: varifocal(x, quality)):
        assert torch.autograd.gradcheck(loss, logits.requires_grad_())


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)])
def test_a_sum_with_few_targets_is_that_with_a_target_for_each(gamma, weights):
    logits, quality = _logits_and_qualities()
    index = quality.nonzero(as_tuple=True)
    whole = focal_bce(logits, quality, gamma) * (1 if weights is None else weights)
    assert float(sparse_focal(logits, index, quality[index], gamma, weights)) == pytest.approx(float(whole.sum()))
    none = tuple(index[:0] for index in index)
    assert float(sparse_focal(logits, none, quality[none], gamma)) == pytest.approx(
        float(focal_bce(logits, torch.zeros_like(logits), gamma).sum())
    )
    assert torch.autograd.gradcheck(
        lambda x: sparse_focal(x, index, quality[index], gamma, weights), logits.requires_grad_()
    )


def test_extreme_logits_have_finite_losses():
    logits, quality = torch.tensor([-80.0, 80.0] * 2), torch.tensor([0.0, 0.0, 0.7, 0.7])
    for loss in (focal_bce(logits, quality, 2.0), varifocal(logits, quality)):
        assert loss.isfinite().all()


def test_two_bins_share_a_distance():
    draw = torch.Generator().manual_seed(8)
    logits = torch.randn(3, 4, 8, generator=draw, dtype=torch.float64)
    target = torch.rand(3, 4, generator=draw, dtype=torch.float64) * 7
    target[0, :3] = torch.tensor([0.0, 7.0, 3.0])  # the ends, and a bin itself
    slow = []
    for row, wanted in zip(logits.view(12, 8).tolist(), target.flatten().tolist(), strict=True):
        total = sum(math.exp(x) for x in row)
        low = min(int(wanted), 6)
        logs = [math.log(math.exp(x) / total) for x in row]
        slow.append(-(low + 1 - wanted) * logs[low] - (wanted - low) * logs[low + 1])
    assert distribution_focal(logits, target).flatten().tolist() == pytest.approx(slow)
    assert torch.autograd.gradcheck(lambda x: distribution_focal(x, target), logits.requires_grad_())
    sharp = torch.full((1, 8), -50.0).index_fill(1, torch.tensor([5]), 50.0)
    assert float(distribution_focal(sharp, torch.tensor([5.0]))) == pytest.approx(0, abs=1e-6)
    assert float(expected_distances(sharp)) == pytest.approx(5)


def test_a_distance_is_the_mean_of_its_distribution():
    logits = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(9))
    weights = logits.double().exp() / logits.double().exp().sum(-1, keepdim=True)
    expected = sum(weights[..., index] * index for index in range(8))
    torch.testing.assert_close(expected_distances(logits).double(), expected, rtol=1e-5, atol=1e-5)
