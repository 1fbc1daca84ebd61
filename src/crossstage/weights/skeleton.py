"""The model that a header describes, without memory for its tensors: what a file says is checked against it.

Files come from anywhere. Whatever is wrong with a header shows here, once, before anything takes memory: a model that
cannot be built, and tensors that are not the model's own.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from crossstage.errors import CrossStageError, WeightsError, did_you_mean, first_line
from crossstage.models.registry import REGISTRY, Model, lookup
from crossstage.models.spec import ModelSpec


def skeleton(spec: ModelSpec, source: str) -> Model:
    """Build the model of a header on torch's meta device, in evaluation mode.

    Args:
        spec: The header.
        source: Where it stands, for messages.

    Raises:
        WeightsError: It describes no model.
    """
    entry = lookup(spec.name)
    if entry is None:
        hint = did_you_mean(spec.name[:80], REGISTRY) or "; `crossstage models` lists those that there are"
        raise WeightsError(f"{source}: holds a {spec.name[:80]!r}, which is unknown{hint}")
    try:
        with torch.device("meta"):
            return entry.build(spec).eval()
    except CrossStageError as error:
        raise WeightsError(f"{source}: its header describes a {spec.name} that cannot be built: {error}") from error
    except Exception as error:  # values of every kind end up in every constructor
        what = f"{type(error).__name__}: {first_line(error)}"
        raise WeightsError(f"{source}: its header describes a {spec.name} that cannot be built: {what}") from error


def check_tensors(source: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor], name: str) -> None:
    """Refuse tensors that are not the model's own by name, shape and kind of number.

    Args:
        source: Where they were read, for messages.
        state: The tensors.
        own: Those of the model.
        name: The model's name, for messages.

    Raises:
        WeightsError: They are not.
    """

    def described(tensors: Mapping[str, Tensor], key: str) -> str:
        if key not in tensors:
            return "missing"
        return f"{'float' if tensors[key].is_floating_point() else 'integer'} {tuple(tensors[key].shape)}"

    for key in sorted(own.keys() | state.keys()):
        if (found := described(state, key)) != (expected := described(own, key)):
            raise WeightsError(f"{source}: {key} is {found}; expected {expected} for a {name}")
