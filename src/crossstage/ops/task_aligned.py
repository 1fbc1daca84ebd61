"""Task-aligned assignment (TOOD, arXiv 2108.07755): an object is found where its class and its box are predicted best.

How well a prediction fits an object is ``score^a IoU^b``, with the predicted score of the object's class and the IoU of
the predicted box. Each object takes the best cells among those whose centres lie in it; a cell that several objects
take goes to the one that its box overlaps most. Targets of classes are how well each cell fits, scaled so that the
best one of an object has the IoU of its best box.

==============  ===================  ==================
setting         YOLOv9 (2402.13616)  PP-YOLOE, 2203.16250
==============  ===================  ==================
``count``       10                   13
``box_power``   6                    6
``power``       0.5                  1
``overlap``     ``ciou``             ``iou``
``reach``       bins - 1.01          None
``orphans``     yes                  no
==============  ===================  ==================

The work is done for pairs of an object and a cell that can be, which are few, in blocks whose memory is bounded however
many objects there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from crossstage.ops.losses import paired_ciou, paired_iou
from crossstage.structures import Targets

BLOCK = 1 << 22  # pairs of an object and a cell that are looked at together
Overlap = Literal["iou", "ciou"]


class TaskAlignment(NamedTuple):
    """Which predictions are to find which objects: ``P`` pairs.

    Attributes:
        image_index: ``(P,)`` int64, position in the batch.
        cell: ``(P,)`` int64, number of the prediction in its image.
        object_index: ``(P,)`` int64, position in the targets.
        score: ``(P,)`` in [0, 1], what the object's class is to score there.
    """

    image_index: Tensor
    cell: Tensor
    object_index: Tensor
    score: Tensor


class _Pairs(NamedTuple):
    """Objects and cells, how well they fit and overlap."""

    object_index: Tensor
    cell: Tensor
    fit: Tensor
    iou: Tensor


@torch.no_grad()
def assign_by_task(
    logits: Tensor,
    boxes_xyxy: Tensor,
    targets: Targets,
    map_sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    *,
    count: int = 10,
    box_power: float = 6.0,
    power: float = 0.5,
    overlap: Overlap = "ciou",
    reach: float | None = None,
    orphans: bool = True,
) -> TaskAlignment:
    """Assign the objects of a batch to predictions.

    Args:
        logits: ``(N, K, C)`` predicted logits of classes, level after level, within one row after row.
        boxes_xyxy: ``(N, K, 4)`` predicted corners in pixels of the input.
        targets: The objects, in pixels of the input.
        map_sizes: Height and width of each level in cells, ``K`` in all.
        strides: Pixels of the input per cell of each level; cells are where their centres are.
        count: The most cells of an object.
        box_power: Exponent of the overlap.
        power: Exponent of the score.
        overlap: How boxes are compared: ``"iou"``, or ``"ciou"``, of which what is below 0 counts as 0.
        reach: The farthest side of an object, in strides, that a cell can find; None for any.
        orphans: Whether an object that no cell takes gets the one that fits best of all, wherever it lies.

    Returns:
        The pairs, of each image's cell at most one. What fits with 0 is in none.
    """
    if not len(targets.class_ids):
        none = targets.class_ids
        return TaskAlignment(none, none, none, logits.new_empty(0))
    work = _Assigner(logits, boxes_xyxy, targets, overlap, box_power, power)
    rows = max(1, BLOCK // logits.shape[1])
    found = [
        pairs
        for block in torch.arange(len(targets.class_ids), device=logits.device).split(rows)
        for pairs in work.block(block, map_sizes, strides, count, reach, orphans)
    ]
    return work.settled(_Pairs(*(torch.cat(parts) for parts in zip(*found, strict=True))))


class _Assigner:
    """One batch; see :func:`assign_by_task` for the arguments."""

    def __init__(
        self, logits: Tensor, boxes: Tensor, targets: Targets, overlap: Overlap, box_power: float, power: float
    ) -> None:
        self.logits, self.boxes, self.targets = logits, boxes, targets
        self.objects = targets.boxes_xyxy.to(boxes)
        self.measure = paired_ciou if overlap == "ciou" else paired_iou
        self.box_power, self.power = box_power, power

    def block(
        self,
        block: Tensor,
        map_sizes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        count: int,
        reach: float | None,
        orphans: bool,
    ) -> list[_Pairs]:
        """Return the cells that some objects take, whether others take them, too, or not."""
        chosen, taken = self._best(block, inside(self.objects[block], map_sizes, strides, reach), count)
        if not orphans or bool(taken.all()):
            return [chosen]
        left = block[~taken]
        return [chosen, self._best(left, self._touched(left), 1)[0]]

    def _best(self, block: Tensor, allowed: Tensor, count: int) -> tuple[_Pairs, Tensor]:
        """Return the best of the allowed cells ``(M, K)`` of each object, and which objects have one."""
        row, cell = allowed.nonzero(as_tuple=True)  # ordered by object
        fit, iou = self._fit(block[row], cell)
        sizes = allowed.sum(1)
        first = sizes.cumsum(0) - sizes
        table = fit.new_zeros(len(block), max(1, int(sizes.amax())))
        table[row, torch.arange(len(row), device=row.device) - first[row]] = fit
        values, place = table.topk(min(count, table.shape[1]), dim=1)
        kept = values > 0
        pair = (first.unsqueeze(1) + place)[kept]
        return _Pairs(block[row[pair]], cell[pair], fit[pair], iou[pair]), kept.any(1)

    def _fit(self, of: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return how well cells fit objects, and their boxes' overlap."""
        image = self.targets.image_index[of]
        iou = self.measure(self.boxes[image, cell], self.objects[of]).clamp(0, 1)
        score = self.logits[image, cell, self.targets.class_ids[of]].sigmoid()
        return score.pow(self.power) * iou.pow(self.box_power), iou

    def _touched(self, block: Tensor) -> Tensor:
        """Return which predicted boxes overlap with objects at all: ``(M, K)``."""
        left, top, right, bottom = self.boxes[self.targets.image_index[block]].unbind(-1)  # (M, K) each
        x1, y1, x2, y2 = self.objects[block].unsqueeze(2).unbind(1)  # (M, 1)
        return (left < x2) & (right > x1) & (top < y2) & (bottom > y1)

    def settled(self, pairs: _Pairs) -> TaskAlignment:
        """Give each cell to the object that its box overlaps most, of equals to the first, and scale the targets."""
        images, cells = self.logits.shape[:2]
        image = self.targets.image_index[pairs.object_index]
        key = image * cells + pairs.cell
        best = pairs.iou.new_zeros(images * cells).scatter_reduce(0, key, pairs.iou, "amax")
        most = pairs.iou == best[key]
        first = key.new_full((images * cells,), len(self.objects))
        first = first.scatter_reduce(0, key[most], pairs.object_index[most], "amin")
        kept = most & (pairs.object_index == first[key])
        of, cell, fit, iou = (tensor[kept] for tensor in pairs)
        nothing = fit.new_zeros(len(self.objects))
        most_fit = nothing.scatter_reduce(0, of, fit, "amax")[of]
        most_iou = nothing.scatter_reduce(0, of, iou, "amax")[of]
        return TaskAlignment(image[kept], cell, of, fit / (most_fit + 1e-9) * most_iou)


