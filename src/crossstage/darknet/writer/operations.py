"""How each operation of a recorded graph becomes a layer (``OPERATIONS``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.fx import Node

from crossstage.darknet.writer.layers import SAME, MapShape, Maxima, Part, Repeated, SampledRows, Value, Writer


def _arguments(node: Node, *defaults: Any) -> list[Any]:
    """Return the arguments after the first, with their defaults."""
    return [*node.args[1:], *defaults[len(node.args) - 1 :]]


def _square(writer: Writer, sides: int | Sequence[int]) -> int:
    """Return the one number of both directions."""
    values = [sides] if isinstance(sides, int) else list(sides)
    if len(set(values)) > 1:
        raise writer.refusal(f"{values[0]} rows but {values[1]} columns")
    return values[0]


def _convolution(writer: Writer, node: Node) -> Value:
    weights, bias, *geometry, groups = _arguments(node, None, None, [1, 1], [0, 0], [1, 1], 1)
    weight = writer.tensor(weights)
    stride, padding, dilation = (_square(writer, sides) for sides in geometry)
    size = _square(writer, weight.shape[2:])
    if padding % dilation:
        raise writer.refusal(f"{padding} pixels of padding at dilation {dilation}")
    options = {"filters": weight.shape[0], "size": size, "stride": stride, "padding": padding // dilation}
    options |= {"groups": groups} if groups > 1 else {}
    options |= {"dilation": dilation} if dilation > 1 else {}
    options |= {"activation": "linear"}
    values = [weight.new_zeros(len(weight)) if bias is None else writer.tensor(bias), weight]
    before = writer.read(node)
    return writer.add("convolutional", _shape(node), options, after=before, tensors=values)


def _linear(writer: Writer, node: Node) -> Value:
    weights, bias = _arguments(node, None, None)
    before, weight = writer.read(node), writer.tensor(weights)
    if writer.shape(before)[1:] != (1, 1):
        raise writer.refusal("a linear layer of a map")
    values = [weight.new_zeros(len(weight)) if bias is None else writer.tensor(bias), weight[..., None, None]]
    options = {"filters": len(weight), "size": 1, "stride": 1, "padding": 0, "activation": "linear"}
    return writer.add("convolutional", (len(weight), 1, 1), options, after=before, tensors=values)


def _batch_norm(writer: Writer, node: Node) -> Value:
    source, *values, _training, _momentum, epsilon, _ = list[Any](node.args)
    gain, bias, mean, variance = (writer.tensor(value).double() for value in values)
    scale = gain / (variance + epsilon).sqrt()
    shift = bias - mean * scale
    layer = writer.open_layer(source, ("convolutional",))
    if layer is None:
        return writer.affine(writer.whole(writer.value(source)), scale, shift)
    before, weight = layer.tensors
    layer.tensors = [(before * scale + shift).float(), (weight * scale.view(-1, 1, 1, 1)).float()]
    return writer.value(source)


def _activation(name: str) -> Callable[[Writer, Node], Value]:
    def activate(writer: Writer, node: Node) -> Value:
        source = node.args[0]
        assert isinstance(source, Node)
        layer = writer.open_layer(source, ("convolutional", "shortcut"))
        if layer is None:
            return writer.affine(writer.whole(writer.value(source)), 1.0, 0.0, name)
        layer.options["activation"] = name
        return writer.value(source)

    return activate


def _leaky(writer: Writer, node: Node) -> Value:
    (slope,) = _arguments(node, 0.01)
    names = {0.1: "leaky", 0.01: "relie"}
    if slope not in names:
        raise writer.refusal(f"a leaky ReLU of slope {slope}")
    return _activation(names[slope])(writer, node)


def _hardtanh(writer: Writer, node: Node) -> Value:
    low, high = _arguments(node, -1.0, 1.0)
    if (low, high) != (0, 6):
        raise writer.refusal(f"a clamp to {low} .. {high}")
    return _activation("relu6")(writer, node)


def _hard_sigmoid(writer: Writer, node: Node) -> Value:
    x = writer.read(node)
    return writer.affine(writer.affine(writer.affine(x, 1 / 6, 0.5, "relu"), -1.0, 1.0, "relu"), -1.0, 1.0)


def _max_pool(writer: Writer, node: Node) -> Value:
    size, stride, padding, dilation, _ = _arguments(node, 1, [], [0, 0], [1, 1], False)
    size, padding = _square(writer, size), _square(writer, padding)
    stride = _square(writer, stride) if stride else size
    value, shape = writer.value(node.args[0]), _shape(node)
    totals = (2 * padding, 2 * padding + 1)  # the last windows of PyTorch's ceil_mode reach over the edge
    if isinstance(value, Repeated) and padding == 0 and size > 1:  # no maximum notices what is there twice
        value, totals = value.layer, (1,)
    before = writer.whole(value)
    for total in totals:
        fits = [(side + total - size) // stride + 1 for side in writer.shape(before)[1:]] == list(shape[1:])
        if fits and _square(writer, dilation) == 1:
            return writer.add("maxpool", shape, {"size": size, "stride": stride, "padding": total}, after=before)
    raise writer.refusal("such windows")


def _mean_pool(writer: Writer, node: Node) -> Value:
    size, stride, padding, ceil, counts_padding, divisor = _arguments(node, 1, [], [0, 0], False, True, None)
    size, padding = _square(writer, size), _square(writer, padding)
    stride = _square(writer, stride) if stride else size
    if ceil or (padding and not counts_padding) or divisor:
        raise writer.refusal("a mean of windows that reach over the edge")
    shape = _shape(node)
    weight = torch.full((shape[0], 1, size, size), 1 / size**2)
    before = writer.read(node)
    return writer.depthwise(before, shape, weight, torch.zeros(shape[0]), stride=stride, padding=padding)


def _global_mean(writer: Writer, node: Node) -> Value:
    shape = _shape(node)
    if shape[1:] != (1, 1):
        raise writer.refusal(f"means of {shape[1]} x {shape[2]} windows")
    return writer.add("avgpool", shape, {}, after=writer.read(node))


def _enlarge(writer: Writer, node: Node) -> Value:
    return writer.enlarged(writer.read(node), _shape(node)[1:])


def _concatenate(writer: Writer, node: Node) -> Value:
    sources, (dimension,) = node.args[0], _arguments(node, 0)
    if dimension != 1:
        raise writer.refusal(f"a concatenation along dimension {dimension}")
    assert isinstance(sources, (list, tuple))
    return writer.joined([writer.whole(writer.value(source)) for source in sources])


def _sum(writer: Writer, node: Node) -> Value:
    """Write a sum as a shortcut, which adds as many channels as both have, to the shape of the layer before it."""
    one, two = (writer.value(source) for source in node.args)
    if one is None or two is None or node.kwargs.get("alpha", 1) != 1:
        raise writer.refusal("the sum of a map and a number")
    channels, *sides = shape = _shape(node)
    if isinstance(one, Part) or two == len(writer.layers) - 1:
        one, two = two, one
    one = writer.enlarged(writer.whole(one), sides)
    cut = isinstance(two, Part) and two.start == 0 and two.stop == channels and not two.filling
    two = two.layer if cut else writer.enlarged(writer.whole(two), sides)
    return writer.add("shortcut", shape, {"from": two, "activation": "linear"}, after=one)


def _product(writer: Writer, node: Node) -> Value:
    """Write the product of a map and what gates it: a value for each channel, each pixel or both."""
    one, two = (writer.value(source) for source in node.args)
    if one is None or two is None:
        raise writer.refusal("the product of a map and a number")
    one, two = writer.whole(one), writer.whole(two)
    shape = _shape(node)
    source, gate = (one, two) if writer.shape(one) == shape else (two, one)
    if writer.shape(source) != shape:
        raise writer.refusal("the product of such maps")
    options = {"from": source, "activation": "linear"}
    if writer.shape(gate) == shape:
        return writer.add("sam", shape, options, after=gate)
    if writer.shape(gate)[1:] != (1, 1):
        options |= {"scale_wh": 1}
    return writer.add("scale_channels", shape, options, after=gate)


def _maximum(writer: Writer, node: Node) -> Value:
    """Take the maximum of neighbouring groups of channels, the first ones first."""
    one, two = (writer.value(source) for source in node.args)
    if isinstance(one, Part) and one.start == 0:
        one = Maxima(one.layer, one.stop, one.stop)
    if isinstance(one, Maxima) and isinstance(two, Part):
        follows = (two.layer, two.start, two.stop) == (one.layer, one.stop, one.stop + one.width)
        beyond = two.stop > writer.shape(one.layer)[0]
        if follows and (not beyond or two.filling == -math.inf):
            return Maxima(one.layer, one.width, two.stop)
    raise writer.refusal("the maximum of two maps")


def _fill(writer: Writer, node: Node) -> Value:
    """Take in further channels, or the last row and column once more."""
    sides, mode, filling = _arguments(node, [], "constant", None)
    layer = writer.read(node)
    if mode == "replicate" and list(sides) == [0, 1, 0, 1]:
        return Repeated(layer)
    *others, more = sides
    if mode != "constant" or any(others) or len(others) != 5:
        raise writer.refusal("such padding")
    return Part(layer, 0, writer.shape(layer)[0] + more, float(filling or 0.0))


def _slice(writer: Writer, node: Node) -> Value:
    dimension, start, stop, step = _arguments(node, 0, None, None, 1)
    source, value = node.args[0], writer.value(node.args[0])
    assert isinstance(source, Node)
    length = source.meta["val"].shape[dimension]
    start, stop, step = slice(start, stop, step).indices(length)
    if (start, stop, step) == (0, length, 1):
        return value
    if dimension == 1 and step == 1 and not isinstance(value, (Maxima, SampledRows, Repeated)):
        return _part(value, start, stop)
    if dimension == 2 and (start, stop) == (0, length):
        return SampledRows(writer.whole(value), step)
    if dimension == 3 and (start, stop) == (0, length) and isinstance(value, SampledRows) and value.step == step:
        options = {"size": 1, "stride": step, "padding": 0}
        return writer.add("maxpool", _shape(node), options, after=value.layer)
    raise writer.refusal("such a slice")


def _split(writer: Writer, node: Node) -> list[Value]:
    """Cut channels into parts."""
    (*_, dimension), value = _arguments(node, 1, 0), writer.value(node.args[0])
    if dimension != 1 or isinstance(value, (Maxima, SampledRows, Repeated)):
        raise writer.refusal("such a split")
    edges = [0]
    for part in node.meta["val"]:
        edges.append(edges[-1] + part.shape[1])
    return [_part(value, start, stop) for start, stop in pairwise(edges)]


def _part(value: int | Part, start: int, stop: int) -> Part:
    if isinstance(value, Part):
        return Part(value.layer, value.start + start, value.start + stop, value.filling)
    return Part(value, start, stop)


def _same(writer: Writer, node: Node) -> Value:
    return writer.value(node.args[0])


def _flat(writer: Writer, node: Node) -> Value:
    layer = writer.read(node)
    if writer.shape(layer)[1:] != (1, 1):
        raise writer.refusal("a map as a vector")
    return layer


def _item(writer: Writer, node: Node) -> Value:
    return writer.value(node.args[0])[node.args[1]]


def _shape(node: Node) -> MapShape:
    _, channels, height, width = node.meta["val"].shape
    return channels, height, width


OPERATIONS: dict[str, Callable[[Writer, Node], Any]] = {
    "conv2d": _convolution,
    "linear": _linear,
    "batch_norm": _batch_norm,
    "relu": _activation("relu"),
    "silu": _activation("swish"),
    "mish": _activation("mish"),
    "sigmoid": _activation("logistic"),
    "leaky_relu": _leaky,
    "hardtanh": _hardtanh,
    "hardsigmoid": _hard_sigmoid,
    "max_pool2d": _max_pool,
    "avg_pool2d": _mean_pool,
    "adaptive_avg_pool2d": _global_mean,
    "upsample_nearest2d": _enlarge,
    "expand": _enlarge,
    "cat": _concatenate,
    "add": _sum,
    "mul": _product,
    "maximum": _maximum,
    "pad": _fill,
    "slice": _slice,
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), _split),
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(("flatten", "view", "reshape"), _flat),
    "getitem": _item,
    "_assert_tensor_metadata": lambda *_: None,
}
