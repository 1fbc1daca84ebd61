"""Networks by name, without their weights: ours, Darknet's files, other libraries', and the user's own."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossstage import darknet
from crossstage.errors import ConfigError
from crossstage.models.registry import default_spec, find
from crossstage.weights.model_file import read_spec
from crossstage.weights.starting import weights_file

SIDE = 224  # of images for a network that tells of none


@dataclass(frozen=True)
class Resolved:
    """A network, initialised at random or on the meta device.

    Attributes:
        name: What it was asked for by.
        module: The network, in evaluation mode.
        input_shape: Channels, height and width of the images that it is for.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, int, int]


def resolve(name: str | Path, device: str = "meta") -> Resolved:
    """Build the network that a name stands for; no weights are read or fetched.

    Args:
        name: A name of :func:`~crossstage.weights.registry.list_models`, with or without a tag, or ``<backbone>_<neck>``; a model
            file or the folder of a training; a Darknet ``.cfg``; ``"timm:<name>"`` or ``"torchvision:<name>"``, the
            library's own network; or ``"path/to/file.py:function"``, which is run: a function or class that takes no
            arguments and gives a module, or a module.
        device: Where the tensors are; on ``"meta"`` they take no memory. A network whose construction needs values is
            built on the CPU all the same.

    Raises:
        ConfigError: The name is unknown, a file or function is not there, or a user's file fails; the message names its
            line.
        WeightsError: A model file is damaged.

    Example:
        >>> found = resolve("csppeleenet")
        >>> found.input_shape, next(found.module.parameters()).device.type
        ((3, 224, 224), 'meta')
    """
    build = _builder(str(name))
    try:
        with torch.device(device):
            module, shape = build()
    except (RuntimeError, NotImplementedError):
        if device != "meta":
            raise
        return resolve(name, "cpu")
    return Resolved(str(name), module.eval(), shape or input_of(module))


def input_of(module: nn.Module) -> tuple[int, int, int]:
    """A module's input: channels of its first convolution; height and width of its preprocessing, else 224 pixels."""
    convolutions = (each for each in module.modules() if isinstance(each, nn.Conv2d))
    channels = next((each.in_channels for each in convolutions), 3)
    height, width = getattr(getattr(module, "preprocessing", None), "size", (SIDE, SIDE))
    return channels, height, width


Built = tuple[nn.Module, tuple[int, int, int] | None]


def _builder(name: str) -> Callable[[], Built]:
    library, _, rest = name.partition(":")
    if library == "timm":
        return lambda: _timm(rest)
    if library == "torchvision":
        return lambda: _torchvision(rest)
    if name.endswith(".cfg"):
        return lambda: _darknet(name)
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return lambda: (_own(Path(file), function), None)
    if name.endswith(".py"):
        raise ConfigError(f"{name}: expected the name of a function too, as in {name}:build")
    return lambda: _ours(name)


def _ours(name: str) -> Built:
    file = weights_file(name)
    if file is None:
        entry = find(name)
        module = entry.build(default_spec(name, entry.num_classes))
    else:
        spec = read_spec(file)
        entry = find(spec.name)
        module = entry.build(spec)
    channels, *_ = input_of(module)
    size = module.preprocessing.size if module.preprocessing else entry.input_size
    return module, (channels, *size)


def _darknet(cfg: str) -> Built:
    network = darknet.DarknetNetwork.from_cfg(cfg)
    return network, (network.input_shape.channels, network.input_shape.height, network.input_shape.width)


def _timm(name: str) -> Built:
    try:
        import timm
    except ImportError:
        raise ConfigError("timm is not installed; try: pip install crossstage[timm]") from None
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise ConfigError(f"timm has no network {base!r}{_nearest(base, timm.list_models())}")
    module: Any = timm.create_model(base)
    return module, tuple(module.pretrained_cfg["input_size"])


def _torchvision(name: str) -> Built:
    from torchvision import models

    base, _, tag = name.partition(".")
    if base not in models.list_models():
        raise ConfigError(f"torchvision has no network {base!r}{_nearest(base, models.list_models())}")
    builder = models.get_model_builder(base)
    parts = {"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys()
    with warnings.catch_warnings():  # of how Inception's initialisation will change
        warnings.simplefilter("ignore", FutureWarning)
        module = builder(**dict.fromkeys(parts))
    weights = models.get_model_weights(base)
    transforms = (weights[tag] if tag in weights.__members__ else weights["DEFAULT"]).transforms()
    sizes = getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None) or [SIDE]
    return module, (3, sizes[0], sizes[-1])


def _nearest(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _own(file: Path, function: str) -> nn.Module:
    """Run a user's file, and its function."""
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    with _beside(file), _blamed(file):
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec and spec.loader
        namespace = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(namespace)
        if not hasattr(namespace, function):
            there = [name for name, value in vars(namespace).items() if callable(value) and not name.startswith("_")]
            raise ConfigError(f"{file}: has no {function!r}; expected one of {', '.join(there) or 'its functions'}")
        found = getattr(namespace, function)
        made = found if isinstance(found, nn.Module) or not callable(found) else found()
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{file}: {function} gives a {type(made).__name__}; expected a torch.nn.Module")
    return made


@contextmanager
def _beside(file: Path) -> Iterator[None]:
    """Let a file import those beside it, as it may when it is run."""
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


@contextmanager
def _blamed(file: Path) -> Iterator[None]:
    """Turn whatever a user's file raises into an error that names its line."""
    try:
        yield
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError) and error.filename == str(file):
            line = error.lineno
        else:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
            line = lines[-1] if lines else None
        place = f"{file}:{line}" if line else str(file)
        told = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigError(f"{place}: {told}") from error