def inside(
    boxes_xyxy: Tensor, map_sizes: Sequence[tuple[int, int]], strides: Sequence[int], reach: float | None = None
) -> Tensor:
    """Tell which cells have their centres in which boxes: ``(M, 4)`` to ``(M, K)`` bool.

    Args:
        boxes_xyxy: Corners in pixels of the input; what is on a side is inside.
        map_sizes: Height and width of each level in cells, ``K`` in all.
        strides: Pixels of the input per cell of each level.
        reach: The farthest side of a box from a cell that is in it, in strides; None for any.
    """
    levels = []
    for (height, width), stride in zip(map_sizes, strides, strict=True):
        along = [
            _between((torch.arange(length, device=boxes_xyxy.device) + 0.5) * stride, low, high, stride, reach)
            for length, (low, high) in ((height, boxes_xyxy[:, 1::2].unbind(1)), (width, boxes_xyxy[:, ::2].unbind(1)))
        ]
        levels.append((along[0].unsqueeze(2) & along[1].unsqueeze(1)).flatten(1))
    return torch.cat(levels, dim=1)


def _between(points: Tensor, low: Tensor, high: Tensor, stride: int, reach: float | None) -> Tensor:
    """Tell which points ``(L,)`` lie between two sides ``(M,)`` each, neither of which is too far: ``(M, L)``."""
    before, after = (points - low.unsqueeze(1)) / stride, (high.unsqueeze(1) - points) / stride
    between = torch.minimum(before, after) >= 0
    return between if reach is None else between & (torch.maximum(before, after) <= reach)
