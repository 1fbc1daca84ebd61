"""What a reference to weights stands for: a spec and tensors, wherever they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from crossstage.errors import ConfigError
from crossstage.models.detector import AUXILIARY
from crossstage.models.registry import Model, default_spec, find
from crossstage.models.spec import ModelSpec, Provenance
from crossstage.weights.checkpoints import read_checkpoint
from crossstage.weights.from_authors import adopted
from crossstage.weights.from_darknet import read_darknet
from crossstage.weights.from_peer import load_peer
from crossstage.weights.model_file import halved, read_model, read_spec, write_model
from crossstage.weights.peers import PEERS
from crossstage.weights.published import PRETRAINED, Pretrained, weights_of
from crossstage.weights.ref import TRAINED, Ref, check_twin, parse
from crossstage.weights.skeleton import check_tensors, skeleton

RUN_FILES = ("best.safetensors", "last.safetensors")
"""Model files in the folder of a training; the first that is there is its result."""


@dataclass(frozen=True)
class Stored:
    """Weights that have been read.

    Attributes:
        spec: The model that they are of.
        state: The model's tensors by name, floats as float32.
        source: Where they were read, for messages.
        model: The model of the spec on torch's meta device, against which a file was checked; nobody else has it. None
            where the weights are no file's.
    """

    spec: ModelSpec
    state: Mapping[str, Tensor]
    source: str
    model: Model | None = None


def with_weights(ref: Ref) -> Ref:
    """Return the reference to the weights that a model's bare name stands for; others are returned as they are.

    Raises:
        ConfigError: The model has no weights.
    """
    if ref.kind != "model":
        return ref
    if not (there := weights_of(ref.name)):
        raise ConfigError(
            f"{ref} has no weights yet; create_model({ref.text!r}) builds it untrained, and there are weights of "
            f"{', '.join(sorted(PRETRAINED))}"
        )
    return parse(there[0])


def read_stored(ref: Ref) -> Stored:
    """Read weights; those of the net are fetched first if need be.

    Args:
        ref: A reference of a kind in :data:`~crossstage.weights.ref.TRAINED`.

    Raises:
        ConfigError: It is a folder without weights, a peer without a twin, or its library is not installed.
        WeightsError: A file is damaged or not ours, or weights cannot be fetched.
    """
    if ref.kind == "peer":
        model, spec = load_peer(ref)
        return Stored(spec, model.state_dict(), str(ref))
    if ref.kind == "weights":
        return _published(PRETRAINED[ref.tagged])
    path = _file(ref)
    spec, state = read_model(path)
    model = skeleton(spec, str(path))
    check_tensors(str(path), without_auxiliary(state), model.state_dict(), spec.name)
    return Stored(spec, state, str(path), model)


def stored_spec(ref: Ref) -> ModelSpec:
    """Return the spec of a model or of weights; nothing but headers is read, and nothing is fetched.

    Of weights in the net that have not been fetched, and of a peer's, the number of classes is the published one.

    Args:
        ref: A reference of kind "model" or of one in :data:`~crossstage.weights.ref.TRAINED`.

    Raises:
        ConfigError: It is a folder without weights, or a peer without a twin.
        WeightsError: A file is damaged or not ours.
    """
    if ref.kind in ("file", "run"):
        spec = read_spec(_file(ref))
        skeleton(spec, str(ref))
        return spec
    if ref.kind == "peer":
        check_twin(ref)
        twin = PEERS[ref.peer]
        return default_spec(twin.model, find(twin.model).num_classes, overrides=twin.settings)
    known = PRETRAINED[ref.tagged].spec() if ref.kind == "weights" else None
    return known or default_spec(ref.name, find(ref.name).num_classes)


def pack(
    model: str | Path | Ref, out: str | Path, *, source: str, licence: str, trained_on: str, half: bool = True
) -> ModelSpec:
    """Write a model file that can be passed on; equal input gives equal bytes.

    What serves training alone is left out.

    Args:
        model: Weights: the folder of a training, a model file, a name with a tag, or weights of another library.
        out: The ``.safetensors`` file to write.
        source: What was trained and by whom, for the header.
        licence: Licence of the weights, for the header.
        trained_on: The training data, for the header.
        half: Store float16, which halves the file.

    Returns:
        The header that was written.

    Raises:
        ConfigError: The name is unknown or has no weights.
        WeightsError: A file cannot be read or written, or a value is beyond float16.
    """
    stored = read_stored(with_weights(parse(model, ("model", *TRAINED))))
    spec = replace(stored.spec, provenance=Provenance(source, licence, trained_on=trained_on))
    state = without_auxiliary(stored.state)
    write_model(out, halved(state, stored.source) if half else state, spec)
    return spec


def without_auxiliary(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's tensors without those that serve training alone."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(AUXILIARY)}


def _published(weights: Pretrained) -> Stored:
    path = weights.verified_path()
    if weights.kind == "safetensors":
        return Stored(*read_model(path), str(path))
    spec = weights.spec()
    assert spec is not None
    if weights.kind == "darknet":
        return Stored(*read_darknet(path, spec), str(path))
    model, found = adopted(spec.name, read_checkpoint(path), spec.class_names, str(path))
    return Stored(replace(found, provenance=spec.provenance), model.state_dict(), str(path))


def _file(ref: Ref) -> Path:
    """Return the model file of a reference of kind "file" or "run".

    Raises:
        ConfigError: The folder holds none.
    """
    if ref.kind == "file":
        return ref.file
    for name in RUN_FILES:
        if (ref.file / name).is_file():
            return ref.file / name
    raise ConfigError(f"{ref}: no weights; expected a training's folder with {' or '.join(RUN_FILES)}")
