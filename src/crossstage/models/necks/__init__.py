"""Necks: the maps of a backbone to the maps that a head reads. Each file holds a row class, its module and its rows.

``NECKS`` is gathered from the files of this room: a file that defines ``NECKS`` adds its rows by lying here.
:mod:`crossstage.models.necks.base` tells how to write one.
"""

from __future__ import annotations

from crossstage.discovery import gathered
from crossstage.models.necks.base import NeckConfig, PyramidConfig, build_neck

NECKS: dict[str, NeckConfig] = gathered(__name__, "NECKS")
"""The rows by name. A program of its own may add one."""

__all__ = ["NECKS", "NeckConfig", "PyramidConfig", "build_neck"]
