"""Heads: feature maps to predictions. Each file holds a head's row, its module, its loss and its decoding.

``HEADS`` is gathered from the files of this room: a file that defines ``HEADS`` adds its rows by lying here.
"""

from __future__ import annotations

from crossstage.discovery import gathered
from crossstage.models.heads.base import Head, HeadConfig

HEADS: dict[str, HeadConfig] = gathered(__name__, "HEADS")
"""The rows by kind. A program of its own may add one, see the guide "add a head"."""

__all__ = ["HEADS", "Head", "HeadConfig"]
