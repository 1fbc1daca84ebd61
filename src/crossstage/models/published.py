"""Detectors by name: the published ones, families with any backbone, and compositions by their parts' names."""

from __future__ import annotations

import fnmatch

from crossstage.discovery import gathered
from crossstage.models import detectors
from crossstage.models.backbones import BACKBONES, About
from crossstage.models.detectors.base import DetectorConfig, Family
from crossstage.models.heads import HEADS
from crossstage.models.necks import NECKS

DEFAULT_HEAD = "yolo"

DETECTORS: dict[str, DetectorConfig] = gathered(detectors.__name__, "DETECTORS")
"""The rows by name, gathered from the files of :mod:`crossstage.models.detectors`. A program may add one."""

FAMILIES: dict[str, Family] = gathered(detectors.__name__, "FAMILIES")
"""What detectors with any backbone have in common, by their names with ``{}`` for the backbone's."""


def families(pattern: str = "*") -> list[str]:
    """List the names of the families, with ``<backbone>`` where a backbone's name goes, sorted.

    Args:
        pattern: Shell-style wildcards.
    """
    return sorted(fnmatch.filter((template.format("<backbone>") for template in FAMILIES), pattern))


def compose(name: str) -> DetectorConfig | None:
    """Return the row of a composed name; None if the name is no such thing.

    It is a family's with a backbone, such as ``maskrcnn_<backbone>_fpn``, or ``<backbone>_<neck>_<head>``.

    ``<backbone>_<neck>`` has the YOLO head, for which there are anchors for maps at strides 8, 16 and 32 or 16 and 32.
    """
    for template in sorted(FAMILIES, key=len, reverse=True):
        before, _, after = template.partition("{}")
        backbone = name.removeprefix(before).removesuffix(after)
        if template.format(backbone) == name and backbone in BACKBONES:
            return FAMILIES[template].of(BACKBONES[backbone])
    for head in sorted(HEADS, key=len, reverse=True):
        parts = name.removesuffix(f"_{head}")
        if parts != name and (found := _composed(parts, head)):
            return found
    return _composed(name, DEFAULT_HEAD)


def _composed(name: str, head: str) -> DetectorConfig | None:
    for neck in sorted(NECKS, key=len, reverse=True):
        backbone = name.removesuffix(f"_{neck}")
        if backbone != name and backbone in BACKBONES:
            parts = f"the neck {neck!r}" + (f" and the head {head!r}" if head != DEFAULT_HEAD else "")
            summary = f"{BACKBONES[backbone].about.summary} with {parts}"
            about = About(summary, "a composition of parts", classes=80)
            return DetectorConfig(about, BACKBONES[backbone], NECKS[neck], HEADS[head])
    return None
