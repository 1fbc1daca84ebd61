"""Checkpoints as training code of others writes them, read without running anything that they hold.

A ``.pth`` or ``.pt`` file is a pickle, which could run any code. It is read by torch's reader for weights alone, which
builds tensors and plain values; logs and numbers of NumPy are passed over, all else is refused by its name. Training
code wraps the tensors: beside the state of an optimiser under ``"model"`` (YOLOX), under ``"state_dict"`` (OpenMMLab),
or averaged ones, which come first, under ``"ema"``.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from crossstage.errors import WeightsError, first_line

WRAPPERS = ("ema", "state_dict", "model_state_dict", "model", "module")
"""Keys that hold the tensors, or another of these; the first that is there counts.

OpenMMLab's ``"ema_state_dict"`` is none of them: its averaged weights are under ``"state_dict"``, the others there.
"""


class _PassedOver:
    """Stands where a file holds what no weights are made of; it takes anything and keeps nothing."""

    def __new__(cls, *_: Any) -> _PassedOver:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Keep nothing."""


_ARRAYS = tuple(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct"))
_PASSED_OVER: list[Any] = [
    (_PassedOver, name)
    for name in (
        *_ARRAYS,  # YOLOX keeps its AP as a number of NumPy
        "numpy.dtype",
        "numpy.ndarray",
        "_codecs.encode",
        "builtins.getattr",
        "mmengine.logging.history_buffer.HistoryBuffer",  # OpenMMLab's log
    )
]
"""What is not built, without the rest of its file being refused."""


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by the names that they have there, floats as float32.

    Args:
        path: A file of torch's, or ``.safetensors``.

    Raises:
        WeightsError: The file cannot be read, wants more than tensors and plain values, or holds no tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a checkpoint of torch: {first_line(error)}") from None
    state = unwrapped(content, str(path))
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def unwrapped(content: Any, source: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's content.

    Args:
        content: Tensors by name, or a mapping that holds these under one of :data:`WRAPPERS`, at any depth.
        source: What it is, for messages.

    Raises:
        WeightsError: There are no tensors by name.
    """
    if not isinstance(content, Mapping):
        raise WeightsError(f"{source}: holds a {type(content).__name__}; expected tensors by name")
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return unwrapped(content[key], source)
    if tensors := {str(name): value for name, value in content.items() if isinstance(value, Tensor)}:
        return tensors
    named = f"its keys are {', '.join(map(str, list(content)[:8]))}" if content else "it is empty"
    raise WeightsError(f"{source}: holds no tensors by name; {named}; expected one of {', '.join(WRAPPERS)}")


def _unpickled(path: Path) -> Any:
    """Read a pickle of torch's, of tensors and plain values alone.

    Raises:
        WeightsError: It wants anything else.
    """
    try:
        with torch.serialization.safe_globals(_PASSED_OVER):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = [line for line in str(error).splitlines() if "GLOBAL" in line or "global" in line]
        said = wanted[0].strip() if wanted else first_line(error)
        raise WeightsError(
            f"{path}: wants to build more than tensors and plain values, which could run code, and is not read: {said}"
        ) from None
