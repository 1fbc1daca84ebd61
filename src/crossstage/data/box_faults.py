"""What is odd about valid boxes and masks: the same twice, too small to be seen, masks that are not in their box.

Boxes are compared as columns, those of a hundred thousand images as quickly as 30,000 of one image, by a grid of fields
as large as the difference that still makes two boxes one: only boxes of neighbouring fields are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from crossstage.data.faults import Fault
from crossstage.data.masks import hull, packed
from crossstage.data.records import DetectionData
from crossstage.ops import rle

SMALL_SIDE = 4.0  # pixels at an input of REFERENCE_SIDE, where a detector sees next to nothing
REFERENCE_SIDE = 416
SAME_BOX = 0.5  # pixels
MATCHING = 0.5  # IoU of a box and the hull of its mask
THIN = 2.0  # pixels; a thinner mask may be empty
CHUNK = 1 << 18  # boxes, or pairs of them, that are compared at a time
CROWDED = 64  # boxes of one left and top side, from which on all four sides are looked at
# Odd numbers whose bits look like chance, one for each column of a key.
_FACTORS = np.array([x * 0x9E3779B97F4A7C15 % 2**64 | 1 for x in (1, 3, 7, 13, 29, 61)], np.uint64)


def box_faults(dataset: DetectionData) -> list[Fault]:
    """Return what is odd about valid boxes."""
    faults = []
    of_image = dataset.boxes.image_index
    twins = np.bincount(of_image[_again(dataset)], minlength=len(dataset))
    for position in np.flatnonzero(twins).tolist():
        same = int(twins[position])
        text = f"{same} box{'es' * (same > 1)} stand{'s' * (same == 1)} twice, with one class"
        faults.append(Fault(dataset.images[position].path, None, text, broken=False))
    small = _small(dataset)
    if len(small):
        first = dataset.images[int(of_image[small[0]])].path.name
        text = (
            f"{len(small)} boxes are below {SMALL_SIDE:g} pixels at an input of {REFERENCE_SIDE}, the first in {first}"
        )
        faults.append(Fault(dataset.path, None, text, broken=False))
    return faults


def _small(dataset: DetectionData) -> NDArray[np.int64]:
    """Return the positions of boxes with a side that is too short, crowds left out."""
    boxes = dataset.boxes
    longest = np.array([max(image.width, image.height) for image in dataset.images], np.float64)
    sides = boxes.xywh[:, 2:] * (REFERENCE_SIDE / longest[boxes.image_index])[:, None]
    return np.flatnonzero((sides < SMALL_SIDE).any(1) & ~boxes.crowd)


def _again(dataset: DetectionData) -> NDArray[np.int64]:
    """Return the positions of boxes before which the same box stands in their image, with the same class."""
    boxes = dataset.boxes
    wanted = np.flatnonzero(~boxes.crowd)
    groups = np.stack([boxes.image_index[wanted], boxes.class_ids[wanted]], axis=1)
    corners = boxes.xywh[wanted].copy()
    corners[:, 2:] += corners[:, :2]
    return wanted[again(groups, corners)]


def again(groups: NDArray[np.int64], corners: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the positions of boxes of which all corners are within half a pixel of an earlier box of their group.

    Boxes of one field of all four sides are near each other, so that only the first of each field is compared: with
    those of the fields around it, of its left and top side alone, or of all sides where many share these two.

    Args:
        groups: ``(m, 2)`` image and class of each box.
        corners: ``(m, 4)`` corners in pixels.
    """
    found = np.zeros(len(corners), np.bool_)
    if not len(corners):
        return np.flatnonzero(found)
    fields = np.floor(corners / SAME_BOX).astype(np.int64)
    _, firsts, of_field = np.unique(_keys(groups, fields), return_index=True, return_inverse=True)
    first = firsts[of_field.ravel()]
    found |= (first < np.arange(len(first))) & _near(groups, corners, first, np.arange(len(first)))
    asked = np.flatnonzero(~found)
    for sides in (2, 4):
        keys = _keys(groups, fields[:, :sides])
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        if sides == 2:
            alike = np.searchsorted(ordered, keys[asked], "right") - np.searchsorted(ordered, keys[asked], "left")
            mine, asked = asked[alike <= CROWDED], asked[alike > CROWDED]
        else:
            mine = asked
        for steps in product((-1, 0, 1), repeat=sides) if len(mine) else ():
            around = _keys(groups[mine], fields[mine, :sides] + np.array(steps))
            for number, other in _candidates(around, ordered, order):
                one = mine[number]
                close = (other < one) & _near(groups, corners, one, other)
                found[one[close]] = True
    return np.flatnonzero(found)


def _near(
    groups: NDArray[np.int64], corners: NDArray[np.float64], one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which pairs of boxes of some positions are one box of one group."""
    return (np.abs(corners[one] - corners[other]) < SAME_BOX).all(1) & (groups[one] == groups[other]).all(1)


def _keys(groups: NDArray[np.int64], fields: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a number for each field of each group; different ones seldom share one."""
    columns = np.concatenate([groups, fields], axis=1).astype(np.uint64)
    mixed = columns * _FACTORS[: columns.shape[1]]
    return np.bitwise_xor.reduce(mixed ^ (mixed >> np.uint64(29)), axis=1)


def _candidates(
    keys: NDArray[np.uint64], sorted_keys: NDArray[np.uint64], order: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of positions whose keys are equal, some at a time."""
    begins, ends = (np.searchsorted(sorted_keys, keys, side) for side in ("left", "right"))
    counts = ends - begins
    totals = np.cumsum(counts)
    first = 0
    while first < len(keys):
        done = totals[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(totals, done + CHUNK, "right")))
        mine = np.repeat(np.arange(first, last), counts[first:last])
        inner = np.arange(len(mine)) - np.repeat(totals[first:last] - counts[first:last] - done, counts[first:last])
        if len(mine):
            yield mine, order[begins[mine] + inner]
        first = last


def mask_faults(dataset: DetectionData) -> list[Fault]:
    """Return what is odd about valid masks: that some objects have none, or one that is empty or not in its box."""
    if not dataset.has_masks:
        return []
    faults = []
    labels = int(dataset.counts.sum())
    if dataset.masked < labels:
        missing = f"{labels - dataset.masked} of {labels} boxes have no mask"
        text = f"{missing}; training takes the box for it, and mask AP leaves them out"
        faults.append(Fault(dataset.path, None, text, broken=False))
    for sample in dataset:
        size = sample.image.height, sample.image.width
        for mask, box, crowd in zip(sample.masks or (), sample.boxes_xyxy.tolist(), sample.crowd, strict=True):
            if mask is not None and not crowd and (text := _odd_mask(mask, box, size)):
                faults.append(Fault(sample.image.path, None, text, broken=False))
    return faults


def _odd_mask(mask: Sequence[NDArray[np.float64]] | str, box: Sequence[float], size: tuple[int, int]) -> str | None:
    left, top, right, bottom = hull(mask, size)
    width, height = min(right, box[2]) - max(left, box[0]), min(bottom, box[3]) - max(top, box[1])
    shared = max(0.0, width) * max(0.0, height)
    both = (right - left) * (bottom - top) + (box[2] - box[0]) * (box[3] - box[1]) - shared
    shown = ", ".join(f"{side:.0f}" for side in box)
    if min(right - left, bottom - top) < THIN and not rle.area(packed(mask, size), size):
        return f"the mask of box {shown} has no pixel"
    if shared < MATCHING * both:
        return f"the mask of box {shown} lies at {left:.0f}, {top:.0f}, {right:.0f}, {bottom:.0f}"
    return None
