"""What a ``.cfg`` is made of, and how values of a recorded graph become its layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from crossstage.errors import ExportError

SAME = ("alias", "clone", "contiguous", "dropout", "to")  # operations that pass on their input
MapShape = tuple[int, int, int]  # channels, height, width
INPUT = -1  # the index of what enters the network


@dataclass
class CfgLayer:
    """A section of the cfg.

    Attributes:
        kind: The section's name.
        shape: Shape of the layer's output.
        place: Name of the module that it computes, for people.
        options: The section's options by key.
        tensors: The tensors that the weights file keeps of it, in order: bias and weights.
    """

    kind: str
    shape: MapShape
    place: str
    options: dict[str, Any]
    tensors: list[Tensor] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([f"# {self.place}", f"[{self.kind}]", *(f"{k}={v}" for k, v in self.options.items())])


@dataclass(frozen=True)
class Part:
    """Channels ``start`` to ``stop`` of a layer's output; beyond its last there is nothing but ``filling``."""

    layer: int
    start: int
    stop: int
    filling: float = 0.0


@dataclass(frozen=True)
class Maxima:
    """The largest of channels g, g + width, g + 2 * width, ... below ``stop`` of a layer's output, for each g."""

    layer: int
    width: int
    stop: int


@dataclass(frozen=True)
class SampledRows:
    """Every ``step``-th row of a layer's output, whose columns are to follow."""

    layer: int
    step: int


@dataclass(frozen=True)
class Repeated:
    """A layer's output with its last row and its last column once more."""

    layer: int


Value = int | Part | Maxima | SampledRows | Repeated
"""A layer's output, by the layer's index, or a view of it: Darknet has few of them by themselves."""


