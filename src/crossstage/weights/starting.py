"""Where a training starts: a model for given classes, with the weights that fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.detector import Detector
from crossstage.models.registry import Entry, Model, default_spec, find
from crossstage.models.spec import ModelSpec
from crossstage.nn import ConvNormAct
from crossstage.nn.conv import FrozenBatchNorm
from crossstage.structures import Preprocessing, Resize
from crossstage.weights.ref import TRAINED, Kind, Ref, parse
from crossstage.weights.stored import Stored, read_stored, stored_spec
from crossstage.weights.transfer import Transfer, transfer

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

STARTED: tuple[Kind, ...] = ("model", *TRAINED)
"""Kinds of references that a training starts from."""


@dataclass(frozen=True)
class Started:
    """A model that is ready to be trained.

    Attributes:
        model: The model, in training mode.
        spec: What rebuilds it.
        transfer: What became of the weights it started from; None if it started from none.
    """

    model: Model
    spec: ModelSpec
    transfer: Transfer | None


def classes_of(name_or_path: str | Path | Ref) -> tuple[str, ...]:
    """Return the names of the classes that a model has, or numbers if they have no names.

    Args:
        name_or_path: See :func:`start_model`; nothing is fetched.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: A file cannot be read.
    """
    spec = stored_spec(parse(name_or_path, STARTED))
    return spec.class_names or tuple(map(str, range(spec.num_classes)))


def start_model(
    name_or_path: str | Path | Ref,
    class_names: Sequence[str],
    *,
    backbone: str | Path | Ref | None = None,
    overrides: Mapping[str, Any] | None = None,
    imgsz: int | tuple[int, int] | None = None,
    resize: Resize | None = None,
) -> Started:
    """Build a model for these classes.

    Args:
        name_or_path: A model's name, which starts at random; or weights, which are taken as far as they fit, see
            :func:`~crossstage.weights.transfer.transfer`: a tagged name, a model file, a run's folder, or weights of
            another library, ``"timm:<name>[.<tag>]"`` or ``"torchvision:<name>[.<tag>]"``.
        class_names: Names by class id.
        backbone: The weights that the backbone of a detector takes which otherwise starts at random, usually those of
            a classifier; spelled as for ``name_or_path``. A detector whose row does not say how it wants its images has
            them normalised as these weights want it; for others, the difference is folded into the first layer.
        overrides: Other values for fields of the model's row.
        imgsz: Side of the input in pixels, or its height and width; None takes that of the weights, or the published
            one.
        resize: How images fit it; None takes that of the weights, else "stretch" for detectors and "crop" for
            classifiers.

    Raises:
        ConfigError: The name is unknown, a value does not fit, or the backbone is none of this detector's.
        WeightsError: A file cannot be read, or weights cannot be fetched.
    """
    ref = parse(name_or_path, STARTED)
    stored = None if ref.kind == "model" else read_stored(ref)
    name = stored.spec.name if stored else ref.name
    entry = find(name)
    given = None
    if backbone is not None:
        if stored is not None or entry.task != "detect":
            raise ConfigError(f"backbone is for a detector that starts at random; {ref} is no such")
        given = _read_backbone(parse(backbone, STARTED))
    merged = {**(stored.spec.overrides if stored else {}), **(overrides or {})}
    spec = default_spec(name, len(class_names), class_names, merged)
    spec = replace(spec, preprocessing=_preprocessing(entry, stored, given, imgsz, resize))
    model = entry.build(spec)
    if isinstance(model, Detector):
        model.prepare_training()
    if given is not None:
        return Started(model, spec, _fill_backbone(model, given, str(backbone)))
    if stored is None:
        return Started(model, spec, None)
    names = {"old_names": stored.spec.class_names, "new_names": tuple(class_names)}
    return Started(model, spec, transfer(model, stored.state, str(ref), **names))


def _preprocessing(
    entry: Entry,
    stored: Stored | None,
    backbone: Stored | None,
    imgsz: int | tuple[int, int] | None,
    resize: Resize | None,
) -> Preprocessing:
    """Return how images become input: as for the weights, else as for the row or the task, with what is given.

    Of a backbone's weights, a classifier's or another detector's, only the normalisation counts, and that only where
    the detector's row leaves it open.
    """
    if stored and stored.spec.preprocessing:
        usual = stored.spec.preprocessing
    elif entry.task == "detect":
        usual = entry.preprocessing or Preprocessing(entry.input_size)
        if backbone and (known := backbone.spec.preprocessing) and entry.preprocessing is None:
            usual = replace(usual, mean=known.mean, std=known.std, colour_order=known.colour_order, scale=known.scale)
    else:
        usual = Preprocessing(entry.input_size, "crop", IMAGENET_MEAN, IMAGENET_STD)
    chosen = usual.resized_by(resize) if resize else usual
    return chosen.at(imgsz) if imgsz else chosen


def _read_backbone(source: Ref) -> Stored:
    """Read the weights that a detector's backbone starts with.

    Raises:
        ConfigError: There are none.
        WeightsError: A file cannot be read, or weights cannot be fetched.
    """
    if source.kind == "model":
        raise ConfigError(f"{source} has no weights; expected a trained classifier")
    return read_stored(source)


def _fill_backbone(model: Model, stored: Stored, source: str) -> Transfer:
    """Fill a detector's backbone.

    Raises:
        ConfigError: The weights do not fit.
    """
    prefix = "backbone."
    state = {name: tensor for name, tensor in stored.state.items() if name.startswith(prefix)}
    carried = transfer(model, state, source)
    if left := [name for name in carried.fresh if name.startswith(prefix)]:
        raise ConfigError(
            f"{source} is a {stored.spec.name}, whose weights are not this backbone's: {left[0]} does not fit"
        )
    if stored.spec.preprocessing:
        first = next(module for module in model.modules() if isinstance(module, ConvNormAct))
        assert model.preprocessing is not None
        _fold_normalisation(first, stored.spec.preprocessing, model.preprocessing)
    return carried


@torch.no_grad()
def _fold_normalisation(first: ConvNormAct, wanted: Preprocessing, given: Preprocessing) -> None:
    """Let a layer that was trained on images normalised in one way read them in another; exact but at the border.

    Args:
        first: The layer, which is changed in place.
        wanted: How its images were normalised in training.
        given: How its images are normalised from now on.
    """
    conv, weight = first.conv, first.conv.weight
    black, white = (wanted.normalise(_unnormalised(weight.new_tensor(value).view(1, 1, 1), given)) for value in (0, 1))
    shift, factor = black.flatten(), (white - black).flatten()
    same = wanted.colour_order == given.colour_order
    if conv.in_channels != 3 or (
        same and torch.allclose(factor, torch.ones(3)) and torch.allclose(shift, torch.zeros(3))
    ):
        return
    constant = (weight.sum((2, 3)) * shift).sum(1)  # what the convolution gives besides
    weight *= factor.view(1, -1, 1, 1)
    if not same:
        weight.copy_(weight.flip(1))
    if isinstance(first.bn, (nn.BatchNorm2d, FrozenBatchNorm)):
        assert first.bn.running_mean is not None
        first.bn.running_mean -= constant
    elif conv.bias is not None:
        conv.bias += constant


def _unnormalised(value: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return the RGB in [0, 1] that normalisation turns into a value of every colour: ``(3, 1, 1)``."""
    mean, std = (value.new_tensor(each).view(3, 1, 1) for each in (preprocessing.mean, preprocessing.std))
    colours = (value * std + mean) / preprocessing.scale
    return colours.flip(-3) if preprocessing.colour_order == "bgr" else colours
