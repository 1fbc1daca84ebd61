r"""Dynamic-k matching: who finds what is decided by the predictions themselves, at every step anew.

SimOTA (YOLOX, arXiv 2107.08430, section 2.1), the dynamic soft label of RTMDet (arXiv 2212.07784, section 3.3) and
AlignOTA (DAMO-YOLO, arXiv 2211.15444, section 3.3) are settings of the same few functions. The candidates of an image
are the points that lie in the region of any of its objects. Each pair of an object and a candidate has a cost

.. math::
    c = c_{class} + w\,(-\log(IoU + \epsilon)) + 10^{d / stride - r} + p\,[outside]

of which each setting uses some terms. An object takes as many points as its highest IoUs add up to, at least one, and
of all candidates the cheapest. A point that several objects want goes to the one that it is cheapest for, be it one
that did not ask for it.

The class costs are sums over all classes of which only the object's own depends on the object, so that they are made of
a sum for each point and a difference for each pair; no tensor of objects, points and classes is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from crossstage.ops.points import NO_OBJECT
from crossstage.structures import Targets

PAIRS = 1 << 23  # objects times points that are looked at at once; more are taken image by image
LEAST_UNION = 1e-6  # square pixels, so that boxes without area divide nothing by 0
LEAST_LOG = -100.0  # as in torch's cross-entropy of probabilities


@dataclass(frozen=True)
class MatchRule:
    """How objects are matched to points; :data:`SIM_OTA`, :data:`DYNAMIC_SOFT_LABEL` and :data:`ALIGN_OTA` are rules.

    Attributes:
        top: How many of an object's highest IoUs say how many points it takes.
        region: The candidates: points less than ``radius`` strides from an object's centre, both horizontally and
            vertically (``"centre"``), points inside of its box (``"box"``), or points for which either holds
            (``"either"``).
        radius: In strides.
        outside: What a pair costs more whose point is not in the object's own region; for ``"either"``, whose point is
            not in both of its regions.
        soft: Whether the class cost compares scores with the IoU and weighs by the squared distance to it (RTMDet,
            DAMO-YOLO), or compares them with 1 (YOLOX).
        iou_weight: Weight of ``-log(IoU)``.
        epsilon: Is added to the IoU in the logarithm.
        far: Distance from the object's centre, in strides, from which on the cost of distance exceeds 1; None has no
            such cost.
    """

    top: int = 10
    region: Literal["centre", "box", "either"] = "centre"
    radius: float = 1.5
    outside: float = 0.0
    soft: bool = True
    iou_weight: float = 3.0
    epsilon: float = 1e-7
    far: float | None = None


SIM_OTA = MatchRule(outside=1e6, soft=False, epsilon=1e-8)
DYNAMIC_SOFT_LABEL = MatchRule(top=13, region="box", far=3.0)
ALIGN_OTA = MatchRule(region="either", radius=2.5, outside=1e8)


class Predictions(NamedTuple):
    """What a head predicts for the points of a batch, all levels in a row.

    Attributes:
        points: ``(K, 2)`` x and y of the points in pixels of the input.
        strides: ``(K,)`` strides of the points' levels in pixels.
        boxes_xyxy: ``(N, K, 4)`` decoded boxes in pixels.
        logits: ``(N, K, C)`` of the classes.
        objectness: ``(N, K)`` logits, for a head that has them; a score is then the root of the product of both.
    """

    points: Tensor
    strides: Tensor
    boxes_xyxy: Tensor
    logits: Tensor
    objectness: Tensor | None = None


class Matches(NamedTuple):
    """Which point finds which object.

    Attributes:
        object_index: ``(N, K)`` int64, position in the targets of the whole batch, or
            :data:`~crossstage.ops.points.NO_OBJECT`.
        overlaps: ``(N, K)`` IoU of the point's box with the object's; 0 where there is none.
    """

    object_index: Tensor
    overlaps: Tensor


@torch.no_grad()
def match_dynamically(rule: MatchRule, predictions: Predictions, targets: Targets) -> Matches:
    """Match the objects of a batch to points.

    Memory is bounded by :data:`PAIRS` times some numbers, or by the objects times the points of the fullest image.

    Args:
        rule: How.
        predictions: What the head predicts; it gets no gradient.
        targets: The objects, in pixels of the input; none at all is fine.
    """
    boxes = predictions.boxes_xyxy
    batch, count = boxes.shape[:2]
    index = torch.full((batch, count), NO_OBJECT, device=boxes.device)
    overlaps = boxes.new_zeros(batch, count)
    for images, rows in _groups(targets.image_index, batch, count):
        pairs = _pairs(rule, predictions, targets, images, rows)
        if pairs.columns.shape[1]:
            image, column, row = _resolved(pairs, *choose(pairs.costs, pairs.overlaps, rule.top))
            point = pairs.columns[image, column]
            index[image + images.start, point] = rows[row]
            overlaps[image + images.start, point] = pairs.overlaps[row, column]
    return Matches(index, overlaps)


def choose(costs: Tensor, overlaps: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return which candidates each object wants: as many as its highest IoUs add up to, the cheapest.

    Args:
        costs: ``(M, C)`` of each object's candidates; not finite where a candidate is none.
        overlaps: ``(M, C)`` their IoU with the object; 0 where a candidate is none.
        top: How many IoUs are added up, at most.

    Returns:
        Rows and columns of the pairs, ``(P,)`` int64 each.
    """
    top = min(top, costs.shape[1])
    wanted = overlaps.topk(top, dim=1).values.sum(1).int().clamp(min=1)
    cheapest = costs.topk(top, dim=1, largest=False)
    taken = torch.arange(top, device=costs.device) < wanted.unsqueeze(1)
    taken &= cheapest.values.isfinite()
    row, place = taken.nonzero(as_tuple=True)
    return row, cheapest.indices[row, place]