class Writer:
    """The layers of a cfg in the making, and what each value of a recorded graph is among them.

    Args:
        program: The recorded graph.
        name: Name of the model, for messages.
        input_shape: Shape of the network's input.

    Attributes:
        layers: The layers that are written so far.
        values: The value of each of the graph's nodes; several where a node has several outputs.
        tensors: The graph's weights by name.
        place: Name of the module that is being written, for people.
    """

    def __init__(self, program: torch.export.ExportedProgram, name: str, input_shape: MapShape) -> None:
        signature, held = program.graph_signature, {**program.state_dict, **program.constants}
        named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.tensors = {name: held[target].detach() for name, target in named.items()}
        self.layers: list[CfgLayer] = []
        self.values: dict[Node, Any] = {}
        self.place = ""
        self._name, self._input_shape = name, input_shape
        self._made: dict[Value, int] = {}

    # What layers are made of.

    def add(
        self,
        kind: str,
        shape: MapShape,
        options: dict[str, Any],
        *,
        after: int | None = None,
        tensors: Sequence[Tensor] = (),
    ) -> int:
        """Append a layer; ``after`` names the one that it reads without saying so."""
        if after is not None and after != len(self.layers) - 1:
            if after == INPUT:
                raise self.refusal("a second look at the input")
            self.add("route", self.shape(after), {"layers": after})
        self.layers.append(CfgLayer(kind, shape, self.place, options, list(tensors)))
        return len(self.layers) - 1

    def affine(self, layer: int, scale: Tensor | float, shift: Tensor | float, act: str = "linear") -> int:
        """Append a layer that computes ``act(scale * x + shift)`` by channels."""
        channels = self.shape(layer)[0]
        weight, bias = (torch.as_tensor(value, dtype=torch.float32).expand(channels) for value in (scale, shift))
        return self.depthwise(layer, self.shape(layer), weight.view(-1, 1, 1, 1), bias, activation=act)

    def depthwise(
        self,
        layer: int,
        shape: MapShape,
        weight: Tensor,
        bias: Tensor,
        *,
        stride: int = 1,
        padding: int = 0,
        activation: str = "linear",
    ) -> int:
        """Append a convolution of each channel alone."""
        options = {"filters": shape[0], "groups": shape[0], "size": weight.shape[-1], "stride": stride}
        options |= {"padding": padding, "activation": activation}
        return self.add("convolutional", shape, options, after=layer, tensors=[bias, weight])

    def whole(self, value: Value) -> int:
        """Return the layer whose output is a value, which is appended if there is none."""
        if isinstance(value, int):
            return value
        if value not in self._made:
            self._made[value] = self._layer_of(value)
        return self._made[value]

    def _layer_of(self, value: Value) -> int:
        """Append a layer whose output is a value that so far is a view of another layer's."""
        if isinstance(value, Maxima):
            channels, *sides = self.shape(value.layer)
            if value.stop < channels:
                raise self.refusal("a maximum of some channels")
            options = {"maxpool_depth": 1, "size": 1, "stride": 1, "out_channels": value.width}
            return self.add("maxpool", (value.width, sides[0], sides[1]), options, after=value.layer)
        if not isinstance(value, Part) or value.stop > self.shape(value.layer)[0] or value.layer == INPUT:
            raise self.refusal("this view of a map")
        channels, *sides = self.shape(value.layer)
        width = math.gcd(channels, value.start, value.stop)
        routes = [
            self.add(
                "route",
                (width, sides[0], sides[1]),
                {"layers": value.layer, "groups": channels // width, "group_id": first // width},
            )
            for first in range(value.start, value.stop, width)
        ]
        return routes[0] if len(routes) == 1 else self.joined(routes)

    def joined(self, layers: Sequence[int]) -> int:
        """Append a concatenation of layers' outputs."""
        if INPUT in layers:
            raise self.refusal("a concatenation with the input")
        channels = sum(self.shape(layer)[0] for layer in layers)
        return self.add(
            "route", (channels, *self.shape(layers[0])[1:]), {"layers": ",".join(str(layer) for layer in layers)}
        )

    def enlarged(self, layer: int, sides: Sequence[int]) -> int:
        """Return the layer that is a map at another height and width, enlarged by its nearest neighbours."""
        channels, height, width = self.shape(layer)
        if (height, width) == tuple(sides):
            return layer
        factor = sides[0] // height
        if (height * factor, width * factor) != tuple(sides):
            raise self.refusal(f"an enlargement from {height} x {width} to {sides[0]} x {sides[1]}")
        return self.add("upsample", (channels, sides[0], sides[1]), {"stride": factor}, after=layer)

    # What is asked of the graph.

    def shape(self, layer: int) -> MapShape:
        """Return the shape of a layer's output."""
        return self._input_shape if layer == INPUT else self.layers[layer].shape

    def value(self, source: Any) -> Any:
        """Return what a node is among the layers; None for a number."""
        return self.values.get(source) if isinstance(source, Node) else None

    def read(self, node: Node) -> int:
        """Return the layer whose output is an operation's first input."""
        return self.whole(self.value(node.args[0]))

    def tensor(self, node: Any) -> Tensor:
        """Return the values of a node that stands for a weight."""
        if not isinstance(node, Node) or node.name not in self.tensors:
            raise self.refusal("weights that are computed")
        return self.tensors[node.name]

    def open_layer(self, source: Node, kinds: Sequence[str]) -> CfgLayer | None:
        """Return the layer of a node if it is one of these kinds without an activation, and nothing else reads it."""
        value = self.values[source]
        if not isinstance(value, int) or value == INPUT or not read_once(source):
            return None
        layer = self.layers[value]
        return layer if layer.kind in kinds and layer.options.get("activation") == "linear" else None

    def refusal(self, what: str) -> ExportError:
        """Return the error that says what Darknet lacks, and where."""
        return ExportError(
            f"{self._name} cannot be written as darknet: {self.place} needs {what}, "
            "for which Darknet's files have no layer"
        )


def place_of(node: Node) -> str:
    """Return the name and class of the innermost module that an operation belongs to."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = list(stack.values())[-1] if stack else ("", "")
    name = kind if isinstance(kind, str) else kind.__name__
    return f"{path.removeprefix('model.') or 'the model'} ({name.rpartition('.')[2]})"


def name_of(node: Node) -> str:
    """Return an operation's name, the same whether or not it works in place."""
    assert not isinstance(node.target, str)
    return node.target.__name__.split(".")[0].removesuffix("_")


def source_of(node: Node) -> Node:
    """Return the operation whose result a node passes on."""
    return source_of(node.all_input_nodes[0]) if name_of(node) in SAME else node


def read_once(node: Node) -> bool:
    """Tell whether a value has one reader, by whatever name."""
    return len(node.users) == 1 and (name_of(node) not in SAME or read_once(node.all_input_nodes[0]))
