"""ONNX files: PyTorch's graph simplified, what the model is in their metadata, and suppression behind it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crossstage.deploy.graph import Plan
from crossstage.deploy.header import KEY, Header
from crossstage.errors import ConfigError

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18  # the newest that OpenCV 4.x, ONNX Runtime and OpenVINO all read, and the lowest the exporter writes itself
MAX_PER_CLASS = 300


def to_onnx(plan: Plan) -> ModelProto:
    """Record a plan by PyTorch's dynamo exporter and simplify it.

    Raises:
        ConfigError: The packages that export are not installed.
    """
    try:
        import onnxscript  # noqa: F401 (the exporter's own)
        import onnxslim
    except ImportError as error:
        raise ConfigError(f"export needs {error.name}; try: pip install 'crossstage[export]'") from None
    with silent(), torch.inference_mode():
        program = torch.onnx.export(
            plan.graph,
            (plan.images,),
            dynamo=True,
            input_names=["images"],
            output_names=plan.header.output_names,
            opset_version=OPSET,
            dynamic_shapes=plan.dynamic_shapes,
            external_data=False,
            verbose=False,
        )
        assert program is not None
        model: Any = onnxslim.slim(program.model_proto)
    _spell_out_hard_sigmoids(model, half=plan.graph.half_precision)
    _strip(model)
    describe(model, plan.header)
    return model


def describe(model: ModelProto, header: Header) -> None:
    """Put a header into a graph's metadata, in place of an earlier one."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: header.to_json()})
    model.producer_name = "crossstage"


def write_onnx(model: ModelProto, path: Path) -> None:
    """Check a graph and write it.

    Raises:
        onnx.checker.ValidationError: It is no valid graph.
    """
    import onnx

    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def add_suppression(
    model: ModelProto, header: Header, *, score_threshold: float, iou_threshold: float
) -> tuple[ModelProto, Header]:
    """Follow boxes and scores by ONNX's own suppression.

    The graph's output becomes ``detections`` ``(M, 7)``, best first: image, class, score, x1, y1, x2, y2.

    Args:
        model: A graph whose outputs are ``boxes`` and ``scores``.
        header: What it says of itself.
        score_threshold: Detections score more than this, in [0, 1].
        iou_threshold: Of two boxes of a class that overlap more than this, the weaker goes, in [0, 1].
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    constants: dict[str, Any] = {
        "most": np.array([MAX_PER_CLASS], np.int64),
        "iou_threshold": np.array([iou_threshold], np.float32),
        "score_threshold": np.array([score_threshold], np.float32),
        "image_and_box": np.array([0, 2], np.int64),
        "image_and_class": np.array([0, 1], np.int64),
        "column": np.array([1], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    steps = [
        ("Transpose", ["scores"], ["scores_by_class"], {"perm": [0, 2, 1]}),
        (
            "NonMaxSuppression",
            ["boxes", "scores_by_class", "most", "iou_threshold", "score_threshold"],
            ["kept"],  # (M, 3): image, class, box
            {},
        ),
        ("Gather", ["kept", "image_and_box"], ["kept_boxes"], {"axis": 1}),
        ("GatherND", ["boxes", "kept_boxes"], ["corners"], {}),
        ("GatherND", ["scores_by_class", "kept"], ["flat_scores"], {}),
        ("Gather", ["kept", "image_and_class"], ["owners"], {"axis": 1}),
        ("Cast", ["owners"], ["float_owners"], {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ["flat_scores", "column"], ["column_scores"], {}),
        ("Concat", ["float_owners", "column_scores", "corners"], ["unordered"], {"axis": 1}),
        ("Shape", ["flat_scores"], ["count"], {}),
        ("TopK", ["flat_scores", "count"], ["ordered_scores", "order"], {"largest": 1, "sorted": 1}),
        ("Gather", ["unordered", "order"], ["detections"], {"axis": 0}),
    ]
    graph.node.extend(helper.make_node(kind, takes, gives, **options) for kind, takes, gives, options in steps)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["found", 7]))
    header = replace(header, outputs="detections", score_threshold=score_threshold, iou_threshold=iou_threshold)
    describe(model, header)
    return model, header


def _spell_out_hard_sigmoids(model: ModelProto, *, half: bool) -> None:
    """As ``clip(x / 6 + 1 / 2, 0, 1)``: OpenCV takes a product with the operation for a hard swish of its argument."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph, nodes = model.graph, list(model.graph.node)
    if all(node.op_type != "HardSigmoid" for node in nodes):
        return
    values = {"hard_scale": 1 / 6, "hard_shift": 0.5, "hard_low": 0.0, "hard_high": 1.0}
    kind = np.float16 if half else np.float32
    graph.initializer.extend(numpy_helper.from_array(np.array(value, kind), name) for name, value in values.items())
    del graph.node[:]
    for node in nodes:
        if node.op_type != "HardSigmoid":
            graph.node.append(node)
            continue
        (x,), (y,) = node.input, node.output
        steps = [
            ("Mul", [x, "hard_scale"], f"{y}_scaled"),
            ("Add", [f"{y}_scaled", "hard_shift"], f"{y}_shifted"),
            ("Clip", [f"{y}_shifted", "hard_low", "hard_high"], y),
        ]
        graph.node.extend(helper.make_node(kind, takes, [gives], f"node_{gives}") for kind, takes, gives in steps)


def _strip(model: ModelProto) -> None:
    """Leave out what the exporter notes of the source code, paths of this machine among it."""
    for part in (model, model.graph):
        part.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        del value.metadata_props[:]


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """The exporters' loggers and warnings, which are of their own machinery, keep quiet."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
