"""Channels that belong together.

An *axis* is the channels along a dimension of a tensor, as a row of *parts*. What a network does with its maps decides
which parts are the same (a sum's operands), and where an axis must be cut (a map that is halved): parts are united and
cut as operations are met, so that in the end each can be given a width of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import lcm, prod

Axis = tuple[int, ...]
Kept = tuple[tuple[int, int], ...]
"""For each part of an axis, the number of its channels that stay, the last ones, and the number there were."""


MAX_PIECES = 256  # of an axis: heads, groups and paths are fewer, weights that are computed have more


class ChannelsError(Exception):
    """Channels that cannot be cut or united as a network asks for."""


class Parts:
    """All parts of the axes of a stage."""

    def __init__(self) -> None:
        self._became: list[Axis | None] = []  # what a part was united with or cut into
        self._size: list[int] = []
        self._unit: list[int] = []
        self._whole: list[bool] = []

    def new(self, size: int) -> Axis:
        """Make channels that nothing is known of yet."""
        self._became.append(None)
        self._size.append(size)
        self._unit.append(1)
        self._whole.append(False)
        return (len(self._size) - 1,)

    def resolve(self, axis: Axis) -> Axis:
        """Return an axis as the parts it consists of now."""
        found: list[int] = []
        for part in axis:
            became = self._became[part]
            found += (part,) if became is None else self.resolve(became)
        return tuple(found)

    def size(self, axis: Axis) -> int:
        """Return the number of channels of an axis."""
        return sum(self._size[part] for part in axis)

    def unite(self, one: Axis, other: Axis) -> None:
        """Make two axes the same.

        Raises:
            ChannelsError: They differ in width, or groups of channels would be cut.
        """
        if self.size(one) != self.size(other):
            raise ChannelsError(f"{self.size(one)} channels meet {self.size(other)}")
        position = 0
        while position < len(one := self.resolve(one)):
            mine, yours = one[position], self.resolve(other)[position]
            small, large = sorted((mine, yours), key=lambda part: self._size[part])
            if self._size[small] != self._size[large]:
                self._cut(large, self._size[small])
                continue
            if small != large:
                self._became[small] = (large,)
                self._unit[large] = lcm(self._unit[small], self._unit[large])
                self._whole[large] |= self._whole[small]
            position += 1

    def slice(self, axis: Axis, start: int, stop: int) -> Axis:
        """Return channels ``start`` to ``stop``, for which parts are cut.

        Raises:
            ChannelsError: A group of channels would be cut.
        """
        for bound in (start, stop):
            offset = 0
            for part in self.resolve(axis):
                if offset < bound < offset + self._size[part]:
                    self._cut(part, bound - offset)
                offset += self._size[part]
        chosen, offset = [], 0
        for part in self.resolve(axis):
            if start <= offset < stop:
                chosen.append(part)
            offset += self._size[part]
        return tuple(chosen)

    def equal_pieces(self, axis: Axis, count: int) -> list[Axis]:
        """Cut an axis into pieces that stay equal to each other in width.

        Raises:
            ChannelsError: It does not divide, or into more pieces than the channels of a map are.
        """
        if count > MAX_PIECES:
            raise ChannelsError(f"{self.size(axis)} channels are parted into {count} pieces")
        width, rest = divmod(self.size(axis), count)
        if rest:
            raise ChannelsError(f"{self.size(axis)} channels are parted into {count} pieces")
        for number in range(1, count):
            self.unite(self.slice(axis, 0, width), self.slice(axis, number * width, (number + 1) * width))
        return [self.slice(axis, number * width, (number + 1) * width) for number in range(count)]

    def group(self, axis: Axis, width: int) -> None:
        """Keep blocks of ``width`` channels together.

        Raises:
            ChannelsError: They lie across parts.
        """
        for part in self.resolve(axis):
            if self._size[part] % width:
                raise ChannelsError(f"groups of {width} channels lie across parts of {self._size[part]}")
            self._unit[part] = lcm(self._unit[part], width)

    def keep_whole(self, axis: Axis) -> None:
        """Mark all channels of an axis as ones that stay."""
        for part in self.resolve(axis):
            self._whole[part] = True

    def kept(self, axis: Axis, share: float, *, whole: Iterable[int] = ()) -> Kept:
        """Return the channels that stay when a share of each part does, rounded to whole groups, at least one.

        Args:
            axis: The channels.
            share: The share that stays, in (0, 1).
            whole: Parts that keep all of their channels.
        """
        return tuple(
            (self._size[part] if part in whole else self._kept(part, share), self._size[part])
            for part in self.resolve(axis)
        )

    def _kept(self, part: int, share: float) -> int:
        if self._whole[part]:
            return self._size[part]
        unit = self._unit[part]
        return unit * max(1, int(share * self._size[part] / unit + 0.5))

    def _cut(self, part: int, at: int) -> None:
        unit = self._unit[part]
        if at % unit:
            raise ChannelsError(f"channels are parted at {at}, inside a group of {unit}")
        pieces = (*self.new(at), *self.new(self._size[part] - at))
        for piece in pieces:
            self._unit[piece] = unit
            self._whole[piece] = self._whole[part]
        self._became[part] = pieces


def regroup(
    parts: Parts, shape: Sequence[int], new_shape: Sequence[int], axes: Sequence[Axis | None]
) -> tuple[Axis | None, ...]:
    """Return the axes of a tensor whose dimensions were parted or joined, as view and flatten do.

    Args:
        parts: The parts that the axes consist of.
        shape: The tensor's shape before.
        new_shape: The tensor's shape after.
        axes: The tensor's axes before; None where a dimension holds no channels.

    Raises:
        ChannelsError: Channels are mixed with other dimensions so that no dimension holds them alone.
    """
    old = [(size, axis) for size, axis in zip(shape, axes, strict=True) if size != 1]
    new = [size for size in new_shape if size != 1]
    made: list[Axis | None] = []
    while old:
        sources, targets = [old.pop(0)], [new.pop(0)]
        while (have := prod(size for size, _ in sources)) != (want := prod(targets)):
            if have < want:
                sources.append(old.pop(0))
            else:
                targets.append(new.pop(0))
        made += _regroup_one(parts, sources, targets)
    remaining = iter(made)
    return tuple(None if size == 1 else next(remaining) for size in new_shape)


def _regroup_one(parts: Parts, sources: Sequence[tuple[int, Axis | None]], targets: Sequence[int]) -> list[Axis | None]:
    labelled = [(size, axis) for size, axis in sources if axis is not None]
    if not labelled:
        return [None] * len(targets)
    size, axis = labelled[0]
    if len(labelled) == 1 and len(targets) == 1:
        return [axis * (targets[0] // size)]
    if len(sources) == 1:  # the innermost dimension holds the channels of a piece
        return [*[None] * (len(targets) - 1), parts.equal_pieces(axis, prod(targets[:-1]))[0]]
    raise ChannelsError("channels are parted or joined with other dimensions")
