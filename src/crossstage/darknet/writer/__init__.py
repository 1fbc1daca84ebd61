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

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from crossstage.darknet.weights import Slot, WeightsHeader, save_slots
from crossstage.darknet.writer.layers import INPUT, CfgLayer, Writer, name_of, place_of, source_of
from crossstage.darknet.writer.operations import OPERATIONS
from crossstage.files import write_text
from crossstage.ops.priors import AnchorLevel
from crossstage.structures import Preprocessing


def write_darknet(
    program: torch.export.ExportedProgram,
    path: Path,
    *,
    name: str,
    size: tuple[int, int],
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] = (),
    levels: Sequence[AnchorLevel] = (),
) -> None:
    """Write a cfg, and beside it the weights and, if they are known, the names of the classes.

    Args:
        program: The network as PyTorch records it for one image; each of its outputs becomes an output layer.
        path: The cfg to write.
        name: The network's name, for messages.
        size: Height and width of the input in pixels.
        preprocessing: The way images become input; None if it is not known.
        class_names: Names by class id.
        levels: The anchors of each output of a YOLO detector; empty for a classifier, which gets a softmax.

    Raises:
        ExportError: Darknet has no layers for the network; the message names the module.
    """
    known = preprocessing or Preprocessing()
    layers = _layers(program, name, size, known, levels, len(class_names))
    net: dict[str, Any] = {"batch": 1, "width": size[1], "height": size[0], "channels": 3}
    if known.resize == "letterbox":
        net |= {"letter_box": 1}
    sections = [CfgLayer("net", (3, *size), name, net), *layers]
    write_text(path, "\n\n".join(map(str, sections)) + "\n")
    slots = [Slot(layer.place, layer.tensors) for layer in layers if layer.tensors]
    save_slots(path.with_suffix(".weights"), slots, WeightsHeader())
    if class_names:
        write_text(path.with_suffix(".names"), "\n".join(class_names) + "\n")


def _layers(
    program: torch.export.ExportedProgram,
    name: str,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    levels: Sequence[AnchorLevel],
    classes: int,
) -> list[CfgLayer]:
    """Return every layer of the cfg."""
    writer = Writer(program, name, (3, *size))
    rest = iter(levels)
    outputs = {source_of(output) for output in program.graph.output_node().all_input_nodes}
    for node in program.graph.nodes:
        writer.place = place_of(node)
        if node.op == "placeholder" and node.name not in writer.tensors:
            writer.values[node] = _normalised(writer, preprocessing)
        elif node.op == "call_function":
            if name_of(node) not in OPERATIONS:
                raise writer.refusal(name_of(node))
            writer.values[node] = OPERATIONS[name_of(node)](writer, node)
        if node in outputs:
            before = writer.whole(writer.values[node])
            options = _yolo(next(rest), classes) if levels else {"groups": 1}
            writer.add("yolo" if levels else "softmax", writer.shape(before), options, after=before)
    return writer.layers


def _normalised(writer: Writer, known: Preprocessing) -> int:
    """Write a normalisation as the network's first layer, as Darknet's programs give colours in [0, 1]."""
    if known.colour_order != "rgb":
        raise writer.refusal("blue before red")
    mean, std = torch.tensor(known.mean), torch.tensor(known.std)
    factor = known.scale / std
    return writer.affine(INPUT, factor, -mean / std) if mean.any() or (factor != 1).any() else INPUT


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
