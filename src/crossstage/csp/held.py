"""Numbers of channels that a module's own code holds: ``x.split(self.widths, 1)`` fails once the map is narrower.

Which attributes are meant is found by running the network with numbers that say where they come from.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossstage.csp.narrow import NormLayer

Held = int | list[int] | tuple[int, ...]
"""What a module holds: a number of channels, or several."""
Change = tuple[tuple[int, ...], tuple[int, ...]]
"""Numbers that an operation is given, and what they have to be."""
_Origin = tuple[str, str, int]
"""A module's name, an attribute's, and the place among its numbers."""


def held_numbers(
    model: nn.Module, example: Tensor, wanted: Iterable[tuple[str, Change]]
) -> Iterator[tuple[str, str, Held]]:
    """Yield the attributes of modules that have to change: the module's name, the attribute's, and its new value.

    Args:
        model: A network on the meta device, in evaluation mode.
        example: A batch that it takes.
        wanted: What operations are given, beside the name of the module that they run in.
    """
    changes: dict[str, list[Change]] = defaultdict(list)
    for path, (old, new) in wanted:
        if old != new:
            for end in [place for place, letter in enumerate(path) if letter == "."] + [len(path)]:
                changes[path[:end]].append((old, new))  # a module's number may be handed on to those inside it
    if not changes:
        return
    sketch = copy.deepcopy(model)
    for path in changes:
        _tell(path, sketch.get_submodule(path))
    watch = _Watch(changes)
    try:
        with warnings.catch_warnings(), torch.no_grad(), watch:
            warnings.simplefilter("ignore")
            sketch(torch.empty_like(example, device="meta"))
    except Exception:  # whatever the network's own code makes of such numbers; what was seen until then counts
        pass
    made: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for (path, name, place), values in watch.found.items():
        if len(values) == 1:
            made[path, name][place] = values.pop()
    for (path, name), places in made.items():
        held: Held = getattr(model.get_submodule(path), name)
        if isinstance(held, int):
            yield path, name, places[0]
        else:
            yield path, name, type(held)(places.get(place, number) for place, number in enumerate(held))


def _tell(path: str, module: nn.Module) -> None:
    """Let the numbers that a module holds say where they come from."""
    if isinstance(module, (nn.Conv2d, nn.Linear, NormLayer)):
        return
    for name, held in list(vars(module).items()):
        several = type(held) in (list, tuple)
        numbers = list(held) if several else [held]
        if not numbers or name.startswith("_") or not all(type(number) is int for number in numbers):
            continue
        told = [_Told.of(number, [((path, name, place), number)]) for place, number in enumerate(numbers)]
        setattr(module, name, type(held)(told) if several else told[0])


class _Told(int):
    """A number that says which held numbers it was computed from, beside what these are."""

    origins: tuple[tuple[_Origin, int], ...]

    @classmethod
    def of(cls, value: int, origins: Iterable[tuple[_Origin, int]]) -> _Told:
        """Make a number."""
        made = cls(value)
        made.origins = tuple(origins)
        return made

    @property
    def largest(self) -> tuple[_Origin, int]:
        """The largest number that this one was computed from: channels, rather than a number of pieces."""
        return max(self.origins, key=operator.itemgetter(1))


def _computing(compute: Callable[[Any, Any], Any], *, reverse: bool = False) -> Callable[[_Told, Any], Any]:
    def method(self: _Told, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        operands = (int(other), int(self)) if reverse else (int(self), int(other))
        return _Told.of(compute(*operands), (*self.origins, *getattr(other, "origins", ())))

    return method


for _name in ("add", "sub", "mul", "floordiv"):
    setattr(_Told, f"__{_name}__", _computing(getattr(operator, _name)))
    setattr(_Told, f"__r{_name}__", _computing(getattr(operator, _name), reverse=True))


class _Watch(TorchFunctionMode):
    """Collects what held numbers have to be, from those that torch's functions are given.

    Args:
        changes: By the name of a module, what operations in it are given and what that has to be.
    """

    def __init__(self, changes: Mapping[str, Sequence[Change]]) -> None:
        super().__init__()
        self.changes = changes
        self.found: dict[_Origin, set[int]] = defaultdict(set)

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self._look([*args, *(kwargs or {}).values()])
        return func(*args, **(kwargs or {}))

    def _look(self, values: Sequence[Any]) -> None:
        numbers = [value for value in values if isinstance(value, int)]
        for place, number in enumerate(numbers):
            if isinstance(number, _Told):
                self._meet(number, numbers, place)
        for value in values:
            if isinstance(value, slice):
                self._look([value.start])
                self._look([value.stop])
            elif isinstance(value, (list, tuple)):
                self._look(value)

    def _meet(self, number: _Told, numbers: Sequence[int], place: int) -> None:
        origin, value = number.largest
        changes = self.changes[origin[0]]
        exact = {new[place - len(numbers)] for old, new in changes if old[-len(numbers) :] == tuple(numbers)}
        alike = {after for old, new in changes for before, after in zip(old, new, strict=True) if before == number}
        for after in exact or alike:
            if number and not value * after % number:
                self.found[origin].add(value * after // number)
