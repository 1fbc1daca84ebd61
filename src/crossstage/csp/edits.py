"""The lines that make a stage's layers narrower, with a loop where blocks are alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from torch import nn

from crossstage.csp.expressions import access
from crossstage.csp.parts import Kept
from crossstage.csp.plan import Edit, StagePlan

MIN_LOOP = 2  # units that are worth a loop


@dataclass(frozen=True)
class _Unit:
    """A module whose layers become narrower; its edits are named from there."""

    module: nn.Module
    edits: tuple[Edit, ...]


def narrowing(model: nn.Module, plan: StagePlan) -> Iterator[str]:
    """Yield lines that make the blocks narrower, which are called ``blocks``."""
    paths = plan.stage.paths
    yield from _lines("blocks", _units(model, plan.edits, paths), "block")


def _units(model: nn.Module, edits: Sequence[Edit], paths: Sequence[str]) -> list[_Unit]:
    return [
        _Unit(
            model.get_submodule(path),
            tuple(
                replace(edit, path=edit.path[len(path) + 1 :])
                for edit in edits
                if edit.path == path or edit.path.startswith(f"{path}.")
            ),
        )
        for path in paths
    ]


def _lines(sequence: str, units: Sequence[_Unit], name: str) -> Iterator[str]:
    """Yield lines for the units of a sequence, with a loop for a run of units that are alike."""
    start = 0
    while start < len(units):
        stop = start + 1
        growth: _Growth | None = None
        while stop < len(units):
            step = _growth(units[stop - 1], units[stop])
            if step is None or (growth is not None and step != growth):
                break
            growth = step
            stop += 1
        yield from _loop(sequence, units, start, stop, growth or {}, name)
        start = stop


def _loop(sequence: str, units: Sequence[_Unit], start: int, stop: int, growth: _Growth, name: str) -> Iterator[str]:
    """Yield lines for units ``start`` to ``stop``, which differ by their growth alone."""
    unit = units[start]
    if not unit.edits:
        return
    if stop - start < MIN_LOOP:
        own = f"{sequence}[{start}]"
        children = [child for child, _ in unit.module.named_children()]
        inner = _units(unit.module, unit.edits, children)
        if name == "block" and _worth_a_loop(inner):
            yield f"layers = list({own}.children())"
            yield from _lines("layers", inner, "layer")
            return
        if len(unit.edits) > 1:
            yield f"{name} = {own}"
            own = name
        yield from (_line(own, unit.module, edit, {}, place) for place, edit in enumerate(unit.edits))
        return
    chosen = sequence if stop - start == len(units) else f"{sequence}[{start}:{stop}]"
    yield f"for number, {name} in enumerate({chosen}):" if growth else f"for {name} in {chosen}:"
    for place, edit in enumerate(unit.edits):
        yield f"    {_line(name, unit.module, edit, growth, place)}"


_Growth = dict[tuple[int, int], tuple[int, int]]
"""The part that is added from one unit to the next, by number of the edit and dimension."""


def _growth(before: _Unit, after: _Unit) -> _Growth | None:
    """Return how a unit differs from the one before; None if by more than one more part here and there."""
    was, now = (
        [(edit.path, edit.tensor, edit.value, len(edit.channels)) for edit in unit.edits] for unit in (before, after)
    )
    if was != now:
        return None
    found: _Growth = {}
    for place, (old, new) in enumerate(zip(before.edits, after.edits, strict=True)):
        for dim, (kept, then) in enumerate(zip(old.channels, new.channels, strict=True)):
            if kept == then:
                continue
            if kept is None or then is None or then[:-1] != kept:
                return None
            found[place, dim] = then[-1]
    return found


def _worth_a_loop(units: Sequence[_Unit]) -> bool:
    """Tell whether most of a block's edits are in children that are alike."""
    pairs = sum(
        len(after.edits)
        for before, after in pairwise(units)
        if len(after.edits) > 1 and _growth(before, after) is not None
    )
    return pairs > sum(len(unit.edits) for unit in units) / 2


def _line(own: str, module: nn.Module, edit: Edit, growth: _Growth, place: int) -> str:
    layer = access(module, edit.path, own)
    if edit.value is not None:
        return f"{layer}.{edit.tensor} = {edit.value!r}"
    written = [
        None if kept is None else _channels(kept, growth.get((place, dim))) for dim, kept in enumerate(edit.channels)
    ]
    if edit.tensor:
        return f'narrow_tensor({layer}, "{edit.tensor}", {", ".join(map(str, written))})'
    outputs, inputs = (*written, None)[:2]
    arguments = [outputs] if outputs else []
    if inputs:
        arguments.append(inputs if outputs else f"inputs={inputs}")
    return f"narrow({layer}, {', '.join(map(str, arguments))})"


def _channels(kept: Kept, more: tuple[int, int] | None) -> str:
    if len(kept) == 1 and more is None:
        return str(kept[0][0])
    runs = []
    for part, same in groupby(kept):
        count = len(list(same))
        runs.append(str(part) if count == 1 else f"*{count} * [{part}]")
    if more:
        runs.append(f"*number * [{more}]")
    return f"[{', '.join(runs)}]"
