"""Weights carried over to a model with other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossstage.detectors import OneStageDetector
from crossstage.heads import Classifier

_LISTED = 4


@dataclass(frozen=True)
class Transfer:
    """What became of a model's tensors.

    Attributes:
        source: Where the weights come from.
        taken: Names of those that were taken whole.
        partly: Names of those of which some rows were taken, with what they stand for.
        fresh: Names of those that stay as initialised.
    """

    source: str
    taken: tuple[str, ...] = ()
    partly: tuple[tuple[str, str], ...] = ()
    fresh: tuple[str, ...] = ()

    def __str__(self) -> str:
        total = len(self.taken) + len(self.partly) + len(self.fresh)
        text = f"{len(self.taken)} of {total} tensors from {self.source}"
        if self.partly:
            text += f"; in part: {_some([f'{name} ({what})' for name, what in self.partly])}"
        if self.fresh:
            text += f"; as initialised: {_some(self.fresh)}"
        return text


def transfer(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    old_names: Sequence[str] = (),
    new_names: Sequence[str] = (),
) -> Transfer:
    """Take all that fits.

    Of a head whose classes differ, the rows of boxes and objectness are taken, and those of classes that have the same
    name in both.

    Args:
        model: It is changed in place.
        state: Tensors of a model of the same kind.
        source: Where they come from, for the report.
        old_names: Their classes' names.
        new_names: The model's classes' names.
    """
    own = model.state_dict()
    heads = _class_rows(model, old_names, new_names)
    merged: dict[str, Tensor] = {}
    taken, partly, fresh = [], [], []
    for name, tensor in own.items():
        given = state.get(name)
        if given is not None and given.shape == tensor.shape and (name not in heads or old_names == new_names):
            merged[name] = given
            taken.append(name)
        elif given is not None and name in heads and given.shape[1:] == tensor.shape[1:]:
            new_rows, old_rows, what = heads[name]
            if not new_rows or max(old_rows) >= len(given):
                fresh.append(name)
                continue
            merged[name] = tensor.clone()
            merged[name][torch.tensor(new_rows)] = given[torch.tensor(old_rows)].to(tensor)
            partly.append((name, what))
        else:
            fresh.append(name)
    model.load_state_dict({**own, **merged})
    return Transfer(source, tuple(taken), tuple(partly), tuple(fresh))


def _class_rows(
    model: nn.Module, old: Sequence[str], new: Sequence[str]
) -> dict[str, tuple[list[int], list[int], str]]:
    """For tensors whose rows stand for classes: their rows, the stored rows that fit them, and what those are."""
    same = [(new.index(name), old.index(name)) for name in new if name in old]
    if isinstance(model, Classifier):
        rows = [pair[0] for pair in same], [pair[1] for pair in same], f"{len(same)} classes of the same name"
        return {"fc.weight": rows, "fc.bias": rows}
    if not isinstance(model, OneStageDetector):
        return {}
    result = {}
    told = "boxes, objectness" + (f" and {len(same)} classes of the same name" if same else "")
    for level, anchors in enumerate(model.head.levels):
        new_rows, old_rows = [], []
        for anchor in range(len(anchors.anchors)):
            first, stored = anchor * (5 + len(new)), anchor * (5 + len(old))
            new_rows += [first + row for row in range(5)] + [first + 5 + mine for mine, _ in same]
            old_rows += [stored + row for row in range(5)] + [stored + 5 + theirs for _, theirs in same]
        for part in ("weight", "bias"):
            result[f"head.predict.{level}.{part}"] = new_rows, old_rows, told
    return result


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
