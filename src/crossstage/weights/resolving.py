"""Networks by name, without their weights: ours, Darknet's files, other libraries', and the user's own."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from crossstage import darknet
from crossstage.errors import ConfigError
from crossstage.models.registry import find
from crossstage.nn.channels import input_channels
from crossstage.weights.peers import LIBRARIES
from crossstage.weights.ref import NETWORKS, Ref, parse
from crossstage.weights.stored import stored_spec

SIDE = 224  # in pixels, of images for a network that does not say what it is for

Shape = tuple[int, int, int]
"""Channels, height and width."""


@dataclass(frozen=True)
class Resolved:
    """A network, initialised at random or on the meta device.

    Attributes:
        name: What was asked for.
        module: The network, in evaluation mode.
        input_shape: Channels, height and width of the images that it is for.
    """

    name: str
    module: nn.Module
    input_shape: Shape


def resolve(name: str | Path | Ref, device: str = "meta") -> Resolved:
    """Build the network that a name stands for; no weights are read or fetched.

    Args:
        name: A name of :func:`~crossstage.weights.cards.list_models`, with or without a tag, or
            ``<backbone>_<neck>[_<head>]``; a model file or the folder of a training; a Darknet ``.cfg``;
            ``"timm:<name>"`` or ``"torchvision:<name>"``, our network that is the same as the library's;
            ``"timm-network:<name>"`` or ``"torchvision-network:<name>"``, any network of the library itself; or
            ``"path/to/file.py:function"``, which is run: a function or class that takes no arguments and gives a
            module, or a module. Until version 0.1.0 ``"timm:<name>"`` was the library's own network here.
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
    ref = parse(name, NETWORKS)
    try:
        with torch.device(device):
            module, shape = _built(ref)
    except (RuntimeError, NotImplementedError):
        if device != "meta":
            raise
        return resolve(ref, "cpu")
    return Resolved(ref.text, module.eval(), shape)


def input_of(module: nn.Module) -> Shape:
    """Return a module's input: its channels, 3 if nothing tells; the size of its preprocessing, else 224 pixels."""
    height, width = getattr(getattr(module, "preprocessing", None), "size", (SIDE, SIDE))
    return input_channels(module) or 3, height, width


def _built(ref: Ref) -> tuple[nn.Module, Shape]:
    if ref.kind == "peer-network":
        return LIBRARIES[ref.library].build(ref.name, ref.tag)
    if ref.kind == "cfg":
        network = darknet.DarknetNetwork.from_cfg(ref.file)
        return network, (network.input_shape.channels, network.input_shape.height, network.input_shape.width)
    if ref.kind == "function":
        module = _own(ref.file, ref.name)
        return module, input_of(module)
    spec = stored_spec(ref)
    entry = find(spec.name)
    model = entry.build(spec)
    size = model.preprocessing.size if model.preprocessing else entry.input_size
    return model, (input_of(model)[0], *size)


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
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigError(f"{place}: {what}") from error
