"""Models built by name, and models with their weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import torch
from torch import nn

from crossstage.darknet.detector import load_darknet_detector
from crossstage.errors import ConfigError, did_you_mean
from crossstage.models.backbones import BACKBONES, StagedBackbone, build_backbone
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.models.heads import HEADS
from crossstage.models.necks import NECKS
from crossstage.models.published import DEFAULT_HEAD
from crossstage.models.registry import Model, backbone_config, default_spec, find
from crossstage.models.spec import ModelSpec
from crossstage.nn import Partial
from crossstage.nn.conv import Norm
from crossstage.weights.names import ClassifierName, DetectorName
from crossstage.weights.ref import TRAINED, Kind, Ref, parse
from crossstage.weights.skeleton import check_tensors, skeleton
from crossstage.weights.stored import Stored, read_stored, with_weights, without_auxiliary
from crossstage.weights.transfer import transfer

LOADED: tuple[Kind, ...] = ("model", *TRAINED, "cfg")
"""Kinds of references that :func:`load` takes."""

Module = TypeVar("Module", bound=nn.Module)


@overload
def create_model(name: DetectorName, num_classes: int | None = None, **settings: Any) -> Detector: ...
@overload
def create_model(
    name: ClassifierName, num_classes: int | None = None, *, out_indices: None = None, **settings: Any
) -> Classifier: ...
@overload
def create_model(name: str | Path | Ref, *, out_indices: Sequence[int], **settings: Any) -> StagedBackbone: ...
@overload
def create_model(
    name: str | Path | Ref, num_classes: int | None = None, *, out_indices: None = None, **settings: Any
) -> Model: ...
@overload
def create_model(
    name: str | Path | Ref, num_classes: int | None = None, *, out_indices: Sequence[int] | None, **settings: Any
) -> Model | StagedBackbone: ...
def create_model(
    name: str | Path | Ref,
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
        name: A name of :func:`list_models`, or ``<backbone>_<neck>[_<head>]``, initialised at random; or weights to
            start from: a tagged name, ``<model>.<tag>``, a model file, the folder of a training, or weights of another
            library, ``timm:<name>[.<tag>]``. With other classes, everything but what depends on these is taken; a
            warning lists what other settings leave as initialised.
        num_classes: Number of classes of the head; by default those of the weights or of the published model.
        pretrained: Start from the model's weights, as its tagged name does.
        class_names: Names by class id; by default those of the weights if their number fits, else "0", "1", ...
        out_indices: Return the backbone alone, which yields the maps of these stages, counted from 0, negative from the
            end.
        partial: How the stages are made partial, or None for the plain network; by default as published.
        act: Activation of every convolution, see :func:`crossstage.nn.activation`; by default as published.
        norm: Normalisation after every convolution; by default as published, usually ``"batch"``.
        in_chans: Number of channels of the input; by default 3.
        drop_path: Probability that the last residual block is left out in training; earlier ones less.
        **settings: Other values for fields of the model's row in its table, see the ``...Config`` classes of
            :mod:`crossstage.models.backbones`, :mod:`crossstage.models.necks` and :mod:`crossstage.models.heads`, and
            :class:`~crossstage.models.detectors.base.DetectorConfig`.

    Returns:
        A :class:`~crossstage.models.classifier.Classifier` or :class:`~crossstage.models.detector.Detector`, or with
        ``out_indices`` a :class:`~crossstage.models.backbones.StagedBackbone`; in training mode.

    Raises:
        ConfigError: The name or a setting is unknown, a value does not fit, or there are no weights to start from.
        WeightsError: A file is damaged, or weights cannot be fetched.

    Example:
        >>> model = create_model("cspdarknet53", num_classes=10)
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 10])
        >>> backbone = create_model("csppeleenet", out_indices=(1, 2, 3), partial=Partial(gamma=0.25))
        >>> backbone.channels
        [256, 512, 640]
    """
    given = {"act": act, "norm": norm, "in_chans": in_chans, "drop_path": drop_path}
    settings |= {key: value for key, value in given.items() if value is not None}
    if partial != "published":
        settings["partial"] = partial
    ref = parse(name, ("model", *TRAINED))
    if pretrained:
        ref = with_weights(ref)
    if num_classes is None and class_names is not None:
        num_classes = len(class_names)
    stored = None if ref.kind == "model" else read_stored(ref)
    spec = _spec(ref.name, stored, num_classes, class_names, settings)
    entry = find(spec.name)
    if out_indices is None:
        model = entry.build(spec)
    elif entry.task == "classify":
        model = build_backbone(backbone_config(spec.name, spec.overrides), out_indices=out_indices)
    else:
        raise ConfigError(f"out_indices choose maps of a backbone; {ref} is a detector")
    if stored is not None:
        _start_from(model, stored, ref, spec, warn=bool(settings))
    return model


