"""Models built by name, and models with their weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from crossstage.darknet.detector import load_darknet_detector
from crossstage.errors import ConfigError, WeightsError
from crossstage.models.backbones import BACKBONES, StagedBackbone, build_backbone
from crossstage.models.detector import Detector
from crossstage.models.necks import NECKS
from crossstage.models.registry import REGISTRY, Model, backbone_config, default_spec, find, lookup
from crossstage.nn import Partial
from crossstage.nn.conv import Norm
from crossstage.weights.cards import list_models
from crossstage.weights.model_file import read_model
from crossstage.weights.peers import load_peer
from crossstage.weights.shipped import PRETRAINED
from crossstage.weights.starting import weights_file
from crossstage.weights.transfer import transfer

Module = TypeVar("Module", bound=nn.Module)


def create_model(
    name: str,
    num_classes: int | None = None,
    *,
    pretrained: bool = False,
    class_names: Sequence[str] | None = None,
    out_indices: Sequence[int] | None = None,
    partial: Partial | Literal["published"] | None = "published",
    act: str | None = None,
    norm: Norm | None = None,
    in_chans: int | None = None,
    drop_path: float | None = None,
    **settings: Any,
) -> Model | StagedBackbone:
    """Build a model.

    Args:
        name: A name of :func:`list_models`, initialised at random; or a tagged name, ``<model>.<tag>``, which starts
            from these weights: with other classes, everything but the tensors that depend on their number is taken; a
            warning tells what other settings leave untaken.
        num_classes: Classes of the head; by default those of the weights or of the published model.
        pretrained: Start from the model's weights, as its tagged name does.
        class_names: Names by class id; by default those of the weights if their number fits, else "0", "1", ...
        out_indices: Return the backbone alone, which yields the maps of these stages, counted from 0, negative from the
            end.
        partial: How the stages are made partial, or None for the plain network; by default as published.
        act: Activation of every convolution, see :func:`crossstage.nn.activation`; by default as published.
        norm: ``"batch"`` or ``"group"``.
        in_chans: Channels of the input; by default 3.
        drop_path: Probability that the last residual block is left out in training; earlier ones less.
        **settings: Other values for fields of the model's row in its table, see the ``...Config`` classes of
            :mod:`crossstage.models.backbones` and :mod:`crossstage.models.necks`, and :class:`~crossstage.models.published.DetectorConfig`.

    Returns:
        A :class:`~crossstage.models.classifier.Classifier` or :class:`~crossstage.models.one_stage.Detector`, or with ``out_indices`` a
        :class:`~crossstage.models.backbones.StagedBackbone`; in training mode.

    Raises:
        ConfigError: The name or a setting is unknown, a value does not fit, or there are no weights to start from.

    Example:
        >>> model = create_model("cspdarknet53", num_classes=10)
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
        >>> backbone = create_model("csppeleenet", out_indices=(1, 2, 3), partial=Partial(gamma=0.25))
        >>> backbone.channels
        [256, 512, 640]
    """
    named = {"act": act, "norm": norm, "in_chans": in_chans, "drop_path": drop_path}
    settings |= {key: value for key, value in named.items() if value is not None}
    if partial != "published":
        settings["partial"] = partial
    if pretrained and name not in PRETRAINED:
        name = _tagged(name)
    weights = PRETRAINED.get(name)
    if "." in name and name not in PRETRAINED:
        raise ConfigError(f"model {name!r} is unknown; there are weights of {', '.join(list_models(pretrained=True))}")
    entry = find(name.partition(".")[0])
    if out_indices is not None and entry.task != "classify":
        raise ConfigError(f"out_indices choose maps of a backbone; {name} is a detector")
    if num_classes is None and class_names is not None:
        num_classes = len(class_names)
    if weights is None:
        classes = entry.num_classes if num_classes is None else num_classes
        spec = default_spec(name, classes, class_names, settings)
        if out_indices is not None:
            return build_backbone(backbone_config(name, settings), out_indices=out_indices)
        return entry.build(spec)
    stored, state = read_model(weights.verified_path())
    classes = stored.num_classes if num_classes is None else num_classes
    if class_names is None and classes == stored.num_classes:
        class_names = stored.class_names
    spec = default_spec(stored.name, classes, class_names, {**stored.overrides, **settings})
    model = entry.build(replace(spec, preprocessing=stored.preprocessing))
    carried = transfer(model, state, name, old_names=stored.class_names, new_names=spec.class_names)
    if settings and (carried.fresh or carried.partly):
        warnings.warn(str(carried), stacklevel=2)
    return model


def create_detector(
    backbone: str,
    neck: str = "efm",
    head: Literal["yolo"] = "yolo",
    num_classes: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    **settings: Any,
) -> Detector:
    """Build a detector of any backbone, neck and head; ``create_model(f"{backbone}_{neck}")`` is the same.

    Args:
        backbone: A classifier of :func:`list_models`, initialised at random.
        neck: One of :data:`crossstage.models.necks.NECKS`.
        head: The only kind there is.
        num_classes: Classes of the head; by default COCO's 80.
        class_names: Names by class id; by default "0", "1", ...
        **settings: As :func:`create_model`'s: other values for fields of the backbone's row, the neck's, or
            :class:`~crossstage.models.published.DetectorConfig`'s ``levels`` (anchors) and ``size``.

    Returns:
        The detector, in training mode.

    Raises:
        ConfigError: A part or a setting is unknown, or the backbone has no maps of the strides that the neck reads.

    Example:
        >>> detector = create_detector(backbone="densenet121", neck="efm", num_classes=3)
        >>> [tuple(raw.shape) for raw in detector(torch.zeros(1, 3, 64, 64))]
        [(1, 24, 8, 8), (1, 24, 4, 4), (1, 24, 2, 2)]
    """
    for part, name, known in (("backbone", backbone, BACKBONES), ("neck", neck, NECKS), ("head", head, {"yolo": None})):
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
            raise ConfigError(f"{part} {name!r} is unknown; {hint}")
    model = create_model(f"{backbone}_{neck}", num_classes, class_names=class_names, **settings)
    assert isinstance(model, Detector)
    return model


def load(name_or_path: str | Path) -> Model:
    """Load a model with its weights.

    Args:
        name_or_path: A name of ``list_models(pretrained=True)``, a model's name if it has weights, the path of a model
            file written by crossstage, the folder of a training, whose best weights are taken, the path of a Darknet
            ``.cfg`` with its ``.weights`` beside it, see :func:`~crossstage.darknet.detector.load_darknet_detector`, or a network of
            another library, whose weights are fetched: ``"timm:<name>[.<tag>]"`` or ``"torchvision:<name>[.<tag>]"``,
            see :func:`~crossstage.weights.peers`.

    Returns:
        The model in evaluation mode; a detector's :meth:`~crossstage.models.one_stage.Detector.predict` reads images.

    Raises:
        ConfigError: The name is unknown or has no weights, or the other library is not installed.
        WeightsError: The file is damaged or not a crossstage model, or weights cannot be fetched. Nothing of a file is
            ever executed.

    Example:
        >>> detector = load("cspdarknet53_tiny_yolo.coco")
        >>> detector.class_names[:3]
        ('person', 'bicycle', 'car')
    """
    if str(name_or_path).startswith(("timm:", "torchvision:")):
        return load_peer(str(name_or_path))
    if Path(name_or_path).suffix == ".cfg":
        return load_darknet_detector(name_or_path)
    path = _weights_path(name_or_path)
    spec, state = read_model(path)
    entry = lookup(spec.name)
    if entry is None:
        raise WeightsError(f"{path}: holds a {spec.name!r}; expected one of {', '.join(REGISTRY)}")
    try:
        with torch.device("meta"):
            model = entry.build(spec)
    except (ConfigError, TypeError, ValueError, RuntimeError, LookupError, ArithmeticError) as error:
        raise WeightsError(f"{path}: its header describes a {spec.name} that cannot be built: {error}") from error
    _check_tensors(path, state, model.state_dict(), spec.name)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_().eval()


def load_on(name_or_path: str | Path, device: str | None = None) -> Model:
    """:func:`load`, moved to a device.

    Args:
        name_or_path: See :func:`load`.
        device: Such as ``"cpu"`` or ``"cuda:1"``; None takes a GPU if there is one.

    Raises:
        ConfigError: The name is unknown or has no weights, or the device is not there.
        WeightsError: The file is damaged or not a crossstage model.
    """
    return placed(load(name_or_path), device)


def placed(model: Module, device: str | None) -> Module:
    """Move a model to a device; None takes a GPU if there is one.

    Raises:
        ConfigError: The device is not there.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(chosen)
    except (RuntimeError, AssertionError) as error:  # torch raises either, depending on its build
        raise ConfigError(f"device {chosen!r} cannot be used: {error}") from None


