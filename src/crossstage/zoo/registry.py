"""The registry: what there is, by name, and what each costs."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

import torch

from crossstage.analysis import count_flops
from crossstage.backbones import BACKBONES, BackboneConfig, build_backbone
from crossstage.detectors import DETECTORS, Detector, DetectorConfig, build_detector, compose
from crossstage.errors import ConfigError
from crossstage.heads import Classifier
from crossstage.necks import NeckConfig
from crossstage.zoo.files import read_spec
from crossstage.zoo.pretrained import PRETRAINED
from crossstage.zoo.spec import ModelSpec, Provenance

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


@dataclass(frozen=True)
class ModelCard:
    """What :func:`model_info` tells of a model.

    Attributes:
        name: Name, with its tag if weights were asked for.
        task: What it does.
        summary: What it is, in a line.
        source: Paper or release that it follows.
        input_size: Height and width that the figures refer to, in pixels.
        num_classes: Classes of the head.
        parameters: Learned values, running statistics of batch norm excluded.
        weights_only: Those of convolutions and linear layers alone, without norms and biases: what CSPNet's tables call
            parameters.
        bflops: Billions of floating-point operations of one image, two for each multiply-add of a convolution or
            linear layer, nothing else.
        weights: Tagged names that :func:`load` takes.
        reconstruction: Only its size and cost were published; the structure is ours.
        class_names: Names by class id, if weights were asked for.
        provenance: Where the weights come from, if they were asked for.
    """

    name: str
    task: Task
    summary: str
    source: str
    input_size: tuple[int, int]
    num_classes: int
    parameters: int
    weights_only: int
    bflops: float
    weights: tuple[str, ...]
    reconstruction: bool = False
    class_names: tuple[str, ...] = ()
    provenance: Provenance | None = None


def _changed(row: Row, overrides: Mapping[str, Any], name: str) -> Row:
    """A table's row with other values in some of its fields, or in those of its backbone and neck."""
    parts = {"neck": row.neck, "backbone": row.backbone} if isinstance(row, DetectorConfig) else {}
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


def _settings(row: BackboneConfig | DetectorConfig | NeckConfig) -> set[str]:
    return {field.name for field in fields(row)} - {"about", "backbone", "neck"}


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


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of the models, sorted.

    Args:
        pattern: Shell-style wildcards, such as ``"csp*"``.
        pretrained: List the names of weights, ``<model>.<tag>``, instead.
    """
    return sorted(fnmatch.filter(PRETRAINED if pretrained else REGISTRY, pattern))


def model_info(name: str) -> ModelCard:
    """Tell what a model is, what it costs and where its weights come from.

    Args:
        name: A model's name, with or without a tag.

    Raises:
        ConfigError: The name is unknown.
    """
    entry = find(name)
    base = name.split(".", 1)[0]
    stored = read_spec(PRETRAINED[name].path) if name in PRETRAINED else None
    with torch.device("meta"):
        model = entry.build(stored or default_spec(base, entry.num_classes)).eval()
    return ModelCard(
        name=name,
        task=entry.task,
        summary=entry.summary,
        source=entry.source,
        input_size=entry.input_size,
        num_classes=stored.num_classes if stored else entry.num_classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights_only=sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1),
        bflops=count_flops(model, (1, 3, *entry.input_size)) / 1e9,
        weights=tuple(list_models(f"{base}.*", pretrained=True)),
        reconstruction=entry.reconstruction,
        class_names=stored.class_names if stored else (),
        provenance=stored.provenance if stored else None,
    )


def lookup(name: str) -> Entry | None:
    """The entry of a name without a tag, None if there is none; ``<backbone>_<neck>`` names every composition."""
    if name in REGISTRY:
        return REGISTRY[name]
    composed = compose(name)
    return _entry(composed) if composed else None


def find(name: str) -> Entry:
    """The entry of a name, with or without a tag.

    Raises:
        ConfigError: The name or its tag is unknown.
    """
    base, _, tag = name.partition(".")
    if (not tag or name in PRETRAINED) and (entry := lookup(base)):
        return entry
    known = [*REGISTRY, *PRETRAINED]
    close = get_close_matches(name.lower().replace("-", "_"), known, n=3)
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
