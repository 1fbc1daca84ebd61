"""The registry: names to builders and cards."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from crossstage.backbones import DARKNETS, Darknet, DarknetConfig
from crossstage.detectors import YOLOS, Detector, YoloConfig, build_yolo
from crossstage.errors import ConfigError, WeightsError
from crossstage.heads import Classifier
from crossstage.zoo.darknet_detector import load_darknet_detector
from crossstage.zoo.files import read_model, read_spec
from crossstage.zoo.pretrained import PRETRAINED
from crossstage.zoo.spec import ModelSpec, Provenance

Task = Literal["classify", "detect"]
Model = Detector | Classifier
Builder = Callable[[ModelSpec], Model]
Row = TypeVar("Row", DarknetConfig, YoloConfig)


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
    """

    task: Task
    summary: str
    source: str
    num_classes: int
    input_size: tuple[int, int]
    build: Builder


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
        bflops: Billions of floating-point operations of one image, two for each multiply-add of a convolution or
            linear layer, nothing else.
        weights: Tagged names that :func:`load` takes.
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
    bflops: float
    weights: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    provenance: Provenance | None = None


def _changed(row: Row, overrides: Mapping[str, Any], name: str) -> Row:
    """A table's row with other values in some of its fields, or in those of its backbone."""
    backbone = row.backbone if isinstance(row, YoloConfig) else row
    own, inner = {field.name for field in fields(row)}, {field.name for field in fields(backbone)}
    for key in overrides:
        if key not in own | inner:
            close = get_close_matches(key, own | inner, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(sorted(own | inner))}"
            raise ConfigError(f"{name} has no setting {key!r}{hint}")
    changes = {key: value for key, value in overrides.items() if key in own}
    if inner_changes := {key: value for key, value in overrides.items() if key not in own}:
        changes["backbone"] = replace(backbone, **inner_changes)
    return replace(row, **changes)


def _build_darknet(spec: ModelSpec) -> Classifier:
    return Classifier(Darknet(_changed(DARKNETS[spec.name], spec.overrides, spec.name)), spec.num_classes)


def _build_yolo(spec: ModelSpec) -> Detector:
    row = _changed(YOLOS[spec.name], spec.overrides, spec.name)
    return build_yolo(row, spec.class_names, preprocessing=spec.preprocessing)


_YOLOV3 = "YOLOv3, arXiv 1804.02767"
_CSPNET = "CSPNet, arXiv 1911.11929, and its authors' release"

