"""Networks from Darknet's files: built, filled, described, checked and written."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from crossstage.darknet.network import DarknetNetwork, LayerRow
from crossstage.darknet.weights import WeightsReport, check_whole_layers, inspect, read_into, save_slots
from crossstage.errors import WeightsError


def load(cfg: str | Path, weights: str | Path | None = None, *, whole: bool = False) -> DarknetNetwork:
    """Build a network from a Darknet cfg and, if given, fill it from a weights file.

    Every shape and size is worked out, and the length of the weights file compared, before memory is taken.

    Args:
        cfg: The ``.cfg`` file.
        weights: The ``.weights`` file; without one the network is initialised at random. A file that ends between two
            layers, as those of backbones do, fills the layers up to there, with a warning.
        whole: Refuse such a file instead: a network that is to find something needs all of its layers.

    Returns:
        The network in evaluation mode.

    Raises:
        ConfigError: The cfg cannot be read, or its network cannot be built; the message names file and line.
        WeightsError: The weights file ends inside a layer, holds more than the network, NaN or infinity, or is no
            weights file.

    Example:
        >>> network = load("yolov4-tiny.cfg", "yolov4-tiny.weights")  # doctest: +SKIP
        >>> boxes, scores = network.detections(torch.rand(1, 3, 416, 416))  # doctest: +SKIP
    """
    with torch.device("meta"):
        network = DarknetNetwork.from_cfg(cfg)
    if weights is None:
        _materialize(network, filled=0)
        return network.eval()
    report = inspect(weights, network.slots())
    check_whole_layers(report)
    if report.surplus:
        raise WeightsError(f"{report}; expected none: are cfg and weights of the same network?")
    if report.missing and whole:
        raise WeightsError(f"{report}; expected weights of all layers: is the file cut off?")
    if report.missing:
        warnings.warn(str(report), stacklevel=2)
    _materialize(network, filled=len(report.filled))
    read_into(weights, network.slots())
    network.header = report.header
    return network.eval()


def describe(cfg: str | Path) -> list[LayerRow]:
    """Return one row for each layer of a cfg's network, without building it.

    Args:
        cfg: The ``.cfg`` file.

    Raises:
        ConfigError: The cfg cannot be read, or its network cannot be built.
    """
    with torch.device("meta"):
        return DarknetNetwork.from_cfg(cfg).table()


def check_weights(cfg: str | Path, weights: str | Path) -> WeightsReport:
    """Tell whether a weights file fills a cfg's network exactly, is short or has surplus, from its length alone.

    Args:
        cfg: The ``.cfg`` file.
        weights: The ``.weights`` file.

    Raises:
        ConfigError: The cfg cannot be read, or its network cannot be built.
        WeightsError: The weights file cannot be read.
    """
    with torch.device("meta"):
        return inspect(weights, DarknetNetwork.from_cfg(cfg).slots())


def save_weights(network: DarknetNetwork, path: str | Path) -> None:
    """Write a network's parameters as a Darknet ``.weights`` file.

    Args:
        network: The network.
        path: The file to write.

    Raises:
        WeightsError: The file cannot be written.
    """
    save_slots(path, network.slots(), network.header)


def _materialize(network: DarknetNetwork, filled: int) -> None:
    """Give a network on the meta device memory, and initialise all but its first ``filled`` slots."""
    network.to_empty(device="cpu")
    ready = {tensor.data_ptr() for slot in network.slots()[:filled] for tensor in slot.tensors}
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is None:
            continue
        untouched = all(parameter.data_ptr() not in ready for parameter in module.parameters(recurse=False))
        if untouched or isinstance(module, nn.modules.batchnorm._BatchNorm):
            reset()
