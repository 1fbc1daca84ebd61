"""The networks of a benchmark: made by name, and what a pass of one costs."""

from __future__ import annotations

import torch

from crossstage.analysis import count_flops
from crossstage.errors import ConfigError
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.models.registry import Model, lookup
from crossstage.weights.loading import LOADED, create_model, load
from crossstage.weights.published import PRETRAINED, weights_of
from crossstage.weights.ref import parse


def named_model(name: str) -> Model:
    """Return a model by name or file, with weights if there are any: speed does not depend on them.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: The file is damaged.
    """
    ref = parse(name, LOADED)
    if ref.kind != "model" or any(not PRETRAINED[weights].url for weights in weights_of(ref.name)):
        return load(ref)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # exported files of an earlier run serve again
        model = create_model(name)
    assert isinstance(model, (Detector, Classifier))
    return model.eval()


def own_size(name: str, model: Model) -> int:
    """Return the side of the square input that a model is benchmarked at, in pixels, unless another is asked for.

    Raises:
        ConfigError: Neither the model nor the table of models knows one.
    """
    if model.preprocessing is not None:
        return max(model.preprocessing.size)
    if entry := lookup(name):
        return max(entry.input_size)
    raise ConfigError(f"{name} does not know its input's size; expected imgsz")


def billions(model: torch.nn.Module, size: int) -> float:
    """Return the GFLOPs of a pass with one image, two for each multiply-add.

    Args:
        model: Any network.
        size: Side of the input in pixels.
    """
    return count_flops(model, (1, 3, size, size)) / 1e9
