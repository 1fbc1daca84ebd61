"""Detectors of ours with checkpoints of their authors' own code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crossstage.errors import ConfigError, did_you_mean
from crossstage.models.registry import Model, default_spec, find
from crossstage.weights.authors import AUTHORS
from crossstage.weights.peers.base import State
from crossstage.weights.peers.filling import fill


def from_authors(name: str, state: State, class_names: Sequence[str] | None = None) -> Model:
    """Build a detector and fill it with the tensors of its authors' code.

    Args:
        name: Our name of the detector, such as ``"centernet_resnet18"``.
        state: The tensors by the authors' names, such as ``torch.load(file, weights_only=True)["model"]``.
        class_names: Names by class id; by default "0", "1" and so on.

    Returns:
        The detector in evaluation mode.

    Raises:
        ConfigError: There is no such detector, or there are more or fewer names than classes.
        WeightsError: The tensors are not those of this detector.
    """
    if name not in AUTHORS:
        hint = did_you_mean(name, AUTHORS) or f"; expected one of {', '.join(sorted(AUTHORS))}"
        raise ConfigError(f"{name!r} takes no checkpoint of authors{hint}")
    release = AUTHORS[name]
    adapted = release.adapt(state, name)
    spec = default_spec(name, release.count_classes(adapted), class_names, release.settings)
    spec = replace(spec, preprocessing=release.preprocessing)
    model = find(name).build(spec).eval()
    fill(model, adapted, name)
    return model
