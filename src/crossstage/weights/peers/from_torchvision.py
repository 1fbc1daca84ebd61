"""torchvision: its networks, and its weights in ours."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError, WeightsError, did_you_mean
from crossstage.models.registry import default_spec, find
from crossstage.structures import Preprocessing
from crossstage.weights.peers.base import Library, State, Twin
from crossstage.weights.peers.renaming import DENSENET, FC, RESNET, rename, renamed_by

_SIDE = 224  # in pixels, of the input of a network whose weights do not say it
_MOBILENET = "mobilenetv2_torchvision"


def _from_mobilenet(state: State, source: str) -> dict[str, Tensor]:
    """Rename by order: torchvision numbers blocks and layers from end to end; convolutions and norms alternate."""
    rest = {key: tensor for key, tensor in state.items() if not key.startswith("features.")}
    renamed = rename(rest, FC, source)
    with torch.device("meta"):
        model = find(_MOBILENET).build(default_spec(_MOBILENET, 1))
    ours = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))]
    theirs = {key.rpartition(".")[0] for key in state if key.startswith("features.")}
    ordered = sorted(theirs, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    if len(ordered) != len(ours):
        raise WeightsError(f"{source}: {len(ordered)} layers; expected {len(ours)}")
    prefixes = dict(zip(ordered, ours, strict=True))
    for key, tensor in state.items():
        prefix, _, name = key.rpartition(".")
        if prefix in prefixes:
            renamed[f"{prefixes[prefix]}.{name}"] = tensor
    return renamed


_D, _R = renamed_by(DENSENET), renamed_by(RESNET)
PEERS: dict[str, Twin] = {
    **{f"torchvision:densenet{n}": Twin(f"densenet{n}", _D) for n in (121, 161, 169, 201)},
    **{f"torchvision:resnet{n}": Twin(f"resnet{n}_torchvision", _R) for n in (18, 34, 50, 101, 152)},
    "torchvision:resnext50_32x4d": Twin("resnext50_torchvision", _R),
    "torchvision:resnext101_32x8d": Twin("resnext101_32x8d_torchvision", _R),
    "torchvision:mobilenet_v2": Twin(_MOBILENET, _from_mobilenet),
}


def _networks() -> list[str]:
    from torchvision import models

    return models.list_models()


def _fetch(name: str, tag: str) -> tuple[State, Preprocessing | None]:
    from torchvision import models

    weights = models.get_model_weights(name)
    try:
        chosen = weights[tag] if tag else weights["DEFAULT"]
    except KeyError:
        expected = ", ".join(weights.__members__)
        raise ConfigError(f"torchvision has no weights {tag!r} of {name}; expected one of {expected}") from None
    return chosen.get_state_dict(progress=True, check_hash=True), _preprocessing(chosen.transforms())


def _preprocessing(transforms: Any) -> Preprocessing | None:
    """Return how a classifier wants its images; None for transforms that do not crop, such as a detector's."""
    if not hasattr(transforms, "crop_size"):
        return None
    side, whole = transforms.crop_size[0], transforms.resize_size[0]
    resample = "cubic" if transforms.interpolation.value == "bicubic" else None
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return Preprocessing((side, side), "crop", mean, std, resample=resample, crop=side / whole)


def _build(name: str, tag: str) -> tuple[nn.Module, tuple[int, int, int]]:
    from torchvision import models

    if name not in _networks():
        hint = did_you_mean(name, _networks()) or "; torchvision.models.list_models() lists them"
        raise ConfigError(f"torchvision has no network {name!r}{hint}")
    builder = models.get_model_builder(name)
    parts = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
    with warnings.catch_warnings():  # about how Inception's initialisation will change
        warnings.simplefilter("ignore", FutureWarning)
        module = builder(**dict.fromkeys(parts))
    weights = models.get_model_weights(name)
    transforms = (weights[tag] if tag in weights.__members__ else weights["DEFAULT"]).transforms()
    sizes = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None) or [_SIDE]
    return module, (3, sizes[0], sizes[-1])


LIBRARIES = {
    "torchvision": Library(
        _fetch,
        _build,
        _networks,
        "import torchvision",
        'torchvision.models.get_model("{name}", weights=None)',
    )
}
