"""Detectors of ours with checkpoints of their authors' own code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossstage.errors import ConfigError, did_you_mean
from crossstage.models.detector import AUXILIARY, Detector
from crossstage.models.registry import Model, default_spec, find
from crossstage.models.spec import ModelSpec, Provenance
from crossstage.weights.authors import AUTHORS
from crossstage.weights.checkpoints import read_checkpoint, unwrapped
from crossstage.weights.model_file import halved, write_model
from crossstage.weights.peers.filling import fill
from crossstage.weights.published import PRETRAINED

UNSTATED = "not stated; that of the checkpoint holds"


def from_authors(name: str, state: Mapping[str, Any], class_names: Sequence[str] | None = None) -> Model:
    """Build a detector and fill it with the tensors of its authors' code.

    Args:
        name: Our name of the detector, such as ``"yolox_tiny"``.
        state: The tensors by the authors' names, or what their file holds these in, such as
            ``torch.load(file, weights_only=True)``.
        class_names: Names by class id; by default those of the authors' own weights, if known, else "0", "1" and so on.

    Returns:
        The detector in evaluation mode; where the tensors hold a branch that serves training, the detector has it, too.

    Raises:
        ConfigError: There is no such detector, or there are more or fewer names than classes.
        WeightsError: The tensors are not those of this detector.
    """
    return adopted(name, state, class_names)[0]


def adopted(
    name: str, state: Mapping[str, Any], class_names: Sequence[str] | None = None, source: str = ""
) -> tuple[Model, ModelSpec]:
    """Build a detector as :func:`from_authors` does; return what rebuilds it, too.

    Args:
        name: Our name of the detector.
        state: The tensors by the authors' names, or what holds them.
        class_names: Names by class id.
        source: Where the tensors are from, for messages; by default the detector's name.

    Raises:
        ConfigError: See :func:`from_authors`.
        WeightsError: See there.
    """
    if name not in AUTHORS:
        hint = did_you_mean(name, AUTHORS) or f"; expected one of {', '.join(sorted(AUTHORS))}"
        raise ConfigError(f"{name!r} takes no checkpoint of authors{hint}")
    release, source = AUTHORS[name], source or name
    adapted = release.adapt(unwrapped(state, source), source)
    classes = release.count_classes(adapted)
    if class_names is None and len(release.class_names) == classes:
        class_names = release.class_names
    spec = default_spec(name, classes, class_names, release.settings)
    spec = replace(spec, preprocessing=release.preprocessing)
    model = find(name).build(spec)
    if isinstance(model, Detector) and any(key.startswith(AUXILIARY) for key in adapted):
        model.prepare_training()
    model.eval()
    fill(model, adapted, source)
    return model, spec


def import_checkpoint(
    path: str | Path,
    name: str,
    out: str | Path | None = None,
    *,
    class_names: Sequence[str] | None = None,
    source: str | None = None,
    licence: str | None = None,
    trained_on: str | None = None,
    half: bool = False,
) -> Path:
    """Write a checkpoint of authors' code as a model file of ours.

    Nothing that the checkpoint holds is run. A file that :data:`~crossstage.weights.published.PRETRAINED` knows by its
    hash brings its origin and licence.

    Args:
        path: The checkpoint, see :func:`~crossstage.weights.checkpoints.read_checkpoint`.
        name: Our name of its network, one of :data:`~crossstage.weights.authors.AUTHORS`.
        out: The ``.safetensors`` file to write; by default beside the checkpoint, with the same name.
        class_names: Names by class id; by default as in :func:`from_authors`.
        source: What was trained and by whom, for the header.
        licence: The licence of the weights, for the header.
        trained_on: The training data, for the header.
        half: Store float16, which halves the file.

    Returns:
        The file that was written.

    Raises:
        ConfigError: There is no such network, or there are more or fewer names than classes.
        WeightsError: The checkpoint cannot be read or is of another network, the file cannot be written, or a value is
            beyond float16.
    """
    path = Path(path)
    out = Path(out) if out else path.with_suffix(".safetensors")
    if out.resolve() == path.resolve():
        raise ConfigError(f"{out} is the checkpoint itself; expected another file to write")
    model, spec = adopted(name, read_checkpoint(path), class_names, str(path))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    known = next((entry for entry in PRETRAINED.values() if entry.sha256 == sha256), None)
    origin = Provenance(
        source or (known.source if known else f"A checkpoint of the authors' code of {find(name).source}"),
        licence or (known.licence if known else UNSTATED),
        path.name,
        sha256,
        trained_on or (known.trained_on if known else ""),
    )
    state = model.state_dict()
    write_model(out, halved(state, path) if half else state, replace(spec, provenance=origin))
    return out
