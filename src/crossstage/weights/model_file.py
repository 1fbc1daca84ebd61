"""Model files: safetensors whose header holds the :class:`~crossstage.models.spec.ModelSpec`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossstage.errors import WeightsError
from crossstage.models.spec import ModelSpec, Provenance

_KEY = "crossstage"  # the only key of the header: with more, their order in the file would be random


def write_model(path: str | Path, state: Mapping[str, Tensor], spec: ModelSpec) -> None:
    """Write tensors and spec beside ``path``, then move them there. Equal content gives equal bytes.

    Raises:
        WeightsError: The file cannot be written.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            save_file(tensors, temporary, metadata={_KEY: spec.to_json()})
            temporary.chmod(0o644)
            temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from None


def halved(state: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Floats as float16; ``source`` is for the message.

    Raises:
        WeightsError: A value is beyond float16.
    """
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for name, tensor in halves.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"{source}: {name} has values beyond float16; write it without half")
    return halves


def pack(
    source: str | Path, out: str | Path, *, told: str, licence: str, trained_on: str, half: bool = True
) -> ModelSpec:
    """Write a model file that can be passed on; equal input gives equal bytes.

    Args:
        source: A model file.
        out: The ``.safetensors`` file to write.
        told: What was trained and by whom, for the header.
        licence: Licence of the weights, for the header.
        trained_on: The training data, for the header.
        half: Store float16, which halves the file.

    Returns:
        The header that was written.

    Raises:
        WeightsError: A file cannot be read or written, or a value is beyond float16.
    """
    spec, state = read_model(source)
    spec = replace(spec, provenance=Provenance(told, licence, trained_on=trained_on))
    write_model(out, halved(state, source) if half else state, spec)
    return spec


def read_spec(path: str | Path) -> ModelSpec:
    """Read a model file's header.

    Raises:
        WeightsError: The file cannot be read or is not a crossstage model.
    """
    with _open(path) as file:
        return _spec(file, path)


def read_model(path: str | Path) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read a model file: its spec and its tensors, floats as float32.

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
        raise WeightsError(f"{path}: not a safetensors file: {error}") from None


def _spec(file: safe_open, path: str | Path) -> ModelSpec:
    metadata = file.metadata() or {}
    if _KEY not in metadata:
        raise WeightsError(f"{path}: its header has no {_KEY!r} entry; expected a model written by crossstage")
    return ModelSpec.from_json(metadata[_KEY], str(path))
