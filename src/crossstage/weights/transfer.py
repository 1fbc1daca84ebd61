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
        taken: Names of the tensors that were taken whole.
        partly: Names of the tensors of which some rows were taken, each with what these rows stand for.
        fresh: Names of the tensors that stay as initialised.
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


@dataclass(frozen=True)
class _Rows:
    """Rows of a stored tensor that fill rows of the model's; none if the two do not match.

    Attributes:
        own: Rows of the model's tensor.
        stored: Rows of the stored tensor, as many.
        meaning: What they stand for, for messages.
    """

    own: Sequence[int] = ()
    stored: Sequence[int] = ()
    meaning: str = ""


def transfer(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    old_names: Sequence[str] = (),
    new_names: Sequence[str] = (),
) -> Transfer:
    """Fill a model with all the weights that fit it.

    A tensor of the same name and shape is taken whole. Of one that depends on the classes, where these differ, the rows
    that all classes share are taken, such as a YOLO head's boxes and objectness, and those of classes that have the
    same name in both; see :meth:`~crossstage.models.heads.Head.class_rows`.

    Args:
        model: The model, which is changed in place.
        state: Tensors by name of a model of the same kind.
        source: Where they come from, for the report.
        old_names: Names of their classes.
        new_names: Names of the model's classes.

    Returns:
        What was taken and what was not.
    """
    own = model.state_dict()
    by_class = {} if list(old_names) == list(new_names) else _matched_rows(model, old_names, new_names, state)
    merged: dict[str, Tensor] = {}
    taken, partly, fresh = [], [], []
    for name, tensor in own.items():
        given = state.get(name)
        rows = by_class.get(name)
        if given is None or given.shape[1:] != tensor.shape[1:]:
            fresh.append(name)
        elif rows is not None and rows.own:
            merged[name] = tensor.clone()
            merged[name][torch.tensor(rows.own)] = given[torch.tensor(rows.stored)].to(tensor)
            partly.append((name, rows.meaning))
        elif rows is None and given.shape == tensor.shape:
            merged[name] = given
            taken.append(name)
        else:
            fresh.append(name)
    model.load_state_dict({**own, **merged})
    return Transfer(source, tuple(taken), tuple(partly), tuple(fresh))


def _matched_rows(
    model: nn.Module, old: Sequence[str], new: Sequence[str], state: Mapping[str, Tensor]
) -> dict[str, _Rows]:
    """Match the rows of the tensors that depend on the classes: shared rows in their order, classes by their names."""
    class_rows = getattr(model, "class_rows", None)
    if class_rows is None:
        return {}
    own = model.state_dict()
    mine, theirs = class_rows(len(new)), class_rows(len(old))
    same = [(new.index(name), old.index(name)) for name in new if name in old]
    matched: dict[str, _Rows] = {}
    for name in mine.keys() & state.keys():
        shared, stored = _shared(mine[name], len(own[name])), _shared(theirs[name], len(state[name]))
        last = max((row for rows in theirs[name] for row in rows), default=-1)
        fits = len(shared) == len(stored) and last < len(state[name])
        matched[name] = _rows(model, mine[name], theirs[name], shared, stored, same) if fits else _Rows()
    return matched


def _rows(
    model: nn.Module,
    mine: Sequence[Sequence[int]],
    theirs: Sequence[Sequence[int]],
    shared: Sequence[int],
    stored: Sequence[int],
    same: Sequence[tuple[int, int]],
) -> _Rows:
    own = [*shared, *(row for index, _ in same for row in mine[index])]
    kept = getattr(getattr(model, "head", None), "shared_rows", "") if shared else ""
    by_name = f"{len(same)} classes of the same name" if same else ""
    meaning = " and ".join(filter(None, (kept, by_name)))
    return _Rows(own, [*stored, *(row for _, index in same for row in theirs[index])], meaning)


def _shared(class_rows: Sequence[Sequence[int]], rows: int) -> list[int]:
    """Return the rows that belong to no class."""
    owned = {row for each in class_rows for row in each}
    return [row for row in range(rows) if row not in owned]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
