"""What each of torch's operations does to the channels of the maps that it reads.

A rule is called with the channels so far, the operation and its arguments, and returns the channels along each
dimension of what the operation gives, or such channels for each of several tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from torch.fx import Node

from crossstage.csp.flow import Axes, Flow, Use
from crossstage.csp.parts import Axis, ChannelsError, regroup
from crossstage.csp.trace import Subgraph, Trace, shape_of


def flow_of(trace: Trace, region: Subgraph) -> Flow:
    """Follow the channels of a stage.

    Raises:
        ConfigError: An operation is not understood, so the stage cannot be narrowed.
    """
    return Flow(trace, region, RULES)


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
        flow.parts.group(inputs, shape_of(x)[1] // groups)
        outputs = inputs
        if shape_of(node)[1] != shape_of(x)[1]:  # as many groups stay on either side
            outputs = flow.parts.new(shape_of(node)[1])
            flow.parts.group(outputs, shape_of(node)[1] // groups)
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


def _stack(flow: Flow, node: Node, tensors: Sequence[Node], dim: int = 0) -> Axes:
    for dimension in range(len(shape_of(tensors[0]))):
        axes = [flow.of(tensor)[dimension] for tensor in tensors]
        if any(axis is not None for axis in axes):
            first, *others = (flow.channels(tensor, dimension) for tensor in tensors)
            for other in others:
                flow.parts.unite(first, other)
    made = list(flow.of(tensors[0]))
    made.insert(dim % len(shape_of(node)), None)
    return tuple(made)


def _select(flow: Flow, node: Node, x: Node, dim: int, index: int) -> Axes:
    axes = list(flow.of(x))
    if axes.pop(dim) is not None:
        raise ChannelsError("a single channel is taken")
    return tuple(axes)


def _unbind(flow: Flow, node: Node, x: Node, dim: int = 0) -> list[Axes]:
    return [_select(flow, node, x, dim, 0)] * shape_of(x)[dim]


def _chunk(flow: Flow, node: Node, x: Node, count: int, dim: int = 0) -> list[Axes]:
    axes = flow.of(x)
    dim %= len(axes)
    axis = axes[dim]
    pieces = [None] * count if axis is None else flow.parts.equal_pieces(axis, count)
    return [(*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces]


def _split(flow: Flow, node: Node, x: Node, size: int, dim: int = 0) -> list[Axes]:
    pieces = _chunk(flow, node, x, -(-shape_of(x)[dim] // size), dim)
    flow.uses.append(Use(node, (size,), (pieces[0][dim],)))
    return pieces


def _split_sizes(flow: Flow, node: Node, x: Node, sizes: Sequence[int], dim: int = 0) -> list[Axes]:
    axes = flow.of(x)
    dim %= len(axes)
    axis = axes[dim]
    if axis is None:
        return [axes] * len(sizes)
    bounds = list(accumulate(sizes, initial=0))
    pieces = [flow.parts.slice(axis, start, stop) for start, stop in pairwise(bounds)]
    flow.uses.append(Use(node, tuple(sizes), tuple(pieces)))
    return [(*axes[:dim], piece, *axes[dim + 1 :]) for piece in pieces]


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
    for bound, first in ((begin, 0), (end, 0), (size - begin, begin), (size - end, end)):  # the last from the end
        if 0 < bound < size:
            flow.uses.append(Use(node, (bound,), (flow.parts.slice(axis, first, first + bound),)))
    return tuple(axes)


def _bound(value: int | None, size: int, otherwise: int) -> int:
    if value is None:
        return otherwise
    return min(size, max(0, value + size if value < 0 else value))


def _view(flow: Flow, node: Node, x: Node, *_: Any, **__: Any) -> Axes:
    axes = regroup(flow.parts, shape_of(x), shape_of(node), flow.of(x))
    flow.uses.append(Use(node, shape_of(node), axes))
    return axes


def _expand(flow: Flow, node: Node, x: Node, *_: Any, **__: Any) -> Axes:
    own = (None,) * (len(shape_of(node)) - len(shape_of(x))) + flow.of(x)
    flow.uses.append(Use(node, shape_of(node), own))
    return own


def _expand_as(flow: Flow, node: Node, x: Node, like: Node) -> Axes:
    return flow.pointwise(node)


def _norm(flow: Flow, node: Node, x: Node, order: Any, dims: Any = None, *_: Any, **__: Any) -> Axes:
    return _mean(flow, node, x, dims)


def _extreme(flow: Flow, node: Node, x: Node, dim: int, keep: bool = False) -> list[Axes]:
    axes = list(flow.of(x))
    dim %= len(axes)
    axes[dim : dim + 1] = [None] if keep else []
    return [tuple(axes)] * 2  # values and places


def _matmul(flow: Flow, node: Node, one: Node, other: Node) -> Axes:
    left, right = flow.of(one), flow.of(other)
    if len(left) < 2 or len(right) < 2:
        raise ChannelsError("a product with a vector")
    if left[-1] is not None or right[-2] is not None:
        flow.parts.unite(flow.channels(one, -1), flow.channels(other, -2))
    made: list[Axis | None] = []
    for place in range(-len(shape_of(node)), -2):
        found = [axis for axes in (left, right) if len(axes) >= -place and (axis := axes[place]) is not None]
        if len(found) == 2:
            flow.parts.unite(found[0], found[1])
        made.append(found[0] if found else None)
    return (*made, left[-2], right[-1])


def _convolution_along_channels(flow: Flow, node: Node, x: Node, weight: Node, *_: Any, **__: Any) -> Axes:
    """Follow a gate that is computed of neighbouring channels, as in ECA-Net."""
    if shape_of(x)[1] != 1 or shape_of(node) != shape_of(x):
        raise ChannelsError("a one-dimensional convolution")
    return flow.of(x)


def _shuffle(flow: Flow, node: Node, x: Node, groups: int) -> Axes:
    batch, channels, *rest = flow.of(x)
    if channels is None:
        return flow.of(x)
    pieces = flow.parts.equal_pieces(channels, groups)
    return (batch, tuple(part for piece in pieces for part in piece), *rest)


def _permute(flow: Flow, node: Node, x: Node, dims: Sequence[int]) -> Axes:
    return tuple(flow.of(x)[dim] for dim in dims)


def _transpose(flow: Flow, node: Node, x: Node, one: int, other: int) -> Axes:
    axes = list(flow.of(x))
    axes[one], axes[other] = axes[other], axes[one]
    return tuple(axes)


RULES: Mapping[str, Callable[..., Any]] = {
    "conv2d": _convolution,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "instance_norm": _batch_norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "prelu": _prelu,
    "mean": _mean,
    **dict.fromkeys(("amax", "amin", "sum", "var", "std", "logsumexp"), _mean),
    "linalg_vector_norm": _norm,
    "norm": _norm,
    "max": _extreme,
    "min": _extreme,
    "matmul": _matmul,
    "bmm": _matmul,
    "conv1d": _convolution_along_channels,
    "channel_shuffle": _shuffle,
    "native_channel_shuffle": _shuffle,
    "stack": _stack,
    "select": _select,
    "unbind": _unbind,
    "expand": _expand,
    "expand_as": _expand_as,
    "cat": _concatenation,
    "concat": _concatenation,
    "chunk": _chunk,
    "split": _split,
    "split_with_sizes": _split_sizes,
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
            "flip",
            "hardswish",
            "log_softmax",
            "max_pool2d",
            "softmax",
            "to",
            "upsample_bilinear2d",
            "upsample_nearest2d",
        ),
        _same,
    ),
}
