"""Native models from Darknet weights."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from crossstage.darknet.names import read_names
from crossstage.darknet.weights import Slot, WeightsReport, inspect, module_slots, read_into
from crossstage.errors import ConfigError, WeightsError, one_of
from crossstage.models.backbones import BACKBONES
from crossstage.models.registry import default_spec, find
from crossstage.models.spec import ModelSpec, Provenance
from crossstage.weights.model_file import halved, write_model
from crossstage.weights.ref import parse

# A Darknet file holds heads where the cfg puts them, between the steps of the neck: these are the native modules in
# that order. Inside of each, modules are registered in file order.
_TINY = (
    *("backbone", "neck.narrow", "neck.smooth.1", "head.predict.1"),
    *("neck.reduce.0", "neck.smooth.0", "head.predict.0"),
)
_FPN = (
    *("backbone", "neck.convs.2", "neck.smooth.2", "head.predict.2"),
    *("neck.reduce.1", "neck.convs.1", "neck.smooth.1", "head.predict.1"),
    *("neck.reduce.0", "neck.convs.0", "neck.smooth.0", "head.predict.0"),
)
_PAN = (
    *("backbone", "neck.top"),
    *("neck.reduce.1", "neck.lateral.1", "neck.down.1", "neck.reduce.0", "neck.lateral.0", "neck.down.0"),
    *("neck.smooth.0", "head.predict.0"),
    *("neck.shrink.0", "neck.up.0", "neck.smooth.1", "head.predict.1"),
    *("neck.shrink.1", "neck.up.1", "neck.smooth.2", "head.predict.2"),
)
_PRN = (
    *("backbone", "neck.entry", "neck.reduce.1", "neck.smooth.1", "head.predict.1"),
    *("neck.reduce.0", "neck.smooth.0", "head.predict.0"),
)
DARKNET_ORDER: dict[str, tuple[str, ...]] = {
    **{name: ("backbone", "fc") for name, row in BACKBONES.items() if row.init == "darknet"},
    "cspdarknet53_tiny_yolo": _TINY,
    "yolov3_tiny": ("backbone", "neck.entry", *_TINY[1:]),
    "yolov3_tiny_prn": _PRN,
    **dict.fromkeys(("yolov3", "yolov3_spp"), _FPN),
    **dict.fromkeys(("yolov4", "cspdarknet53_panet_spp", "cspresnet50_panet_spp", "cspresnext50_panet_spp"), _PAN),
}


def darknet_slots(model: torch.nn.Module, name: str) -> list[Slot]:
    """Return a native model's tensors in the order of its Darknet file.

    Args:
        model: The model.
        name: Its name.

    Raises:
        ConfigError: No Darknet file is known for this model.
    """
    if name not in DARKNET_ORDER:
        raise ConfigError(f"{name} has no known Darknet file; {one_of(name, DARKNET_ORDER)}")
    return module_slots((prefix, model.get_submodule(prefix)) for prefix in DARKNET_ORDER[name])


def load_darknet(model: torch.nn.Module, name: str, path: str | Path) -> WeightsReport:
    """Fill a native model from a Darknet file that fits it exactly.

    Args:
        model: What ``create_model(name)`` returned.
        name: The model's name.
        path: The ``.weights`` file of the released topology.

    Returns:
        What the file holds.

    Raises:
        ConfigError: No Darknet file is known for this model.
        WeightsError: The file does not fit the model exactly, or holds NaN or infinity.
    """
    slots = darknet_slots(model, name)
    report = inspect(path, slots)
    if not report.exact:
        raise WeightsError(f"{report}; expected the weights of {name}")
    return read_into(path, slots)


def read_darknet(path: str | Path, spec: ModelSpec) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read a Darknet file as the tensors of a native model.

    Args:
        path: The ``.weights`` file of the released topology.
        spec: The model that it is of; without preprocessing it gets the published one.

    Returns:
        The spec with its preprocessing, and the tensors.

    Raises:
        ConfigError: The model is unknown, or no Darknet file is known for it.
        WeightsError: The file does not fit the model exactly, or holds NaN or infinity.
    """
    network = find(spec.name).build(spec)
    load_darknet(network, spec.name, path)
    return replace(spec, preprocessing=network.preprocessing), network.state_dict()


def convert_darknet(
    weights: str | Path,
    out: str | Path,
    *,
    model: str,
    names: str | Path,
    source: str,
    licence: str,
    trained_on: str,
    half: bool = True,
) -> ModelSpec:
    """Convert Darknet weights to a model file; equal input gives equal bytes.

    Args:
        weights: The ``.weights`` file.
        out: The ``.safetensors`` file to write.
        model: Name of the native model, without a tag.
        names: Text file with a class name in each line.
        source: What was trained and by whom, for the header.
        licence: Licence of the weights, for the header.
        trained_on: The training data, for the header.
        half: Store float16 instead of float32.

    Returns:
        The header that was written.

    Raises:
        ConfigError: The model is unknown, no Darknet file is known for it, or the names cannot be read.
        WeightsError: The weights do not fit the model, a file cannot be read or written, or a value is beyond float16.
    """
    name = parse(model, ("model",)).name
    class_names = read_names(names)
    provenance = Provenance(
        source=source,
        licence=licence,
        source_file=Path(weights).name,
        sha256=hashlib.sha256(Path(weights).read_bytes()).hexdigest(),
        trained_on=trained_on,
    )
    spec, state = read_darknet(
        weights, replace(default_spec(name, len(class_names), class_names), provenance=provenance)
    )
    write_model(out, halved(state, weights) if half else state, spec)
    return spec
