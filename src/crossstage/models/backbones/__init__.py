"""Backbones: one file for each family, each beginning with its table.

``BACKBONES`` is gathered from the files of this room: a file that defines ``BACKBONES`` adds its rows by lying here.
:mod:`crossstage.models.backbones.base` tells how to write one.
"""

from __future__ import annotations

from crossstage.discovery import gathered
from crossstage.models.backbones.base import About, BackboneConfig, Stage, StagedBackbone, build_backbone

BACKBONES: dict[str, BackboneConfig] = gathered(__name__, "BACKBONES")
"""The rows by name. A program of its own may add one."""

__all__ = ["BACKBONES", "About", "BackboneConfig", "Stage", "StagedBackbone", "build_backbone"]
