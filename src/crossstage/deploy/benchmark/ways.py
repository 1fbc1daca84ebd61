"""The ways to run a network that a benchmark compares, derived from the backends; a table of names without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crossstage.deploy.backends import ordered

NumberType = Literal["fp32", "bf16", "int8"]
"""The numbers that a network is computed in."""

EAGER = "torch-eager"
"""The way in which PyTorch runs a model as it is, without preparing it."""


@dataclass(frozen=True)
class Way:
    """A way to run a network.

    Attributes:
        label: What runs the network, for people.
        backend: The name of the backend that runs it.
        precision: The numbers that it is computed in.
        exported: Whether the backend runs an exported file, rather than the model in this process.
        prepared: Whether the backend prepares the model before it runs it in this process.
        compiled: Whether it compiles the model.
    """

    label: str
    backend: str
    precision: NumberType = "fp32"
    exported: bool = False
    prepared: bool = True
    compiled: bool = False


def ways() -> dict[str, Way]:
    """Return the ways by their names on the command line: a backend's name, and what it does if that is not plain."""
    found = {EAGER: Way("torch eager", "torch", prepared=False)}
    for name, backend in ordered().items():
        if backend.prepare:
            found[name] = Way(f"{name} fused", name)
            found[f"{name}-compiled"] = Way(f"{name} compiled", name, compiled=True)
            found[f"{name}-bf16"] = Way(f"{name} fused", name, "bf16")
        elif backend.runtime:
            for precision in backend.runtime.precisions:
                way = name if precision == "fp32" else f"{name}-{precision}"
                found[way] = Way(backend.label, name, precision, exported=True)
            if backend.runtime.int8_format:
                found[f"{name}-int8"] = Way(backend.label, name, "int8", exported=True)
    return found
