"""Changes to a network in OpenVINO that might make it faster, in milliseconds of one core's time.

    python -m research.bench.attempts

The core's time, by one thread, hardly depends on what else the machine does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import openvino
from onnx import helper
from openvino.preprocess import PrePostProcessor

from crossstage import load
from crossstage.deploy.cache import exported_file
from crossstage.machine import has_bf16

MODEL, SIZE, ROUNDS = "cspdarknet53_tiny_yolo.coco", 416, 20


def pooled_first(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, maxima of a concatenation that nothing else reads taken of its parts: a quarter is copied."""
    read = [name for node in model.graph.node for name in node.input]
    makers = {output: node for node in model.graph.node for output in node.output}
    nodes = []
    for node in model.graph.node:
        joint = makers.get(node.input[0])
        if node.op_type != "MaxPool" or not joint or joint.op_type != "Concat" or read.count(node.input[0]) > 1:
            nodes.append(node)
            continue
        nodes.remove(joint)
        parts = [f"{node.name}_{index}" for index in range(len(joint.input))]
        for source, part in zip(joint.input, parts, strict=True):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name, copy.input[0], copy.output[0] = part, source, part
            nodes.append(copy)
        nodes.append(helper.make_node("Concat", parts, list(node.output), name=joint.name, axis=1))
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return model


def channels_last(model: Any, *, outputs: bool) -> Any:
    """Input, or outputs, in the order that the convolutions work in."""
    steps = PrePostProcessor(model)
    for place in [steps.output(index) for index in range(len(model.outputs))] if outputs else [steps.input()]:
        place.model().set_layout(openvino.Layout("NCHW"))
        place.tensor().set_layout(openvino.Layout("NHWC"))
    return steps.build()


def main() -> None:
    core = openvino.Core()
    path = exported_file(load(MODEL), "attempts", "openvino", imgsz=SIZE)
    images = np.random.default_rng(0).random((1, 3, SIZE, SIZE), dtype=np.float32)
    variants: dict[str, Any] = {
        "as exported": core.read_model(path),
        "pooled before it is concatenated": core.read_model(pooled_first(onnx.load(str(path))).SerializeToString()),
        "channels-last input": channels_last(core.read_model(path), outputs=False),
        "channels-last outputs": channels_last(core.read_model(path), outputs=True),
    }
    print("| | float32 | bfloat16 |\n|---|--:|--:|")
    precisions = ("f32", "bf16") if has_bf16() else ("f32",)
    runs = {
        (name, precision): _run(core, model, precision, images if "input" not in name else _last(images))
        for name, model in variants.items()
        for precision in precisions
    }
    times = _spent(runs)
    for name in variants:
        print(f"| {name} | {' | '.join(f'{times[name, precision]:.2f}' for precision in precisions)} |")


def _last(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _run(core: openvino.Core, model: Any, precision: str, images: np.ndarray) -> Callable[[], object]:
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda: request.infer([images], share_inputs=True)


def _spent(runs: dict[tuple[str, str], Callable[[], object]]) -> dict[tuple[str, str], float]:
    """Medians of the process's time, in turns."""
    times: dict[tuple[str, str], list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS):
        for name, run in list(runs.items())[:: 1 if number % 2 else -1]:
            run()
            start = time.process_time()
            run()
            times[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(spent) for name, spent in times.items()}


if __name__ == "__main__":
    main()
