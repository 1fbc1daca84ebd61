"""Rows of detectors. Adding a family of detectors takes one file in this room, and no line anywhere else.

The file of a family holds a docstring with the papers, and one or both of two tables, which are joined to those of
:mod:`crossstage.models.published`:

- ``DETECTORS``, rows with a name of their own.
- ``FAMILIES``, what detectors with any backbone have in common, by a name with ``{}`` where the backbone's name goes:
  ``"maskrcnn_{}_fpn"`` makes ``maskrcnn_cspresnet50_fpn`` a detector that is built, trained, saved and exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crossstage.models.auxiliary import AuxiliaryConfig
from crossstage.models.backbones import About, BackboneConfig, build_backbone
from crossstage.models.composed import ComposedDetector
from crossstage.models.heads import HeadConfig
from crossstage.models.necks import NeckConfig, build_neck
from crossstage.structures import Preprocessing


@dataclass(frozen=True)
class DetectorConfig:
    """A detector: a backbone, a neck and a head.

    Attributes:
        about: What the detector is, for people.
        backbone: A row of the backbones' table.
        neck: A row of the necks' table.
        head: A row of the heads' table.
        size: Side of the square input that its published figures refer to, in pixels.
        size_divisor: The number that the input's height and width must be multiples of; None takes the largest stride.
        preprocessing: How images become input; None stretches them to the published size.
        auxiliary: A branch that helps in training; None trains without.
    """

    about: About = field(compare=False)
    backbone: BackboneConfig
    neck: NeckConfig
    head: HeadConfig
    size: int = 416
    size_divisor: int | None = None
    preprocessing: Preprocessing | None = None
    auxiliary: AuxiliaryConfig | None = None

    def build(self, class_names: Sequence[str], *, preprocessing: Preprocessing | None = None) -> ComposedDetector:
        """Build the detector.

        Args:
            class_names: Names by class id.
            preprocessing: How images become input; None takes the row's.

        Raises:
            ConfigError: A value of the row does not fit the others.
        """
        backbone = build_backbone(self.backbone, strides=self.neck.reads)
        neck = build_neck(self.neck, backbone.channels, backbone.strides, style=self.backbone.style)
        return ComposedDetector(
            backbone,
            neck,
            self.head.for_strides(neck.strides).build(neck.channels, neck.strides, len(class_names)),
            class_names=class_names,
            preprocessing=preprocessing or self.preprocessing or Preprocessing((self.size, self.size)),
            size_divisor=self.size_divisor,
            auxiliary=self.auxiliary,
        )


@dataclass(frozen=True)
class Family:
    """Detectors that differ in their backbone alone.

    Attributes:
        summary: What they are, in a line with ``{}`` where the backbone's summary goes.
        source: Paper or release.
        neck: A row of the necks' table.
        head: A row of the heads' table.
        size: Side of the square input that published figures refer to, in pixels.
        size_divisor: See :class:`DetectorConfig`.
        preprocessing: See :class:`DetectorConfig`.
        classes: Classes of the published detector.
        settings: Fields of the backbone's row that these detectors have otherwise, such as frozen norms.
    """

    summary: str
    source: str
    neck: NeckConfig
    head: HeadConfig
    size: int = 416
    size_divisor: int | None = None
    preprocessing: Preprocessing | None = None
    classes: int = 80
    settings: Mapping[str, Any] = field(default_factory=dict)

    def of(self, backbone: BackboneConfig) -> DetectorConfig:
        """Return the detector with a backbone."""
        about = About(self.summary.format(backbone.about.summary), self.source, classes=self.classes)
        row = replace(backbone, **self.settings)
        return DetectorConfig(about, row, self.neck, self.head, self.size, self.size_divisor, self.preprocessing)
