"""Pareto fronts in two measures."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Find the points that no other point beats: none is as small in both measures and smaller in one.

    Args:
        points: Pairs of measures, of which less is better.

    Returns:
        Positions of the points on the front, by the first measure; equal points are all on the front or all off it.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=points.__getitem__):
        if not front or points[index][1] < points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front
