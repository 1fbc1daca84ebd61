"""Digests of detectors in ../shared/parity: outputs of the authors' own code for weights that a rule makes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

PARITY = Path(__file__).parents[2] / "shared" / "parity"


@dataclass(frozen=True)
class Digest:
    """What was stored of a network.

    Attributes:
        entry: Its entry in the index: keys, losses, targets.
        arrays: The stored values.
        state: The tensors by the authors' names.
        image: The input as bytes.
    """

    entry: dict[str, Any]
    arrays: dict[str, Any]
    state: dict[str, Tensor]
    image: Tensor

    def error(self, name: str, value: Tensor) -> float:
        """Return the largest difference to the stored values, relative to the largest of them."""
        return _module("compare").error(self.arrays, name, value.detach().numpy())

    def gradient_error(self, name: str, model: nn.Module, names: dict[str, str]) -> float:
        """Return the largest difference of a parameter's gradient norm to the stored one, relative to the largest.

        Args:
            name: The stored array.
            model: A model whose backward pass has run.
            names: Our names of the parameters by the authors'.
        """
        parameters = dict(model.named_parameters())
        norms = []
        for key in self.entry["gradients"][name]["parameters"]:
            gradient = parameters[names[key]].grad
            assert gradient is not None, key
            norms.append(float(gradient.norm()))
        stored = self.arrays[name]
        return float(np.abs(np.array(norms) - stored).max() / np.abs(stored).max())


def digest(name: str) -> Digest:
    """Read a digest; skips the test where there is none."""
    if not (PARITY / f"{name}.npz").is_file():
        pytest.skip(f"the authors' outputs are not at {PARITY / name}.npz")
    compare, rule = _module("compare"), _module("rule")
    entry = compare.entry(name)
    filled = rule.fill(dict(entry["keys"]), entry["seed"], entry["gains"], entry["aliases"], entry["shifts"])
    state = {key: torch.from_numpy(np.asarray(value)) for key, value in filled.items()}
    image = torch.from_numpy(rule.image(entry["input"]["image_seed"], entry["input"]["shape"]))
    return Digest(entry, compare.arrays(name), state, image)


def places(adapt: Any, state: dict[str, Tensor]) -> dict[str, str]:
    """Return our names of tensors by the authors', for an adapter that changes no tensor but its name."""
    marked = {key: torch.tensor(float(number)) for number, key in enumerate(state)}
    ours = {int(tensor.item()): name for name, tensor in adapt(marked, "parity").items()}
    return {key: ours[number] for number, key in enumerate(state) if number in ours}


def _module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"parity_{name}", PARITY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
