"""What a network costs, layer by layer and in total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from crossstage.analysis.cost import operations
from crossstage.analysis.layer import BYTES, RIDING, Layer, StoragePrecision
from crossstage.analysis.roof import Roof, measure_layers, measure_roof
from crossstage.analysis.saving import write_chart, write_csv, write_json
from crossstage.errors import ConfigError

LARGEST = 5


@dataclass(frozen=True)
class Bottleneck:
    """The layers that most of the computing is in.

    Attributes:
        layers: The five layers with the most operations, largest first; fewer if the network has fewer.
        share: Share of the largest layer in all operations, in [0, 1].
        max_over_mean: Operations of the largest layer, over the mean of all layers that have any.
    """

    layers: tuple[Layer, ...]
    share: float
    max_over_mean: float


@dataclass(frozen=True)
class Profile:
    """What a network costs; operations are counted, see :class:`Layer` for what each figure means.

    Attributes:
        name: The network's name.
        input_shape: Shape of the input, ``(N, C, H, W)``; all figures but those of learned values are of a pass over
            the whole batch.
        layers: The operations, in the order in which they run.
        parameters: Number of learned values, whether the pass reads them or not; running statistics of batch norm are
            not among them.
        weights: Number of learned values in kernels alone, without norms and biases: what CSPNet's tables call
            parameters.
        roof: Best rates of the machine; None if the layers were not timed.
    """

    name: str
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...] = field(repr=False)
    parameters: int
    weights: int
    roof: Roof | None = None

    def __str__(self) -> str:
        shape = " x ".join(str(side) for side in self.input_shape)
        moved, held = self.dram_bytes() / 2**20, self.peak_activation_bytes() / 2**20
        return (
            f"{self.name or 'network'}, input {shape}: {self.bflops:.3f} GFLOPs in {len(self.layers)} operations, "
            f"{self.parameters:,} parameters, {moved:.1f} MiB moved and at most {held:.1f} MiB held by maps in fp32"
        )

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return sum(layer.macs for layer in self.layers)

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        return sum(layer.flops for layer in self.layers)

    @property
    def darknet_flops(self) -> int:
        """Operations with pooling, as Darknet counts."""
        return sum(layer.darknet_flops for layer in self.layers)

    @property
    def bflops(self) -> float:
        """Billions of operations."""
        return self.flops / 1e9

    @property
    def darknet_bflops(self) -> float:
        """Billions of operations, as Darknet prints them."""
        return self.darknet_flops / 1e9

    @property
    def activations(self) -> int:
        """Values that convolutions and linear layers write."""
        return sum(layer.activations for layer in self.layers)

    @property
    def memory_access(self) -> int:
        """Values that convolutions and linear layers read and write, with their kernels."""
        return sum(layer.memory_access for layer in self.layers)

    @property
    def memory_access_bound(self) -> float:
        """The least memory access with as many operations in each layer."""
        return sum(layer.memory_access_bound for layer in self.layers)

    @property
    def cio(self) -> int:
        """Values that convolutions read and write."""
        return sum(layer.cio for layer in self.layers)

    @property
    def cio_with_pooling(self) -> int:
        """Values that convolutions and poolings read and write: what CSPNet's figures hold."""
        return self.cio + sum(layer.read + layer.written for layer in self.layers if layer.kind == "pooling")

    def dram_bytes(self, precision: StoragePrecision = "fp32", *, folded: bool = True) -> int:
        """Return the bytes that move between memory and processor if no operation finds what it reads in a cache.

        Args:
            precision: Number format of maps and learned values.
            folded: Whether norms and activation functions are computed along with the layer beside them, as inference
                runtimes do; else each is an operation of its own, as in eager PyTorch.
        """
        moved = sum(layer.moved for layer in self.layers if not (folded and layer.kind in RIDING))
        return moved * BYTES[precision]

    @property
    def peak_layer(self) -> Layer:
        """The operation during which most memory is held by maps."""
        return max(self.layers, key=lambda layer: layer.live)

    def peak_activation_bytes(self, precision: StoragePrecision = "fp32") -> int:
        """Return the most bytes that maps take at any time, if each is freed after the last operation that reads it."""
        return self.peak_layer.live * BYTES[precision]

    def arithmetic_intensity(self, precision: StoragePrecision = "fp32", *, folded: bool = True) -> float:
        """Return the operations for each byte of :meth:`dram_bytes`."""
        return self.flops / max(self.dram_bytes(precision, folded=folded), 1)

    @property
    def computing(self) -> tuple[Layer, ...]:
        """The layers that have multiply-adds, in order."""
        return tuple(layer for layer in self.layers if layer.macs)

    @property
    def bottleneck(self) -> Bottleneck:
        """The layers that most of the computing is in."""
        ordered = sorted(self.computing, key=lambda layer: layer.flops, reverse=True)
        if not ordered:
            return Bottleneck((), 0.0, 0.0)
        largest = ordered[0].flops
        return Bottleneck(
            tuple(ordered[:LARGEST]), largest / self.flops, largest / mean(layer.flops for layer in ordered)
        )

    @property
    def seconds(self) -> float | None:
        """What all operations took, one after another; None if they were not timed."""
        return sum(layer.seconds or 0.0 for layer in self.layers) if self.roof else None

    @property
    def slowest(self) -> tuple[Layer, ...]:
        """The five operations that took longest, the longest first."""
        return tuple(sorted(self.layers, key=lambda layer: layer.seconds or 0.0, reverse=True)[:LARGEST])

    def totals(self) -> dict[str, Any]:
        """Return all totals by name; memory is in bytes."""
        counted = (
            *("parameters", "weights", "macs", "flops", "bflops", "darknet_bflops", "activations"),
            *("memory_access", "memory_access_bound", "cio", "cio_with_pooling"),
        )
        return {
            **{name: getattr(self, name) for name in counted},
            "dram_bytes": {precision: self.dram_bytes(precision) for precision in BYTES},
            "dram_bytes_unfolded": {precision: self.dram_bytes(precision, folded=False) for precision in BYTES},
            "peak_activation_bytes": {precision: self.peak_activation_bytes(precision) for precision in BYTES},
            "arithmetic_intensity": {precision: self.arithmetic_intensity(precision) for precision in BYTES},
            **({"seconds": self.seconds} if self.roof else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the whole profile as values that JSON holds."""
        found = self.bottleneck
        return {
            "name": self.name,
            "input_shape": list(self.input_shape),
            "totals": self.totals(),
            "bottleneck": {
                "layers": [layer.name for layer in found.layers],
                "share": found.share,
                "max_over_mean": found.max_over_mean,
            },
            "peak_layer": self.peak_layer.name,
            "roof": asdict(self.roof) if self.roof else None,
            "layers": self.rows(),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each layer, see :meth:`Layer.to_dict`; if timed, with what limits it and how far."""
        if self.roof is None:
            return [layer.to_dict() for layer in self.layers]
        return [
            {**layer.to_dict(), "bound": self.roof.bound(layer), "of_roof": self.roof.share(layer)}
            for layer in self.layers
        ]

    def save(self, path: str | Path) -> None:
        """Write all of it as ``.json``, a row for each layer as ``.csv``, or a chart of the layers as ``.png``.

        Args:
            path: The file; its suffix says which of these.

        Raises:
            ConfigError: The suffix is another.
            DataError: The file cannot be written.
        """
        path = Path(path)
        if path.suffix == ".json":
            write_json(self.to_dict(), path)
        elif path.suffix == ".csv":
            write_csv(self.rows(), path)
        elif path.suffix == ".png":
            write_chart(self.layers, self._title(), path)
        else:
            raise ConfigError(f"{path}: cannot write a profile as {path.suffix or 'this'}; expected .json, .csv, .png")

    def _title(self) -> str:
        size = " x ".join(map(str, self.input_shape))
        return f"{self.name}, input {size}: {self.bflops:.3f} BFLOPs, {self.weights / 1e6:.2f} M weights"


def profile_module(model: nn.Module, input_shape: Sequence[int], name: str = "", *, measure: bool = False) -> Profile:
    """Count what a module costs.

    Args:
        model: The module, on the meta device or with weights, see :func:`~crossstage.analysis.operations`.
        input_shape: Shape of the input, ``(N, C, H, W)`` or whatever the module takes.
        name: The network's name in tables and reports; by default that of the module's class.
        measure: Whether to run the module for real, where its weights are, and time each operation.

    Raises:
        ConfigError: The module cannot run on such an input, or runs no operation.
    """
    name = name or type(model).__name__
    parameters = list(model.parameters())
    layers = measure_layers(model, input_shape) if measure else operations(model, input_shape)
    if not layers:
        raise ConfigError(f"{name} runs no operation on an input of {tuple(input_shape)}")
    return Profile(
        name,
        tuple(input_shape),
        tuple(layers),
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.dim() > 1),
        measure_roof(next((each.device for each in parameters), torch.device("cpu"))) if measure else None,
    )
