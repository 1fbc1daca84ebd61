"""How many ways the gradient has from a network's outputs to each of its layers, and how long they are.

A path is a sequence of weighted layers (convolutions and matrix products with parameters) of which each reads what the
next one yields, with nothing but weightless operations between. So a path's length is the number of weighted layers
that the gradient crosses before it arrives, and how activations, sums or concatenations are spelled changes nothing:
``x * sigmoid(x)`` is no second path, a shortcut around a convolution is.

The graph is autograd's own, recorded in a forward pass; channels are followed through slices and concatenations, so
that what reads one part of a concatenation has no path into the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree

from crossstage.analysis.cost import cannot_run, evaluating
from crossstage.errors import ConfigError, CrossStageError

INPUT = "input"


@dataclass(frozen=True)
class GradientPaths:
    """The gradient paths to a layer.

    Attributes:
        layer: Dotted name of the module that holds the weights, or ``"input"`` for the network's input.
        paths: Number of paths, exactly. Of a layer that runs several times, those to every run count.
        shortest: Number of weighted layers that the shortest path crosses before it arrives; 0 for a layer that yields
            the output.
        longest: Number of weighted layers that the longest path crosses before it arrives.
    """

    layer: str
    paths: int
    shortest: int
    longest: int


def gradient_paths(model: nn.Module, input_shape: Sequence[int]) -> list[GradientPaths]:
    """Count the gradient paths from all outputs to each weighted layer, in the order in which the layers run.

    A layer that no output depends on is left out. The model runs once, in evaluation mode and on the device that it is
    on, which may be meta, where a pass costs nothing; it is left as it was.

    Args:
        model: Any module that takes one batch of images or maps and returns tensors, in whatever structure.
        input_shape: Shape of the input, ``(N, C, H, W)``.

    Raises:
        ConfigError: The model cannot run on such an input, needs values and has none, or yields nothing that depends on
            its input.
    """
    parameters = {
        name: parameter.detach().requires_grad_()
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point()
    }
    device = next((parameter.device for parameter in parameters.values()), torch.device("cpu"))
    images = torch.zeros(*input_shape, device=device, requires_grad=True)
    try:
        with torch.enable_grad(), evaluating(model):
            outputs = functional_call(model, parameters, (images.clone(),))  # a clone may be changed in place
    except CrossStageError:
        raise
    except Exception as error:  # whatever a user's module raises
        raise cannot_run(type(model).__name__, input_shape, device, error) from error
    owners = {id(parameter): name.rpartition(".")[0] or name for name, parameter in parameters.items()}
    return _Graph(_pytree.tree_leaves(outputs), images, owners).paths()


Node = Any  # of autograd's graph
Edge = tuple[Node, int]  # a node, and which of its outputs
ChannelRange = (
    tuple[int, int] | None
)  # start and stop on dimension 1; None for all, and where there is no such dimension

_PRODUCTS = ("Convolution", "Addmm", "Mm", "Bmm", "Baddbmm", "Mv")
# Operations whose output's channel depends on the same channel of the inputs alone. What is not listed reads all.
_CHANNELWISE = {
    *("Add", "Sub", "Mul", "Div", "Clone", "NativeBatchNorm", "CudnnBatchNorm"),
    *("Relu", "LeakyRelu", "Silu", "Mish", "Hardswish", "Hardtanh", "Hardsigmoid", "Sigmoid", "Gelu", "Elu", "Tanh"),
    *("MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D", "UpsampleNearest2D", "UpsampleBilinear2D"),
    "ConstantPadNd",
}


class _Graph:
    """Autograd's graph of a forward pass, reduced to weighted layers.

    Args:
        outputs: The tensors where the gradient enters; anything without a gradient is passed over.
        images: The tensor where the gradient leaves.
        owners: Names of modules by the ``id`` of their parameters.
    """

    def __init__(self, outputs: Sequence[object], images: Tensor, owners: Mapping[int, str]) -> None:
        self.roots: list[Edge] = [
            (output.grad_fn, output.output_nr)
            for output in outputs
            if isinstance(output, Tensor) and output.grad_fn is not None
        ]
        self.owners = owners
        nodes = _nodes(self.roots)
        self.images: Node = next((node for node in nodes if getattr(node, "variable", None) is images), None)
        self.data: set[Node] = set()  # nodes that depend on the images, and not on parameters alone
        for node in nodes:
            if node is self.images or any(source in self.data for source, _ in node.next_functions):
                self.data.add(node)
        self.layers = {node: owner for node in nodes if node in self.data and (owner := self._owner(node))}
        self.layers[self.images] = INPUT

    def paths(self) -> list[GradientPaths]:
        found: dict[Node, GradientPaths] = {}

        def arrive(edges: Sequence[tuple[Edge, ChannelRange]], paths: int, shortest: int, longest: int) -> None:
            for node in self._reached(edges):
                before = found.get(node, GradientPaths(self.layers[node], 0, shortest, longest))
                found[node] = GradientPaths(
                    before.layer,
                    before.paths + paths,
                    min(before.shortest, shortest),
                    max(before.longest, longest),
                )

        arrive([(root, None) for root in self.roots], 1, 0, 0)
        ordered = sorted(self.layers.keys() - {self.images}, key=_age)
        for node in reversed(ordered):  # who reads comes before who is read
            if here := found.get(node):
                inputs = [(edge, None) for edge in node.next_functions]
                arrive(inputs, here.paths, here.shortest + 1, here.longest + 1)
        if self.images not in found:
            raise ConfigError("no output of the model depends on its input; expected a network that can be trained")
        return _by_layer([found[node] for node in (self.images, *ordered) if node in found])

    def _owner(self, node: Node) -> str | None:
        """Name of the module whose kernel a node applies to data."""
        if node.name().partition("Backward")[0] not in _PRODUCTS:
            return None
        factors = [edge for edge in node.next_functions if edge[0] is not None and edge[0] not in self.data]
        variables = [getattr(source, "variable", None) for source in _nodes(factors)]
        kernels = [variable for variable in variables if variable is not None and variable.ndim > 1]
        return self.owners.get(id(kernels[0])) if kernels else None

    def _reached(self, edges: Sequence[tuple[Edge, ChannelRange]]) -> set[Node]:
        """Return the layers to which weightless operations lead."""
        found: set[Node] = set()
        seen: set[tuple[Edge, ChannelRange]] = set()
        waiting = list(edges)
        while waiting:
            state = waiting.pop()
            (node, _), channels = state
            if state in seen or node not in self.data or (channels is not None and channels[0] >= channels[1]):
                continue
            seen.add(state)
            if node in self.layers:
                found.add(node)
            else:
                waiting += _sources(*state)
        return found


def _sources(edge: Edge, channels: ChannelRange) -> Iterator[tuple[Edge, ChannelRange]]:
    """Yield the tensors that an operation's output is made of, and which channels of each."""
    node, position = edge
    kind = node.name().partition("Backward")[0]
    sources = [source for source in node.next_functions if source[0] is not None]
    start, stop = channels or (0, _width(edge))
    if kind == "Slice" and _by_channel(edge) and node._saved_step == 1:
        first = _signed(node._saved_start) % max(1, _width(sources[0]))
        yield sources[0], (first + start, first + stop)
    elif kind in ("Split", "SplitWithSizes") and _by_channel(edge):
        first = sum(_width((node, before)) for before in range(position))
        yield sources[0], (first + start, first + stop)
    elif kind == "Cat" and _by_channel(edge) and len(sources) == len(node.next_functions):
        first = 0
        for source in sources:
            width = _width(source)
            yield source, (max(0, start - first), min(width, stop - first))
            first += width
    else:
        for source in sources:
            keeps = kind in _CHANNELWISE and _width(source) == _width(edge)
            yield source, channels if keeps else None


