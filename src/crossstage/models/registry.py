"""The registry: every model by name, and how it is built. Weights are another room's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from crossstage.errors import ConfigError, did_you_mean
from crossstage.models.backbones import BACKBONES, BackboneConfig, build_backbone
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.heads import HeadConfig
from crossstage.models.necks import NeckConfig
from crossstage.models.published import DETECTORS, compose
from crossstage.models.spec import ModelSpec
from crossstage.structures import Preprocessing

TaskName = Literal["classify", "detect"]
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
        preprocessing: How it wants its images; None where that is what is usual for the task.
    """

    task: TaskName
    summary: str
    source: str
    num_classes: int
    input_size: tuple[int, int]
    build: Builder
    reconstruction: bool = False
    preprocessing: Preprocessing | None = None


def _changed(row: Row, overrides: Mapping[str, Any], name: str) -> Row:
    """Return a table's row with other values in some of its fields, or in those of its backbone, neck and head.

    Raises:
        ConfigError: A setting is unknown, two parts have one of that name, or a value does not fit.
    """
    parts: dict[str, Any] = {}
    if isinstance(row, DetectorConfig):
        parts = {"backbone": row.backbone, "neck": row.neck, "head": row.head}
    owners: dict[str, list[str]] = {setting: [""] for setting in _settings(row)}
    for part, inner in parts.items():
        own = {"size"} if part == "backbone" else set()  # of a detector, whose backbone's own means nothing
        for setting in _settings(inner) - own:
            owners.setdefault(setting, []).append(part)
    changes: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        if key not in owners:
            hint = did_you_mean(key, owners) or f"; expected one of {', '.join(sorted(owners))}"
            raise ConfigError(f"{name} has no setting {key!r}{hint}")
        if len(owners[key]) > 1:
            several = " and its ".join(part or "row" for part in owners[key])
            raise ConfigError(f"{name}: its {several} have a setting {key!r} both; rename one")
        changes.setdefault(owners[key][0], {})[key] = value
    inner = {part: replace(parts[part], **values) for part, values in changes.items() if part}
    return replace(row, **changes.get("", {}), **inner)


def _settings(row: BackboneConfig | DetectorConfig | NeckConfig | HeadConfig) -> set[str]:
    """Return the names of a row's own settings."""
    return {field.name for field in fields(row)} - {"about", "backbone", "neck", "head"}


def backbone_config(name: str, overrides: Mapping[str, Any]) -> BackboneConfig:
    """Return a backbone's row with other values in some of its fields.

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
    changed = _changed(row, spec.overrides, spec.name)
    return changed.build(spec.class_names, preprocessing=spec.preprocessing)


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
        row.preprocessing if detects else None,
    )


class _Registry(Mapping[str, Entry]):
    """The tables of backbones and detectors as entries; rows that a program adds to these are there at once."""

    def __getitem__(self, name: str) -> Entry:
        return _entry(BACKBONES[name] if name in BACKBONES else DETECTORS[name])

    def __iter__(self) -> Iterator[str]:
        yield from (*BACKBONES, *DETECTORS)

    def __len__(self) -> int:
        return len(BACKBONES) + len(DETECTORS)


REGISTRY: Mapping[str, Entry] = _Registry()
"""Every model that has a name of its own; compositions have one, too, see :func:`lookup`."""


def lookup(name: str) -> Entry | None:
    """Return the entry of a model's name, None if there is none.

    Args:
        name: A name of :data:`REGISTRY`, or a composition ``<backbone>_<neck>[_<head>]``.
    """
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
    hint = did_you_mean(name.lower().replace("-", "_"), REGISTRY) or "; `crossstage models` lists what there is"
    raise ConfigError(f"model {name!r} is unknown{hint}")


def default_spec(
    name: str,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """Return the spec of a model without weights; a detector's classes are "0", "1", ... unless they are named.

    Raises:
        ConfigError: There are more or fewer names than classes.
    """
    if class_names is None and num_classes > 0 and find(name).task == "detect":
        class_names = [str(index) for index in range(num_classes)]
    names = tuple(class_names or ())
    if names and len(names) != num_classes:
        raise ConfigError(f"{len(names)} class names for num_classes={num_classes}; expected as many")
    return ModelSpec(name, num_classes, names, overrides or {})