def create_detector(
    backbone: str,
    neck: str = "efm",
    head: str = DEFAULT_HEAD,
    num_classes: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    **settings: Any,
) -> Detector:
    """Build a detector of any backbone, neck and head; ``create_model(f"{backbone}_{neck}_{head}")`` is the same.

    The YOLO head may be left out of the name: ``f"{backbone}_{neck}"``.

    Args:
        backbone: A classifier of :func:`list_models`, initialised at random.
        neck: One of :data:`crossstage.models.necks.NECKS`.
        head: One of :data:`crossstage.models.heads.HEADS`.
        num_classes: Number of classes of the head; by default COCO's 80.
        class_names: Names by class id; by default "0", "1", ...
        **settings: As for :func:`create_model`: other values for fields of the backbone's row, the neck's, the head's
            (such as ``levels``, the anchors of the YOLO head), or the ``size`` of the input.

    Returns:
        The detector, in training mode.

    Raises:
        ConfigError: A part or a setting is unknown, or the backbone has no maps of the strides that the neck reads.

    Example:
        >>> detector = create_detector(backbone="densenet121", neck="efm", num_classes=3)
        >>> [tuple(raw.shape) for raw in detector(torch.zeros(1, 3, 64, 64)).values()]
        [(1, 24, 8, 8), (1, 24, 4, 4), (1, 24, 2, 2)]
    """
    for part, name, known in (("backbone", backbone, BACKBONES), ("neck", neck, NECKS), ("head", head, HEADS)):
        if name not in known:
            hint = did_you_mean(name, known) or f"; expected one of {', '.join(known)}"
            raise ConfigError(f"{part} {name!r} is unknown{hint}")
    composed = f"{backbone}_{neck}" if head == DEFAULT_HEAD else f"{backbone}_{neck}_{head}"
    model = create_model(composed, num_classes, class_names=class_names, **settings)
    assert isinstance(model, Detector)
    return model


@overload
def load(name_or_path: DetectorName) -> Detector: ...
@overload
def load(name_or_path: ClassifierName) -> Classifier: ...
@overload
def load(name_or_path: str | Path | Ref) -> Model: ...
def load(name_or_path: str | Path | Ref) -> Model:
    """Load a model with its weights.

    Args:
        name_or_path: A name of ``list_models(pretrained=True)``, whose file is fetched when it is first used if it is
            not in the package; a model's name if it has weights; the path of a model file written by crossstage; the
            folder of a training, whose best weights are taken; the path of a Darknet ``.cfg`` with its ``.weights``
            beside it, see :func:`~crossstage.darknet.detector.load_darknet_detector`; or weights of another library,
            which it fetches, in the network of ours that is the same: ``"timm:<name>[.<tag>]"`` or
            ``"torchvision:<name>[.<tag>]"``, see :func:`~crossstage.weights.peers.peers`.

    Returns:
        The model in evaluation mode; a detector's :meth:`~crossstage.models.detector.Detector.predict` reads images.

    Raises:
        ConfigError: The name is unknown or has no weights, or the other library is not installed.
        WeightsError: The file is damaged or not a crossstage model, or weights cannot be fetched. Nothing of a file is
            ever executed.

    Example:
        >>> detector = load("cspdarknet53_tiny_yolo.coco")
        >>> detector.class_names[:3]
        ('person', 'bicycle', 'car')
    """
    ref = with_weights(parse(name_or_path, LOADED))
    if ref.kind == "cfg":
        return load_darknet_detector(ref.file)
    return _rebuilt(read_stored(ref))


def load_on(name_or_path: str | Path | Ref, device: str | None = None) -> Model:
    """Load a model and move it to a device.

    Args:
        name_or_path: See :func:`load`.
        device: Such as ``"cpu"`` or ``"cuda:1"``; None takes a GPU if there is one.

    Raises:
        ConfigError: The name is unknown or has no weights, or the device is not there.
        WeightsError: The file is damaged or not a crossstage model, or weights cannot be fetched.
    """
    return placed(load(name_or_path), device)


def placed(model: Module, device: str | None) -> Module:
    """Move a model to a device.

    Args:
        model: The model.
        device: Such as ``"cpu"`` or ``"cuda:1"``; None takes a GPU if there is one.

    Raises:
        ConfigError: The device is not there.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(chosen)
    except (RuntimeError, AssertionError) as error:  # torch raises either, depending on its build
        raise ConfigError(f"device {chosen!r} cannot be used: {error}") from None


def load_detector(name_or_path: str | Path | Ref, device: str | None = None) -> Detector:
    """Load a detector and move it to a device.

    Args:
        name_or_path: See :func:`load`.
        device: See :func:`load_on`.

    Raises:
        ConfigError: The name is unknown or has no weights, the model is a classifier, or the device is not there.
        WeightsError: The file is damaged or not a crossstage model, or weights cannot be fetched.
    """
    model = load_on(name_or_path, device)
    if not isinstance(model, Detector):
        raise ConfigError(f"{name_or_path} is a classifier; expected a detector")
    return model


def _spec(
    name: str,
    stored: Stored | None,
    num_classes: int | None,
    class_names: Sequence[str] | None,
    settings: Mapping[str, Any],
) -> ModelSpec:
    """Return the spec of a new model, or of one that starts from weights: what is not given is as there."""
    if stored is None:
        classes = find(name).num_classes if num_classes is None else num_classes
        return default_spec(name, classes, class_names, settings)
    there = stored.spec
    classes = there.num_classes if num_classes is None else num_classes
    if class_names is None and classes == there.num_classes:
        class_names = there.class_names
    spec = default_spec(there.name, classes, class_names, {**there.overrides, **settings})
    return replace(spec, preprocessing=there.preprocessing)


def _start_from(model: Model | StagedBackbone, stored: Stored, ref: Ref, spec: ModelSpec, *, warn: bool) -> None:
    """Fill a model with the weights that fit it; warn, if asked to, about those that do not."""
    state = stored.state
    if isinstance(model, StagedBackbone):
        prefix = "backbone."
        state = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    names = {"old_names": stored.spec.class_names, "new_names": spec.class_names}
    carried = transfer(model, state, str(ref), **names)
    if warn and (carried.fresh or carried.partly):
        warnings.warn(str(carried), stacklevel=3)


def _rebuilt(stored: Stored) -> Model:
    """Build the model that weights are of, in evaluation mode.

    Raises:
        WeightsError: The header describes no model, or the tensors are not the model's own.
    """
    model = stored.model or skeleton(stored.spec, stored.source)
    state = without_auxiliary(stored.state)
    check_tensors(stored.source, state, model.state_dict(), stored.spec.name)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_().eval()