def load_detector(name_or_path: str | Path, device: str | None = None) -> Detector:
    """:func:`load_on` for a detector.

    Raises:
        ConfigError: See there, or the model is a classifier.
        WeightsError: The file is damaged or not a crossstage model.
    """
    model = load_on(name_or_path, device)
    if not isinstance(model, Detector):
        raise ConfigError(f"{name_or_path} is a classifier; expected a detector")
    return model


def _tagged(name: str) -> str:
    """The first tagged name of a model.

    Raises:
        ConfigError: The model is unknown or has no weights.
    """
    find(name)
    for tagged, weights in PRETRAINED.items():
        if weights.model == name:
            return tagged
    raise ConfigError(
        f"{name} has no weights yet; create_model({name!r}) builds it untrained, and there are weights of "
        f"{', '.join(list_models(pretrained=True))}"
    )


def _weights_path(name_or_path: str | Path) -> Path:
    return weights_file(name_or_path) or PRETRAINED[_tagged(str(name_or_path))].verified_path()


def _check_tensors(path: Path, state: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> None:
    """Refuse a file whose tensors are not the model's own by name, shape and kind of number."""

    def described(tensors: Mapping[str, Tensor], key: str) -> str:
        if key not in tensors:
            return "missing"
        return f"{'float' if tensors[key].is_floating_point() else 'integer'} {tuple(tensors[key].shape)}"

    for key in sorted(own.keys() | state.keys()):
        if (found := described(state, key)) != (expected := described(own, key)):
            raise WeightsError(f"{path}: {key} is {found}; expected {expected} for a {name}")
