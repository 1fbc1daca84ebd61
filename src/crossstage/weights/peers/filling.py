"""A network of ours that takes all of its tensors from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from crossstage.errors import WeightsError
from crossstage.weights.peers.base import State


def fill(model: nn.Module, state: State, source: str, spared: Iterable[str] = ()) -> None:
    """Fill a model with tensors that are its own by name and shape.

    Args:
        model: The model, which is changed in place.
        state: The tensors. The counts of batches that norms keep may be missing.
        source: Where they come from, for messages.
        spared: Names of tensors that may be missing, too, and then stay as they are.

    Raises:
        WeightsError: A tensor is missing, is too many, or has another shape.
    """
    own = model.state_dict()
    optional = {key for key in own if key.endswith("num_batches_tracked")} | set(spared)
    for key in sorted(own.keys() | state.keys()):
        found = tuple(state[key].shape) if key in state else "missing"
        expected = tuple(own[key].shape) if key in own else "no such tensor"
        if found != expected and not (found == "missing" and key in optional):
            raise WeightsError(f"{source}: {key} is {found}; expected {expected}")
    model.load_state_dict({**own, **state})