class _Pairs(NamedTuple):
    """Pairs of ``M`` objects and the ``C`` candidates of their images, of which fuller images have more.

    Attributes:
        image: ``(M,)`` position of each object's image in the group.
        columns: ``(N, C)`` points of the candidates.
        costs: ``(M, C)``, infinite where an image has fewer candidates.
        overlaps: ``(M, C)`` IoU, 0 there.
    """

    image: Tensor
    columns: Tensor
    costs: Tensor
    overlaps: Tensor


def _groups(image_index: Tensor, batch: int, points: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield runs of images that have not too many pairs together, and the rows of their objects."""
    each = torch.bincount(image_index, minlength=batch).tolist()
    start = 0
    while start < batch:
        stop, objects = start + 1, each[start]
        while stop < batch and (objects + each[stop]) * points <= PAIRS:
            objects += each[stop]
            stop += 1
        if objects:
            inside = (image_index >= start) & (image_index < stop)
            yield slice(start, stop), inside.nonzero().squeeze(1)
        start = stop


def _pairs(rule: MatchRule, predictions: Predictions, targets: Targets, images: slice, rows: Tensor) -> _Pairs:
    """Find the candidates of a group of images, and what each costs each of the objects."""
    image, objects = targets.image_index[rows] - images.start, targets.boxes_xyxy[rows]
    found, own = regions(rule, predictions.points, predictions.strides, objects)
    columns, real = _candidates(found, image, images.stop - images.start)
    overlaps = _overlaps(_at(predictions.boxes_xyxy[images], columns), objects, image)
    costs = _class_costs(rule, predictions, images, columns, image, targets.class_ids[rows], overlaps)
    costs -= (overlaps + rule.epsilon).log_().mul_(rule.iou_weight)
    if rule.far is not None:
        points, strides = predictions.points[columns], predictions.strides[columns]
        costs += _distance_costs(points, strides, objects, image, rule.far)
    if rule.outside:
        costs += rule.outside * ~own.gather(1, columns[image])
    absent = ~real[image]  # (M, C)
    return _Pairs(image, columns, costs.masked_fill_(absent, torch.inf), overlaps.masked_fill_(absent, 0.0))


def _at(values: Tensor, columns: Tensor) -> Tensor:
    """Return the values ``(N, K, D)`` of the points in ``columns`` ``(N, C)``: ``(N, C, D)``."""
    first = torch.arange(len(columns), device=columns.device).unsqueeze(1) * values.shape[1]
    return values.flatten(0, 1).index_select(0, (columns + first).flatten()).unflatten(0, columns.shape)


def regions(rule: MatchRule, points: Tensor, strides: Tensor, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Return which points an object makes candidates, and which are not outside for it: ``(M, K)`` bool each.

    Args:
        rule: How objects are matched.
        points: ``(K, 2)`` x and y in pixels.
        strides: ``(K,)`` in pixels.
        boxes_xyxy: ``(M, 4)`` corners of the objects in pixels.
    """
    if rule.region == "box":
        inside = _inside(points, boxes_xyxy)
        return inside, inside
    near = _near(points, rule.radius * strides, boxes_xyxy)
    if rule.region == "centre":
        return near, near
    inside = _inside(points, boxes_xyxy)
    return near | inside, inside.logical_and_(near)


def _near(points: Tensor, reach: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Return whether points ``(K, 2)`` are less than ``reach`` ``(K,)`` from the centres of boxes: ``(M, K)``."""
    x, y = ((boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2).unsqueeze(-1).unbind(1)
    across, down = (points[:, 0] - x).abs_(), (points[:, 1] - y).abs_()
    return torch.maximum(across, down, out=across) < reach


def _inside(points: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Return whether points ``(K, 2)`` lie inside of boxes, not on a side: ``(M, K)``."""
    x, y = points.unbind(-1)
    left, top, right, bottom = boxes_xyxy.unsqueeze(-1).unbind(1)
    return (x > left).logical_and_(x < right).logical_and_(y > top).logical_and_(y < bottom)


def _candidates(found: Tensor, image: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Gather the points in the region of any object of each image, and whether a place holds one: ``(N, C)`` each."""
    any_of = found.new_zeros(batch, found.shape[1])
    row, point = found.nonzero(as_tuple=True)
    any_of[image[row], point] = True
    counts = any_of.sum(1)
    columns = counts.new_zeros(batch, int(counts.max()))
    at, point = any_of.nonzero(as_tuple=True)
    columns[at, (any_of.cumsum(1) - 1)[at, point]] = point
    return columns, torch.arange(columns.shape[1], device=columns.device) < counts.unsqueeze(1)


def _overlaps(boxes: Tensor, objects: Tensor, image: Tensor) -> Tensor:
    """Return the IoU of objects ``(M, 4)`` with the boxes ``(N, C, 4)`` of their images: ``(M, C)``."""
    areas = ((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))[image]
    own = (objects[:, 2:] - objects[:, :2]).prod(-1, keepdim=True)
    left, top, right, bottom = (side[image] for side in boxes.unbind(-1))
    across = torch.minimum(right, objects[:, 2:3]).sub_(torch.maximum(left, objects[:, 0:1])).clamp_(min=0)
    down = torch.minimum(bottom, objects[:, 3:4]).sub_(torch.maximum(top, objects[:, 1:2])).clamp_(min=0)
    inter = across.mul_(down)
    return inter / (areas + own - inter).clamp_(min=LEAST_UNION)


def _class_costs(
    rule: MatchRule,
    predictions: Predictions,
    images: slice,
    columns: Tensor,
    image: Tensor,
    class_ids: Tensor,
    overlaps: Tensor,
) -> Tensor:
    """Return the class costs of pairs, ``(M, C)``."""
    logits = _at(predictions.logits[images], columns)
    if rule.soft:
        return soft_class_costs(logits, image, class_ids, overlaps)
    objectness = predictions.objectness
    if objectness is not None:
        objectness = objectness[images].gather(1, columns).unsqueeze(-1)
    return hard_class_costs(logits, objectness, image, class_ids)


def hard_class_costs(logits: Tensor, objectness: Tensor | None, image: Tensor, class_ids: Tensor) -> Tensor:
    """Return the cross-entropy of scores with the object's class, summed over the classes: ``(M, C)`` (SimOTA).

    Args:
        logits: ``(N, C, classes)`` of the candidates.
        objectness: ``(N, C, 1)`` logits; the score is then the root of the product of both. None if there are none.
        image: ``(M,)`` each object's image.
        class_ids: ``(M,)``.
    """
    scores = logits.sigmoid()
    if objectness is not None:
        scores = scores.mul_(objectness.sigmoid()).sqrt_()
    missed = torch.log1p(-scores).clamp_(min=LEAST_LOG)
    own = scores.log_().clamp_(min=LEAST_LOG) - missed  # what the own class adds to the sum over all
    return -(missed.sum(-1)[image] + own.transpose(1, 2)[image, class_ids])


def soft_class_costs(logits: Tensor, image: Tensor, class_ids: Tensor, overlaps: Tensor) -> Tensor:
    """Return the cross-entropy of logits with the IoU, times the squared distance of the score to it, summed.

    Args:
        logits: ``(N, C, classes)`` of the candidates.
        image: ``(M,)`` each object's image.
        class_ids: ``(M,)``.
        overlaps: ``(M, C)`` IoU, which is the target of the object's own class.
    """
    rest = logits.neg().sigmoid_()  # 1 - score, whose logarithm is exact where the score is close to 1
    others = (
        rest.log().clamp_(min=LEAST_LOG).mul_((rest - 1).square_())
    )  # the negative cost of a class that is not there
    own = logits.transpose(1, 2)[image, class_ids]
    target = (F.softplus(own) - overlaps * own).mul_((overlaps - own.sigmoid()).square_())
    return target - others.sum(-1)[image] + others.transpose(1, 2)[image, class_ids]


def _distance_costs(points: Tensor, strides: Tensor, objects: Tensor, image: Tensor, far: float) -> Tensor:
    """Return ``10 ** (distance / stride - far)`` of the candidates to the centres of objects: ``(M, C)``.

    Args:
        points: ``(N, C, 2)``.
        strides: ``(N, C)``.
        objects: ``(M, 4)`` xyxy.
        image: ``(M,)`` each object's image.
        far: In strides.
    """
    centres = (objects[:, :2] + objects[:, 2:]) / 2
    across, down = (points[..., axis][image].sub_(centres[:, axis, None]) for axis in (0, 1))
    return torch.hypot(across, down).div_(strides[image]).sub_(far).mul_(math.log(10)).exp_()


def _resolved(pairs: _Pairs, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give each wanted candidate to one object: images, columns and rows of the pairs that are left.

    Args:
        pairs: All pairs of a group.
        row: Objects that want a candidate.
        column: The candidates that they want.
    """
    image = pairs.image[row]
    wishes = pairs.columns.new_zeros(pairs.columns.shape).index_put_((image, column), row.new_ones(()), accumulate=True)
    alone = wishes[image, column] == 1
    image, column, row = image[alone], column[alone], row[alone]
    at, contested = (wishes > 1).nonzero(as_tuple=True)
    if not len(at):
        return image, column, row
    # Pairs of the contested candidates with all objects of their images, those of each candidate in a row.
    which, other = (at.unsqueeze(1) == pairs.image).nonzero(as_tuple=True)
    costs = pairs.costs[other, contested[which]]
    least = costs.new_full((len(at),), torch.inf).scatter_reduce_(0, which, costs, "amin")
    cheapest = costs == least[which]
    winner = row.new_full((len(at),), len(pairs.image)).scatter_reduce_(0, which[cheapest], other[cheapest], "amin")
    return torch.cat([image, at]), torch.cat([column, contested]), torch.cat([row, winner])
