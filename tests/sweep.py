"""Sweeps over tables: some rows of each kind in every run, the others among the slow tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

import pytest

from crossstage.models.backbones import BACKBONES
from crossstage.models.published import DETECTORS, compose


def sweep(rows: Iterable[Any], kind: Callable[[Any], Hashable], always: Collection[Any] = ()) -> list[Any]:
    """Return all rows as parameters of a test: the first of each kind as it is, the others marked slow.

    Args:
        rows: What the test runs over.
        kind: Tells what a row stands for.
        always: Rows that are never slow.
    """
    seen: set[Hashable] = set()
    params = []
    for row in rows:
        quick = kind(row) not in seen or row in always
        seen.add(kind(row))
        params.append(row if quick else pytest.param(row, marks=pytest.mark.slow))
    return params


def kind_of_parts(name: str) -> Hashable:
    """Return what a model stands for where any backbone does: a detector's neck and head, a classifier's kind."""
    kind = kind_of_model(name)
    assert isinstance(kind, tuple)
    return kind[2:] or kind


def kind_of_model(name: str) -> Hashable:
    """Return what a model of ours stands for: its family, whether it is partial, its neck and its head."""
    if name in BACKBONES:
        return type(BACKBONES[name]), BACKBONES[name].partial is None
    row = DETECTORS.get(name) or compose(name)
    assert row is not None
    return type(row.backbone), row.backbone.partial is None, type(row.neck), type(row.head)
