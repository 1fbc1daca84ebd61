"""Lines that tracked objects cross and zones that they are in, drawn by people and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from crossstage.errors import ConfigError
from crossstage.reading.numbers import number

if TYPE_CHECKING:
    from supervision import Detections


@dataclass
class CountedLine:
    """A line, and how many objects crossed it.

    Attributes:
        corners: ``(2, 2)`` x and y of its ends in pixels.
        crossed_in: Objects that crossed it from its right to its left, looking from the first end to the second.
        crossed_out: Objects that crossed it the other way.
    """

    corners: np.ndarray
    crossed_in: int = 0
    crossed_out: int = 0
    _zone: Any = None

    def see(self, found: Detections) -> None:
        """Count the objects of the next frame; an object counts where the middle of its box crosses."""
        from supervision import LineZone, Point, Position

        if self._zone is None:
            start, end = (Point(*corner) for corner in self.corners.tolist())
            self._zone = LineZone(start, end, triggering_anchors=[Position.CENTER])
        self._zone.trigger(found)
        self.crossed_in, self.crossed_out = self._zone.in_count, self._zone.out_count


@dataclass
class CountedZone:
    """A polygon, and which objects were in it.

    Attributes:
        corners: ``(n, 2)`` x and y in pixels.
        now: Objects in it in the last frame.
        most: The most that were in it at once.
        ids: Numbers of all objects that were ever in it.
    """

    corners: np.ndarray
    now: int = 0
    most: int = 0
    ids: set[int] = field(default_factory=set)
    _zone: Any = None

    def see(self, found: Detections) -> None:
        """Count the objects of the next frame; an object is inside where the middle of its box's lower side is."""
        from supervision import PolygonZone

        if self._zone is None:
            self._zone = PolygonZone(self.corners.round().astype(np.int64))
        inside = self._zone.trigger(found)
        self.now = int(inside.sum())
        self.most = max(self.most, self.now)
        self.ids |= set(found.tracker_id[inside].tolist()) if found.tracker_id is not None else set()


@dataclass
class Counts:
    """All lines and zones of a run.

    Attributes:
        lines: The lines.
        zones: The zones.
    """

    lines: Sequence[CountedLine] = ()
    zones: Sequence[CountedZone] = ()

    def see(self, found: Detections) -> None:
        """Count the objects of the next frame."""
        for counted in (*self.lines, *self.zones):
            counted.see(found)

    def as_dict(self) -> Mapping[str, Any]:
        """Return the counts as plain values."""
        return {
            "lines": [{"in": line.crossed_in, "out": line.crossed_out} for line in self.lines],
            "zones": [{"now": zone.now, "most": zone.most, "all": len(zone.ids)} for zone in self.zones],
        }


def counts_of(lines: Sequence[str], zones: Sequence[str]) -> Counts:
    """Read lines and zones as they are written on the command line.

    Args:
        lines: Each ``x,y,x,y`` in pixels of the frame.
        zones: Each ``x,y,x,y,x,y`` and so on, at least three corners.

    Raises:
        ConfigError: A number is none, or there are too few of them.
    """
    return Counts(
        tuple(CountedLine(_corners(text, "line", 2, 2)) for text in lines),
        tuple(CountedZone(_corners(text, "zone", 3, None)) for text in zones),
    )


def _corners(text: str, what: str, least: int, most: int | None) -> np.ndarray:
    try:
        values = [number(word) for word in text.replace(" ", ",").split(",") if word]
    except ValueError as error:
        raise ConfigError(f"{what} {text!r}: {error}") from None
    count = len(values) // 2
    if len(values) % 2 or count < least or (most and count > most):
        expected = f"{least} corners" if most else f"at least {least} corners"
        raise ConfigError(f"{what} {text!r}: {len(values)} numbers; expected x and y of {expected}")
    corners = np.array(values).reshape(-1, 2)
    if len(np.unique(corners, axis=0)) < least:
        raise ConfigError(f"{what} {text!r}: corners that are the same; expected {least} that differ")
    return corners
