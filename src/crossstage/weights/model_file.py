"""Model files: safetensors whose header holds the :class:`~crossstage.models.spec.ModelSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossstage.errors import WeightsError
from crossstage.files import whole_file
from crossstage.models.spec import ModelSpec

_KEY = "crossstage"  # the only key of the header: with more, their order in the file would be random


def write_model(path: str | Path, state: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write a model file, which appears when it is complete. Equal content gives equal bytes.

    Args:
        path: The file, in a folder that is there.
        state: The model's tensors by name.
        spec: What rebuilds the model.

    Raises:
        WeightsError: The file cannot be written.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with whole_file(path, error=WeightsError, parents=False) as temporary:
        try:
            save_file(tensors, temporary, metadata={_KEY: spec.to_json()})
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
        WeightsError: The file cannot be read or is not a crossstage model.
    """
    with _open(path) as file:
        spec = _spec(file, path)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
    return spec, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _open(path: str | Path) -> safe_open:
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        hint = "" if Path(path).suffix == ".safetensors" else "; expected a model file, or one that a backend runs"
        raise WeightsError(f"{path}: not a safetensors file: {error}{hint}") from None


def _spec(file: safe_open, path: str | Path) -> ModelSpec:
    metadata = file.metadata() or {}
    if _KEY not in metadata:
        raise WeightsError(f"{path}: its header has no {_KEY!r} entry; expected a model written by crossstage")
    return ModelSpec.from_json(metadata[_KEY], str(path))
