"""The registry: every model by name, and how it is built. Weights are another room's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from crossstage.errors import ConfigError
from crossstage.models.backbones import BACKBONES, BackboneConfig, build_backbone
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.models.heads import HeadConfig
from crossstage.models.necks import NeckConfig
from crossstage.models.published import DETECTORS, DetectorConfig, build_detector, compose
from crossstage.models.spec import ModelSpec

Task = Literal["classify", "detect"]
Model = Detector | Classifier
Builder = Callable[[ModelSpec], Model]
Row = TypeVar("Row", BackboneConfig, DetectorConfig)


@dataclass(frozen=True)
class Entry:
    """A registered architecture.

    Attributes:
        task: What it does.
        summary: What it is, in a line.
        source: Paper or release that it follows.
        num_classes: Classes of the published model.
        input_size: Height and width that the published figures refer to, in pixels.
        build: Makes the model that a spec describes.
        reconstruction: Only its size and cost were published; the structure is ours.
    """

    task: Task
    summary: str
    source: str
    num_classes: int
    input_size: tuple[int, int]
    build: Builder
    reconstruction: bool = False


def _changed(row: Row, overrides: Mapping[str, Any], name: str) -> Row:
    """A table's row with other values in some of its fields, or in those of its backbone and neck."""
    parts: dict[str, Any] = {}
    if isinstance(row, DetectorConfig):
        parts = {"head": row.head, "neck": row.neck, "backbone": row.backbone}
    own = _settings(row)
    known = own.union(*map(_settings, parts.values()))
    for key in overrides:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(sorted(known))}"
            raise ConfigError(f"{name} has no setting {key!r}{hint}")
    changes = {key: value for key, value in overrides.items() if key in own}
    for key, part in parts.items():
        inner = {name: value for name, value in overrides.items() if name in _settings(part)}
        changes |= {key: replace(part, **inner)} if inner else {}
    return replace(row, **changes)


def _settings(row: BackboneConfig | DetectorConfig | NeckConfig | HeadConfig) -> set[str]:
    return {field.name for field in fields(row)} - {"about", "backbone", "neck", "head"}


def backbone_config(name: str, overrides: Mapping[str, Any]) -> BackboneConfig:
    """A backbone's row with other values in some of its fields.

    Raises:
        ConfigError: A setting is unknown or a value does not fit.
    """
    return _changed(BACKBONES[name], overrides, name)


def _build_classifier(spec: ModelSpec) -> Classifier:
    config = backbone_config(spec.name, spec.overrides)
    return Classifier(
        build_backbone(config),
        spec.num_classes,
        dropout=config.dropout,
        preprocessing=spec.preprocessing,
        class_names=spec.class_names,
    )


def _build_detector(spec: ModelSpec) -> Detector:
    row = DETECTORS.get(spec.name) or compose(spec.name)
    assert row is not None
    return build_detector(_changed(row, spec.overrides, spec.name), spec.class_names, preprocessing=spec.preprocessing)


def _entry(row: BackboneConfig | DetectorConfig) -> Entry:
    about = row.about
    summary = f"{about.summary} (reconstruction)" if about.reconstruction else about.summary
    detects = isinstance(row, DetectorConfig)
    return Entry(
        "detect" if detects else "classify",
        summary,
        about.source,
        about.classes,
        (row.size, row.size),
        _build_detector if detects else _build_classifier,
        about.reconstruction,
    )


REGISTRY: dict[str, Entry] = {name: _entry(row) for name, row in {**BACKBONES, **DETECTORS}.items()}


def lookup(name: str) -> Entry | None:
    """The entry of a name without a tag, None if there is none; ``<backbone>_<neck>`` names every composition."""
    if name in REGISTRY:
        return REGISTRY[name]
    composed = compose(name)
    return _entry(composed) if composed else None


def find(name: str) -> Entry:
    """Return the entry of a model's name.

    Raises:
        ConfigError: The name is unknown.
    """
    if entry := lookup(name):
        return entry
    close = get_close_matches(name.lower().replace("-", "_"), REGISTRY, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "`crossstage models` lists what there is"
    raise ConfigError(f"model {name!r} is unknown; {hint}")


def default_spec(
    name: str,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """The spec of a model without weights; a detector's classes are "0", "1", ... unless they are named.

    Raises:
        ConfigError: There are more or fewer names than classes.
    """
    if class_names is None and num_classes > 0 and find(name).task == "detect":
        class_names = [str(index) for index in range(num_classes)]
    names = tuple(class_names or ())
    if names and len(names) != num_classes:
        raise ConfigError(f"{len(names)} class names for num_classes={num_classes}; expected as many")
    return ModelSpec(name, num_classes, names, overrides or {})
