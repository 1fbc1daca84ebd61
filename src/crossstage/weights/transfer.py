"""Weights carried over to a model with other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
    heads = _matched_rows(model, old_names, new_names, state)
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


Rows = tuple[list[int], list[int], str]
"""Rows of our tensor, rows of the stored one that fill them, and what these stand for."""


def _matched_rows(
    model: nn.Module, old: Sequence[str], new: Sequence[str], state: Mapping[str, Tensor]
) -> dict[str, Rows]:
    """Match the rows of tensors that depend on the classes: shared rows in their order, classes by their names."""
    class_rows = getattr(model, "class_rows", None)
    if class_rows is None:
        return {}
    mine, theirs = class_rows(len(new)), class_rows(len(old))
    same = [(new.index(name), old.index(name)) for name in new if name in old]
    by_name = f"{len(same)} classes of the same name"
    own = model.state_dict()
    matched: dict[str, Rows] = {}
    for name in mine.keys() & state.keys():
        shared = _shared(mine[name], len(own[name])), _shared(theirs.get(name, ()), len(state[name]))
        if len(shared[0]) != len(shared[1]):
            matched[name] = [], [], ""
            continue
        new_rows = shared[0] + [row for index, _ in same for row in mine[name][index]]
        old_rows = shared[1] + [row for _, index in same for row in theirs[name][index]]
        kept = getattr(getattr(model, "head", None), "shared_rows", "") if shared[0] else ""
        matched[name] = new_rows, old_rows, " and ".join(part for part in (kept, by_name if same else "") if part)
    return matched


def _shared(class_rows: Sequence[Sequence[int]], rows: int) -> list[int]:
    """Return the rows that belong to no class."""
    taken = {row for each in class_rows for row in each}
    return [row for row in range(rows) if row not in taken]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