REGISTRY: dict[str, Entry] = {
    "darknet53": Entry("classify", "Darknet-53", _YOLOV3, 1000, (256, 256), _build_darknet),
    "cspdarknet53": Entry("classify", "CSPDarknet-53", _CSPNET, 1000, (256, 256), _build_darknet),
    "cspdarknet53_tiny": Entry(
        "classify",
        "YOLOv4-tiny's backbone; its classifier is unpublished",
        "yolov4-tiny.cfg, A. Bochkovskiy and C.-Y. Wang",
        1000,
        (256, 256),
        _build_darknet,
    ),
    "cspdarknet53_tiny_yolo": Entry(
        "detect", "YOLOv4-tiny", "yolov4-tiny.cfg, A. Bochkovskiy and C.-Y. Wang", 80, (416, 416), _build_yolo
    ),
}


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of the models, sorted.

    Args:
        pattern: Shell-style wildcards, such as ``"csp*"``.
        pretrained: List the names of weights, ``<model>.<tag>``, instead.
    """
    return sorted(fnmatch.filter(PRETRAINED if pretrained else REGISTRY, pattern))


def create_model(
    name: str,
    num_classes: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    **overrides: Any,
) -> Model:
    """Build a model.

    Args:
        name: A name of :func:`list_models`, initialised at random; or a tagged name, ``<model>.<tag>``, which starts
            from these weights: with other classes, everything but the tensors that depend on their number is taken.
        num_classes: Classes of the head; by default those of the weights or of the published model.
        class_names: Names by class id; by default those of the weights if their number fits, else "0", "1", ...
        **overrides: Other values for fields of the model's row in its table, such as ``partial`` or ``act``; see
            :class:`~crossstage.backbones.DarknetConfig` and :class:`~crossstage.detectors.YoloConfig`.

    Returns:
        A :class:`~crossstage.heads.Classifier` or :class:`~crossstage.detectors.Detector`, in training mode.

    Raises:
        ConfigError: The name or a setting is unknown, or a value does not fit.

    Example:
        >>> model = create_model("cspdarknet53", num_classes=10)
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """
    pretrained = PRETRAINED.get(name)
    entry = find(name)
    if num_classes is None and class_names is not None:
        num_classes = len(class_names)
    if pretrained is None:
        classes = entry.num_classes if num_classes is None else num_classes
        return entry.build(_spec(name, classes, class_names, overrides))
    stored, state = read_model(pretrained.verified_path())
    classes = stored.num_classes if num_classes is None else num_classes
    if class_names is None and classes == stored.num_classes:
        class_names = stored.class_names
    spec = _spec(stored.name, classes, class_names, {**stored.overrides, **overrides})
    model = entry.build(replace(spec, preprocessing=stored.preprocessing))
    own = model.state_dict()
    fitting = {key: tensor for key, tensor in state.items() if key in own and own[key].shape == tensor.shape}
    model.load_state_dict({**own, **fitting})
    return model


def load(name_or_path: str | Path) -> Model:
    """Load a model with its weights.

    Args:
        name_or_path: A name of ``list_models(pretrained=True)``, a model's name if it has weights, the path of a model
            file written by crossstage, or that of a Darknet ``.cfg`` with its ``.weights`` beside it, see
            :func:`~crossstage.zoo.load_darknet_detector`.

    Returns:
        The model in evaluation mode; a detector's :meth:`~crossstage.detectors.Detector.predict` reads pictures.

    Raises:
        ConfigError: The name is unknown or has no weights.
        WeightsError: The file is damaged or not a crossstage model. Nothing of it is ever executed.

    Example:
        >>> detector = load("cspdarknet53_tiny_yolo.coco")
        >>> detector.class_names[:3]
        ('person', 'bicycle', 'car')
    """
    if Path(name_or_path).suffix == ".cfg":
        return load_darknet_detector(name_or_path)
    path = _weights_path(name_or_path)
    spec, state = read_model(path)
    if spec.name not in REGISTRY:
        raise WeightsError(f"{path}: holds a {spec.name!r}; expected one of {', '.join(REGISTRY)}")
    try:
        with torch.device("meta"):
            model = REGISTRY[spec.name].build(spec)
    except (ConfigError, TypeError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        raise WeightsError(f"{path}: its header describes a {spec.name} that cannot be built: {error}") from error
    own = model.state_dict()
    for key in own.keys() | state.keys():
        found, expected = (tuple(tensors[key].shape) if key in tensors else "nothing" for tensors in (state, own))
        if found != expected:
            raise WeightsError(f"{path}: {key} is {found}; expected {expected} for a {spec.name}")
    model.load_state_dict(state, assign=True)
    return model.requires_grad_().eval()


def load_detector(name_or_path: str | Path, device: str | None = None) -> Detector:
    """:func:`load` for a detector, moved to a device.

    Args:
        name_or_path: See :func:`load`.
        device: Such as ``"cpu"`` or ``"cuda:1"``; None takes a GPU if there is one.

    Raises:
        ConfigError: The name is unknown, has no weights, or is a classifier's; or the device is not there.
        WeightsError: The file is damaged or not a crossstage model.
    """
    model = load(name_or_path)
    if not isinstance(model, Detector):
        raise ConfigError(f"{name_or_path} is a classifier; expected a detector")
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(chosen)
    except (RuntimeError, AssertionError) as error:  # torch raises either, depending on its build
        raise ConfigError(f"device {chosen!r} cannot be used: {error}") from None


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
        model = entry.build(stored or _spec(base, entry.num_classes, None, {}))
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, *entry.input_size))
    return ModelCard(
        name=name,
        task=entry.task,
        summary=entry.summary,
        source=entry.source,
        input_size=entry.input_size,
        num_classes=stored.num_classes if stored else entry.num_classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        bflops=counter.get_total_flops() / 1e9,
        weights=tuple(list_models(f"{base}.*", pretrained=True)),
        class_names=stored.class_names if stored else (),
        provenance=stored.provenance if stored else None,
    )


def find(name: str) -> Entry:
    """The entry of a name, with or without a tag.

    Raises:
        ConfigError: The name or its tag is unknown.
    """
    base, _, tag = name.partition(".")
    if base in REGISTRY and (not tag or name in PRETRAINED):
        return REGISTRY[base]
    known = [*REGISTRY, *PRETRAINED]
    close = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"expected one of {', '.join(known)}"
    raise ConfigError(f"model {name!r} is unknown; {hint}")


def _spec(name: str, num_classes: int, class_names: Sequence[str] | None, overrides: Mapping[str, Any]) -> ModelSpec:
    if class_names is None and num_classes > 0 and REGISTRY[name].task == "detect":
        class_names = [str(index) for index in range(num_classes)]
    names = tuple(class_names or ())
    if names and len(names) != num_classes:
        raise ConfigError(f"{len(names)} class names for num_classes={num_classes}; expected as many")
    return ModelSpec(name, num_classes, names, overrides)


def _weights_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    name = str(name_or_path)
    if name in PRETRAINED:
        return PRETRAINED[name].verified_path()
    if name in REGISTRY:
        tagged = list_models(f"{name}.*", pretrained=True)
        if not tagged:
            available = ", ".join(list_models(pretrained=True))
            raise ConfigError(
                f"{name} has no weights yet; create_model({name!r}) builds it untrained, and there are "
                f"weights of {available}"
            )
        return PRETRAINED[tagged[0]].verified_path()
    if path.suffix == ".safetensors" or path.exists():
        return path
    find(name)
    raise AssertionError(f"{name} is known and yet has no path")
