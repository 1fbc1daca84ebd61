"""Checkpoints of authors' own code, by the names of our detectors that take them.

``AUTHORS`` is gathered from the files of this room: a file that defines ``AUTHORS`` adds its entries by lying here.
"""

from __future__ import annotations

from crossstage.discovery import gathered
from crossstage.weights.authors.base import Release

AUTHORS: dict[str, Release] = gathered(__name__, "AUTHORS")
"""Releases by the name of our detector."""

__all__ = ["AUTHORS", "Release"]
