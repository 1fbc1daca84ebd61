"""Where a training starts: a model for given classes, with the weights that fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.registry import Model, default_spec, find, lookup
from crossstage.models.spec import ModelSpec
from crossstage.nn import ConvNormAct
from crossstage.structures import Preprocessing, Resize
from crossstage.weights.model_file import read_model, read_spec
from crossstage.weights.peers import load_peer, peer_spec
from crossstage.weights.shipped import PRETRAINED
from crossstage.weights.transfer import Transfer, transfer

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RUN_FILES = ("best.safetensors", "last.safetensors")


@dataclass(frozen=True)
class Started:
    """A model that is ready to be trained.

    Attributes:
        model: In training mode.
        spec: What rebuilds it.
        transfer: What became of the weights it started from; None if it started from none.
    """

    model: Model
    spec: ModelSpec
    transfer: Transfer | None


def weights_file(name_or_path: str | Path) -> Path | None:
    """The file of a tagged name, of a model file's path, or of a run's folder; None for the name of a model.

    Raises:
        ConfigError: It is none of these, or a run without weights.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name in PRETRAINED:
        return PRETRAINED[name].verified_path()
    if lookup(name):
        return None
    if path.is_dir():
        for file in RUN_FILES:
            if (path / file).is_file():
                return path / file
        raise ConfigError(f"{path}: no weights; expected a training's folder with {' or '.join(RUN_FILES)}")
    if path.suffix == ".safetensors" or path.exists():
        return path
    find(name)
    raise AssertionError(f"{name} is known and yet has no path")


def classes_of(name_or_path: str | Path) -> tuple[str, ...]:
    """Names of the classes that a model has, or numbers if it has no weights yet.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: A file cannot be read.
    """
    path = weights_file(name_or_path)
    if path is None:
        return tuple(map(str, range(find(str(name_or_path)).num_classes)))
    spec = read_spec(path)
    return spec.class_names or tuple(map(str, range(spec.num_classes)))


def _stored(name_or_path: str | Path) -> tuple[ModelSpec | None, Mapping[str, Tensor]]:
    """What the weights are of, and the weights; neither if there are none."""
    if str(name_or_path).startswith(("timm:", "torchvision:")):
        peer = load_peer(str(name_or_path))
        return peer_spec(str(name_or_path), peer), peer.state_dict()
    path = weights_file(name_or_path)
    return read_model(path) if path else (None, {})


def start_model(
    name_or_path: str | Path,
    class_names: Sequence[str],
    *,
    backbone: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    imgsz: int | None = None,
    resize: Resize | None = None,
) -> Started:
    """Build a model for these classes.

    Args:
        name_or_path: A model's name, which starts at random; or a tagged name, a model file, a run's folder or
            ``"timm:<name>[.<tag>]"`` or ``"torchvision:<name>[.<tag>]"``, whose weights are taken as far as they fit,
            see :func:`~crossstage.weights.transfer.transfer`.
        class_names: Names by class id.
        backbone: Where the backbone of a detector that starts at random takes its weights: anything of
            ``name_or_path``'s kind, usually a classifier. Its normalisation of images is folded into the first layer.
        overrides: Other values for fields of the model's row.
        imgsz: Side of the input; None takes that of the weights, or the published one.
        resize: How images fit it; None takes that of the weights, else "stretch" for detectors and "crop" for
            classifiers.

    Raises:
        ConfigError: The name is unknown, a value does not fit, or the backbone is none of this detector's.
        WeightsError: A file cannot be read.
    """
    stored, state = _stored(name_or_path)
    name = stored.name if stored else str(name_or_path)
    entry = find(name)
    merged = {**(stored.overrides if stored else {}), **(overrides or {})}
    spec = default_spec(name, len(class_names), class_names, merged)
    if stored and stored.preprocessing:
        preprocessing = stored.preprocessing
    elif entry.task == "detect":
        preprocessing = Preprocessing(entry.input_size)
    else:
        preprocessing = Preprocessing(entry.input_size, "crop", IMAGENET_MEAN, IMAGENET_STD)
    if imgsz:
        preprocessing = replace(preprocessing, size=(imgsz, imgsz))
    spec = replace(spec, preprocessing=replace(preprocessing, resize=resize or preprocessing.resize))
    model = entry.build(spec)
    if backbone is not None:
        if stored is not None or entry.task != "detect":
            raise ConfigError(f"backbone is for a detector that starts at random; {name_or_path} is no such")
        return Started(model, spec, _backbone_from(model, backbone))
    if stored is None:
        return Started(model, spec, None)
    source = str(name_or_path)
    carried = transfer(model, state, source, old_names=stored.class_names, new_names=tuple(class_names))
    return Started(model, spec, carried)


def _backbone_from(model: Model, source: str | Path) -> Transfer:
    """Fill a detector's backbone.

    Raises:
        ConfigError: There are no weights, or none that fit.
        WeightsError: A file cannot be read.
    """
    stored, state = _stored(source)
    if stored is None:
        raise ConfigError(f"{source} has no weights; expected a trained classifier")
    prefix = "backbone."
    carried = transfer(model, {name: x for name, x in state.items() if name.startswith(prefix)}, str(source))
    left = [name for name in carried.fresh if name.startswith(prefix)]
    if left:
        raise ConfigError(f"{source} is a {stored.name}, whose weights are not this backbone's: {left[0]} does not fit")
    if stored.preprocessing:
        first = next(module for module in model.modules() if isinstance(module, ConvNormAct))
        _fold_normalisation(first, stored.preprocessing)
    return carried


@torch.no_grad()
def _fold_normalisation(first: ConvNormAct, preprocessing: Preprocessing) -> None:
    """Let a layer that was trained on normalised images read plain ones; exact but at the zeros of the border."""
    mean, std = (first.conv.weight.new_tensor(values) for values in (preprocessing.mean, preprocessing.std))
    if not isinstance(first.bn, nn.BatchNorm2d) or first.conv.in_channels != len(mean):
        return
    first.conv.weight /= std.view(1, -1, 1, 1)
    assert first.bn.running_mean is not None
    first.bn.running_mean += (first.conv.weight.sum((2, 3)) * mean).sum(1)
