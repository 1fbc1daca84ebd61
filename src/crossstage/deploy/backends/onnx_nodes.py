"""Pieces of ONNX graphs that PyTorch's exporter does not write: suppression within groups, and padding of the input."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto

MOST_BOXES = (1 << 31) - 1  # of a group that suppression may keep: all


def suppression(boxes: Any, scores: Any, groups: Any, iou: float, num_groups: int) -> Any:
    """Translate :func:`crossstage.ops.nms.exported_nms`: each group is a class of ONNX's own suppression.

    Args:
        boxes: ``(K, 4)`` corners.
        scores: ``(K,)``, at least 0.
        groups: ``(K,)`` from 0 to below ``num_groups``.
        iou: The overlap above which the one of two boxes with the lower score goes.
        num_groups: Number of groups.

    Returns:
        Indices of the kept boxes, best score first.
    """
    from onnx import TensorProto

    op: Any = importlib.import_module("onnxscript").opset18
    member = op.OneHot(groups, [num_groups], [0.0, 1.0], axis=0)  # (groups, K)
    own = op.Where(op.Cast(member, to=TensorProto.BOOL), op.Unsqueeze(scores, [0]), [-1.0])
    many, least = [MOST_BOXES], [-0.5]
    found = op.NonMaxSuppression(op.Unsqueeze(boxes, [0]), op.Unsqueeze(own, [0]), many, [iou], least)
    kept = op.Reshape(op.Slice(found, [2], [3], [1]), [-1])  # of (M, 3): image, group, box
    kept_scores = op.Gather(scores, kept)
    _, order = op.TopK(kept_scores, op.Shape(kept_scores), largest=1, sorted=1)
    return op.Gather(kept, order)


def pad_inside(model: ModelProto, divisor: int) -> None:
    """Make a graph's second input, ``padded``, of its first: zeros below and to the right, up to multiples.

    Args:
        model: The graph, which is changed in place; its inputs are ``images`` and ``padded``.
        divisor: The number that the padded height and width are multiples of.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    (padded,) = (value for value in graph.input if value.name == "padded")
    graph.input.remove(padded)
    constants = {"sides_from": [2], "sides_to": [4], "divisor": [divisor], "unpadded": [0] * 6}
    graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), name) for name, v in constants.items())
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Shape", ["images"], "shape_of_images", {}),
        ("Slice", ["shape_of_images", "sides_from", "sides_to"], "sides", {}),
        ("Neg", ["sides"], "negative_sides", {}),
        ("Mod", ["negative_sides", "divisor"], "missing", {}),  # rows and columns up to the next multiples
        ("Concat", ["unpadded", "missing"], "pads", {"axis": 0}),
        ("Pad", ["images", "pads"], "padded", {}),
    ]
    nodes = [
        helper.make_node(kind, takes, [gives], f"node_{gives}", **options) for kind, takes, gives, options in steps
    ]
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