def _by_channel(edge: Edge) -> bool:
    """Tell whether a slice, split or concatenation is one of channels."""
    node, position = edge
    return _signed(node._saved_dim) % len(node._input_metadata[position].shape) == 1


def _width(edge: Edge) -> int:
    """Return the number of channels of a tensor; 0 if it has none."""
    node, position = edge
    shape = node._input_metadata[position].shape
    return shape[1] if len(shape) > 1 else 0


def _signed(value: int) -> int:
    """Return the number meant by one of autograd's, which shows negative ones as unsigned."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _age(node: Node) -> int:
    return node._sequence_nr()


def _nodes(roots: Sequence[Edge]) -> list[Node]:
    """Return all nodes that can be reached, leaves first, each after what it was made of."""
    seen: set[Node] = set()
    waiting = [node for node, _ in roots]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [source for source, _ in node.next_functions]
    return sorted(seen, key=lambda node: -1 if hasattr(node, "variable") else _age(node))


def _by_layer(runs: Sequence[GradientPaths]) -> list[GradientPaths]:
    """Put the runs of a layer together."""
    found: dict[str, list[GradientPaths]] = {}
    for run in runs:
        found.setdefault(run.layer, []).append(run)
    return [
        GradientPaths(
            layer,
            sum(run.paths for run in same),
            min(run.shortest for run in same),
            max(run.longest for run in same),
        )
        for layer, same in found.items()
    ]
