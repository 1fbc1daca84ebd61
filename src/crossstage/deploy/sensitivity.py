"""Which layers of a graph lose most by eight-bit weights and activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto
    from torch import Tensor

MOST_IMAGES = 8  # more of them hardly change the order of layers


def ranked(model: ModelProto, exact: Sequence[str], batches: Sequence[Tensor]) -> list[str]:
    """Return the names of convolutions and linear layers, the one that eight bits harm most first.

    A layer's harm is the noise that rounding adds to its weights and to its input, each relative to their power: to
    first order the noises of the two factors of a product add up.

    Args:
        model: An ONNX graph in float32.
        exact: Names of operations that stay in float in any case, which are left out.
        batches: Inputs ``(1, 3, H, W)``, of which the first eight are run.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [
        node
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights and node.name not in exact
    ]
    if not layers:
        return []
    entering = _noise_of_inputs(model, list(dict.fromkeys(node.input[0] for node in layers)), batches)
    harm = {
        node.name: entering[node.input[0]] + _noise_of_weights(numpy_helper.to_array(weights[node.input[1]]))
        for node in layers
    }
    return sorted(harm, key=lambda name: -harm[name])


def _noise_of_inputs(model: ModelProto, names: Sequence[str], batches: Sequence[Tensor]) -> dict[str, float]:
    """Return the mean relative noise of rounding tensors of a graph to 256 steps from their least to their largest."""
    import onnx
    import onnxruntime

    watched: Any = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "images")
    inner = [output.name for output in watched.graph.output]
    found: dict[str, list[float]] = {name: [] for name in names}
    session = None
    if inner:
        session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch in batches[:MOST_IMAGES]:
        image = batch.numpy()
        values: list[Any] = list(session.run(inner, {"images": image})) if session else []
        for name, value in zip([*inner, "images"], [*values, image], strict=True):
            if name in found:
                found[name].append(_relative_noise(value, float(np.ptp(value)) / 255))
    return {name: float(np.mean(noises)) for name, noises in found.items()}


def _noise_of_weights(weight: NDArray[np.float32]) -> float:
    """Return the relative noise of rounding weights, whose first axis is the output's, to 255 steps around 0."""
    flat = weight.reshape(len(weight), -1)
    return _relative_noise(flat, np.abs(flat).max(1, keepdims=True) / 127)


def _relative_noise(values: NDArray[np.float32], step: float | NDArray[np.float32]) -> float:
    step = np.maximum(step, 1e-12)
    noise = values - np.round(values / step) * step
    return float((noise**2).sum() / max(1e-12, float((values**2).sum())))
