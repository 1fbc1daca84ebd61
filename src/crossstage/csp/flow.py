"""How channels flow through a stage: which channels of which weights are the same ones.

The operations are those that torch.export leaves: a few dozen kinds, whatever library a network comes from.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node

from crossstage.csp.parts import Axis, ChannelsError, Parts, regroup
from crossstage.csp.trace import Subgraph, Trace, first_line, module_paths, shape_of
from crossstage.errors import ConfigError

Axes = tuple[Axis | None, ...]
"""The channels along each dimension of a tensor; None where there are none to narrow."""


class Flow:
    """The channels of a stage.

    Args:
        trace: The network that was traced.
        region: The operations of the stage.

    Attributes:
        parts: The parts that all axes consist of.
        source: Channels of the input.
        result: Channels of the output.
        weights: Channels of the parameters and buffers, by their names in the state dict.
        norms: Channels of the norms, by the names of their modules.

    Raises:
        ConfigError: An operation is not understood, so the stage cannot be narrowed.
    """

    def __init__(self, trace: Trace, region: Subgraph) -> None:
        self.parts = Parts()
        self.source = self.parts.new(region.in_shape[1])
        self.norms: dict[str, Axis] = {}
        self._names = trace.names
        self._axes: dict[Node, Any] = {region.source: (None, self.source, None, None)}
        for node in region.nodes:
            try:
                self._axes[node] = self._pass(node)
            except ChannelsError as error:
                raise _refusal(node, str(error)) from None
            except (LookupError, TypeError) as error:
                raise _refusal(
                    node, f"it works on {shape_of(node)} in a way not foreseen ({first_line(error)})"
                ) from None
        result = self._axes[region.result][1]
        if result is None:
            raise _refusal(region.result, "its output's channels do not come from a layer that can be narrowed")
        self.result: Axis = result
        self.weights: dict[str, Axes] = {
            trace.names[node]: axes for node, axes in self._axes.items() if node in trace.names
        }

    def _pass(self, node: Node) -> Any:
        if node.target is operator.getitem:
            value, index = node.args
            return self._axes[cast(Node, value)][index]
        name = str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.")
        rule = _RULES.get(name) or _RULES.get(name.removesuffix("_"))
        if rule:
            return rule(self, node, *node.args, **node.kwargs)
        if torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return self.pointwise(node)
        raise ChannelsError(f"{name} is not an operation whose channels are known")

    def of(self, node: Node) -> Axes:
        """Return the channels along each dimension of a tensor."""
        if node in self._names and node not in self._axes:  # a weight that is met outside a layer
            self._axes[node] = tuple(self.parts.new(size) if size > 1 else None for size in shape_of(node))
        return self._axes[node]

    def channels(self, node: Node, dim: int) -> Axis:
        """Return the channels along one dimension; ones that cannot be narrowed if nothing is known of them."""
        axis = self.of(node)[dim]
        if axis is None:
            axis = self.parts.new(shape_of(node)[dim])
            self.parts.keep_whole(axis)
        return axis

    def set_weight(self, node: Node | None, *axes: Axis | None) -> None:
        """Record what the dimensions of a weight are; those not named have no channels."""
        if node is None:
            return
        given = (*axes, *[None] * (len(shape_of(node)) - len(axes)))
        for axis, known in zip(given, self._axes.get(node, given), strict=True):
            if axis is not None and known is not None:
                self.parts.unite(axis, known)
        self._axes[node] = given

    def set_norm(self, node: Node, axis: Axis, *tensors: Node | None) -> None:
        """Record which channels a norm works on, and hence what its weights are."""
        self.norms[module_paths(node)[-1].partition("@")[0]] = axis
        for tensor in tensors:
            self.set_weight(tensor, axis)

    def pointwise(self, node: Node) -> Axes:
        """Return the channels of a sum, product or activation: channels that meet are the same."""
        shape = shape_of(node)
        made: list[Axis | None] = [None] * len(shape)
        for operand in node.all_input_nodes:
            sizes, axes = shape_of(operand), self.of(operand)
            for dim in range(-len(sizes), 0):
                axis, known = axes[dim], made[dim]
                if sizes[dim] != shape[dim] or axis is None:
                    continue
                if known is not None:
                    self.parts.unite(known, axis)
                made[dim] = axis
        for operand in node.all_input_nodes:  # what meets a dimension without channels cannot be narrowed
            sizes, axes = shape_of(operand), self.of(operand)
            for dim in range(-len(sizes), 0):
                if made[dim] is not None and axes[dim] is None and sizes[dim] == shape[dim]:
                    self.parts.keep_whole(cast(Axis, made[dim]))
        return tuple(made)


def _convolution(
    flow: Flow,
    node: Node,
    x: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Axes:
    inputs = flow.channels(x, 1)
    if groups == 1:
        outputs = flow.parts.new(shape_of(node)[1])
        flow.set_weight(weight, outputs, inputs)
    else:
        if shape_of(node)[1] != shape_of(x)[1]:
            raise ChannelsError(f"a convolution in {groups} groups changes the number of channels")
        outputs = inputs
        flow.parts.group(inputs, shape_of(x)[1] // groups)
        flow.set_weight(weight, outputs)
    flow.set_weight(bias, outputs)
    return (None, outputs, *[None] * (len(shape_of(node)) - 2))


def _linear(flow: Flow, node: Node, x: Node, weight: Node, bias: Node | None = None) -> Axes:
    outputs = flow.parts.new(shape_of(node)[-1])
    flow.set_weight(weight, outputs, flow.channels(x, -1))
    flow.set_weight(bias, outputs)
    return (*flow.of(x)[:-1], outputs)


def _batch_norm(flow: Flow, node: Node, x: Node, *arguments: Any) -> Axes:
    flow.set_norm(node, flow.channels(x, 1), *arguments[:4])
    return flow.of(x)


def _group_norm(flow: Flow, node: Node, x: Node, groups: int, *arguments: Any) -> Axes:
    channels = flow.channels(x, 1)
    if groups > 1:
        flow.parts.group(channels, shape_of(x)[1] // groups)
    flow.set_norm(node, channels, *arguments[:2])
    return flow.of(x)


def _layer_norm(flow: Flow, node: Node, x: Node, shape: Sequence[int], *arguments: Any) -> Axes:
    if len(shape) > 1:
        raise ChannelsError(f"a layer norm over {len(shape)} dimensions")
    flow.set_norm(node, flow.channels(x, -1), *arguments[:2])
    return flow.of(x)


def _prelu(flow: Flow, node: Node, x: Node, weight: Node) -> Axes:
    if shape_of(weight)[0] > 1:
        flow.set_weight(weight, flow.channels(x, 1))
    return flow.of(x)


def _same(flow: Flow, node: Node, x: Node, *_: Any, **__: Any) -> Axes:
    return flow.of(x)


def _pad(flow: Flow, node: Node, x: Node, *_: Any, **__: Any) -> Axes:
    if shape_of(node)[:2] != shape_of(x)[:2]:
        raise ChannelsError("channels are padded")
    return flow.of(x)


def _mean(flow: Flow, node: Node, x: Node, dims: Sequence[int] | int | None = None, *_: Any, **__: Any) -> Axes:
    axes = list(flow.of(x))
    taken = range(len(axes)) if dims is None else [dims] if isinstance(dims, int) else dims
    taken = {dim % len(axes) for dim in taken}
    if len(shape_of(node)) == len(axes):
        return tuple(None if dim in taken else axis for dim, axis in enumerate(axes))
    return tuple(axis for dim, axis in enumerate(axes) if dim not in taken)


def _concatenation(flow: Flow, node: Node, tensors: Sequence[Node], dim: int = 0) -> Axes:
    dim %= len(shape_of(node))
    made = list(flow.of(tensors[0]))
    if any(flow.of(tensor)[dim] is not None for tensor in tensors):
        made[dim] = tuple(part for tensor in tensors for part in flow.channels(tensor, dim))
    return tuple(made)


def _chunk(flow: Flow, node: Node, x: Node, count: int, dim: int = 0) -> list[Axes]:
    axes = flow.of(x)
    dim %= len(axes)
    axis = axes[dim]
    pieces = [None] * count if axis is None else flow.parts.equal_pieces(axis, count)
    return [(*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces]


def _split(flow: Flow, node: Node, x: Node, size: int, dim: int = 0) -> list[Axes]:
    return _chunk(flow, node, x, -(-shape_of(x)[dim] // size), dim)


def _slice(
    flow: Flow, node: Node, x: Node, dim: int = 0, start: int | None = None, stop: int | None = None, step: int = 1
) -> Axes:
    axes = list(flow.of(x))
    dim %= len(axes)
    axis, size = axes[dim], shape_of(x)[dim]
    if axis is None or shape_of(node)[dim] == size:
        return tuple(axes)
    if step != 1:
        raise ChannelsError("every n-th channel is taken")
    begin, end = _bound(start, size, 0), _bound(stop, size, size)
    axes[dim] = flow.parts.slice(axis, begin, end)
    return tuple(axes)


def _bound(value: int | None, size: int, otherwise: int) -> int:
    if value is None:
        return otherwise
    return min(size, max(0, value + size if value < 0 else value))


def _view(flow: Flow, node: Node, x: Node, *_: Any, **__: Any) -> Axes:
    return regroup(flow.parts, shape_of(x), shape_of(node), flow.of(x))


def _permute(flow: Flow, node: Node, x: Node, dims: Sequence[int]) -> Axes:
    return tuple(flow.of(x)[dim] for dim in dims)


def _transpose(flow: Flow, node: Node, x: Node, one: int, other: int) -> Axes:
    axes = list(flow.of(x))
    axes[one], axes[other] = axes[other], axes[one]
    return tuple(axes)


_RULES: Mapping[str, Callable[..., Any]] = {
    "conv2d": _convolution,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "instance_norm": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "prelu": _prelu,
    "mean": _mean,
    "amax": _mean,
    "sum": _mean,
    "cat": _concatenation,
    "concat": _concatenation,
    "chunk": _chunk,
    "split": _split,
    "slice": _slice,
    "permute": _permute,
    "transpose": _transpose,
    "pad": _pad,
    "constant_pad_nd": _pad,
    **dict.fromkeys(("view", "reshape", "flatten", "unsqueeze", "squeeze", "unflatten"), _view),
    **dict.fromkeys(
        (
            "adaptive_avg_pool2d",
            "adaptive_max_pool2d",
            "alias",
            "avg_pool2d",
            "clone",
            "contiguous",
            "detach",
            "dropout",
            "feature_dropout",
            "hardswish",
            "max_pool2d",
            "to",
            "upsample_bilinear2d",
            "upsample_nearest2d",
        ),
        _same,
    ),
}


def _refusal(node: Node, why: str) -> ConfigError:
    stack = node.meta.get("nn_module_stack", {})
    path = next(reversed(module_paths(node)), "")
    kind = next(reversed([kind for _, kind in stack.values()]), nn.Module)
    name = kind if isinstance(kind, str) else kind.__name__
    return ConfigError(f"{path or 'the network'} ({name.rpartition('.')[2]}): {why}")
