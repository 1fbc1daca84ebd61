"""Darknet's files: every operation of a network as the layer of a ``.cfg`` that computes it, and its ``.weights``.

The network is recorded as PyTorch runs it. Batch norm is taken up by the convolution before it, as OpenCV's reader of
these files knows another epsilon than Darknet; an activation by the layer before it. What Darknet has no layer for is
written with those that all its readers have, where that is exact:

==============================  ========================================================================
PyTorch                         Darknet
==============================  ========================================================================
mean of windows                 depthwise convolution with equal weights
batch norm or activation alone  depthwise 1x1 convolution
linear layer                    1x1 convolution of a map of one pixel
every n-th pixel                maximum of windows of one pixel, n apart
any range of channels           routes of equal groups, joined
hard sigmoid                    ``1 - relu(1 - relu(x / 6 + 1 / 2))``
value added everywhere          enlarged by its nearest neighbour
==============================  ========================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossstage import darknet
from crossstage.darknet.weights import Header as WeightsHeader
from crossstage.darknet.weights import Slot, save_slots
from crossstage.errors import ExportError
from crossstage.export.darknet.layers import INPUT, Layer, Writer, name_of, place_of, source_of
from crossstage.export.darknet.operations import OPERATIONS
from crossstage.export.graph import Plan
from crossstage.files import write_text
from crossstage.heads import AnchorLevel
from crossstage.inference.model import Preprocessing
from crossstage.runtimes import Header


def write_darknet(plan: Plan, path: Path) -> None:
    """Write a cfg, and beside it the weights and, if they are known, the names of the classes.

    Raises:
        ExportError: Darknet has no layers for the network; the message names the module.
    """
    header = plan.header
    if header.outputs == "boxes":
        raise ExportError(f"{header.name} is read from Darknet's files; there is nothing to convert")
    layers = _layers(plan)
    _, _, height, width = plan.images.shape
    net: dict[str, Any] = {"batch": 1, "width": width, "height": height, "channels": 3}
    if header.preprocessing is not None and header.preprocessing.resize == "letterbox":
        net |= {"letter_box": 1}
    sections = [Layer("net", (3, height, width), header.name, net), *layers]
    write_text(path, "\n\n".join(map(str, sections)) + "\n")
    slots = [Slot(layer.place, layer.tensors) for layer in layers if layer.tensors]
    save_slots(path.with_suffix(".weights"), slots, WeightsHeader())
    if header.class_names:
        write_text(path.with_suffix(".names"), "\n".join(header.class_names) + "\n")


def run_darknet(path: Path, header: Header, images: Tensor) -> list[Any]:
    """What this package's reader of Darknet's files computes of one that was written."""
    known = header.preprocessing or Preprocessing()
    network = darknet.load(path, path.with_suffix(".weights"))
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (known.mean, known.std))
    with torch.inference_mode():
        return [output.numpy() for output in network(images * std + mean)]


def _layers(plan: Plan) -> list[Layer]:
    """Every layer of the cfg."""
    program = plan.record()
    writer = Writer(program, plan.header.name, (3, plan.images.shape[2], plan.images.shape[3]))
    known, levels = plan.header.preprocessing or Preprocessing(), iter(plan.header.levels)
    outputs = {source_of(output) for output in program.graph.output_node().all_input_nodes}
    for node in program.graph.nodes:
        writer.place = place_of(node)
        if node.op == "placeholder" and node.name not in writer.tensors:
            writer.values[node] = _normalised(writer, known)
        elif node.op == "call_function":
            if name_of(node) not in OPERATIONS:
                raise writer.refusal(name_of(node))
            writer.values[node] = OPERATIONS[name_of(node)](writer, node)
        if node in outputs:
            before = writer.whole(writer.values[node])
            options = _yolo(next(levels), len(plan.header.class_names)) if plan.header.levels else {"groups": 1}
            writer.add("yolo" if plan.header.levels else "softmax", writer.shape(before), options, after=before)
    return writer.layers


def _normalised(writer: Writer, known: Preprocessing) -> int:
    """Darknet's own programs give colours in [0, 1], so any other normalisation is the network's first layer."""
    mean, std = torch.tensor(known.mean), torch.tensor(known.std)
    return writer.affine(INPUT, 1 / std, -mean / std) if mean.any() or (std != 1).any() else INPUT


def _yolo(level: AnchorLevel, classes: int) -> dict[str, Any]:
    return {
        "mask": ",".join(str(index) for index in range(len(level.anchors))),
        "anchors": ", ".join(f"{_number(width)},{_number(height)}" for width, height in level.anchors),
        "classes": classes,
        "num": len(level.anchors),
        "scale_x_y": _number(level.scale_x_y),
    }


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
