"""Model files: safetensors whose header holds the :class:`~crossstage.models.spec.ModelSpec`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossstage.errors import WeightsError, first_line
from crossstage.files import whole_file
from crossstage.models.spec import HASH, ModelSpec

_KEY = "crossstage"  # the only key of the header: with more, their order in the file would be random


def write_model(path: str | Path, state: Mapping[str, Tensor], spec: ModelSpec, *, hashed: bool = False) -> None:
    """Write a model file, which appears when it is complete. Equal content gives equal bytes.

    Args:
        path: The file, in a folder that is there.
        state: The model's tensors by name.
        spec: What rebuilds the model.
        hashed: Whether the header holds a hash of the tensors, by which damage is found when the file is read.

    Raises:
        WeightsError: The file cannot be written.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with whole_file(path, error=WeightsError, parents=False) as temporary:
        try:
            save_file(tensors, temporary, metadata={_KEY: spec.to_json(_digest(tensors) if hashed else "")})
        except SafetensorError as error:
            raise WeightsError(f"{path}: cannot be written: {error}") from None
        temporary.chmod(0o644)


def halved(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Return the tensors with floats as float16.

    Args:
        state: Tensors by name.
        source: Where they come from, for messages.

    Raises:
        WeightsError: A value is beyond float16.
    """
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name, tensor in halves.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{source}: {name} has values beyond float16; write it without half")
    return halves


def read_spec(path: str | Path) -> ModelSpec:
    """Read what a model file's header says of the model.

    Args:
        path: The file.

    Raises:
        WeightsError: The file cannot be read or is not a crossstage model.
    """
    with _open(path) as file:
        return _spec(file, path)


def read_model(path: str | Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read a model file.

    Args:
        path: The file.

    Returns:
        What rebuilds the model, and its tensors by name, floats as float32.

    Raises:
        WeightsError: The file cannot be read, is damaged, holds NaN or infinity, or is not a crossstage model.
    """
    with _open(path) as file:
        spec, digest = _spec(file, path), _hash_in(file)
        try:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise WeightsError(f"{path}: cannot be read: {first_line(error)}") from None
    if digest and digest != _digest(state):
        raise WeightsError(f"{path}: damaged: its tensors are not those that were written, by the hash in its header")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f"{path}: {name} holds NaN or infinity; expected finite values")
    return spec, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of tensors, of their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hash_in(file: safe_open) -> str:
    """Return the hash in a header that was read; empty if it has none."""
    return str(json.loads((file.metadata() or {})[_KEY]).get(HASH) or "")


def _open(path: str | Path) -> safe_open:
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a safetensors file: {first_line(error)}{_hint(Path(path))}") from None


def _hint(path: Path) -> str:
    """Return the end of a message about a file that is no model file, by what its ending says that it is."""
    ending = path.suffix.lower()
    if ending in (".weights", ".names"):
        beside = path.with_suffix(".cfg")
        network = beside.name if beside.is_file() else "its .cfg"
        return f"; Darknet's weights are loaded by their network: --model {network}"
    if ending in (".pt", ".pth", ".ckpt", ".bin"):
        return "; a checkpoint of training code becomes a model file by: crossstage import FILE --as NAME"
    if ending in (".torchscript", ".pt2"):
        return "; it is for other programs, in C++ and elsewhere: name the model that it was exported from"
    if path.name.lower().endswith(".onnx.data"):
        return f"; it holds the weights of {path.stem}, which is the file to name"
    return "" if ending == ".safetensors" else "; expected a model file, or one that a backend runs"


def _spec(file: safe_open, path: str | Path) -> ModelSpec:
    metadata = file.metadata() or {}
    if _KEY not in metadata:
        raise WeightsError(f"{path}: its header has no {_KEY!r} entry; expected a model written by crossstage")
    return ModelSpec.from_json(metadata[_KEY], str(path))
