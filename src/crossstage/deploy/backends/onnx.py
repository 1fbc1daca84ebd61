"""ONNX files: PyTorch's graph simplified, with the model's header in its metadata and suppression behind its boxes.

int8 is static quantisation: eight-bit weights and activations, scaled by what real images make of them. The
convolutions that predict stay in float: their outputs are coordinates and scores, whose fine steps decide over average
precision, and they cost a few percent of the whole.
"""

from __future__ import annotations

import importlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from crossstage.deploy.backends.base import ALL_OPTIONS, KEY, MAX_HEADER_BYTES, Backend, FileFormat, Recipe
from crossstage.deploy.backends.onnx_nodes import pad_inside, suppression
from crossstage.deploy.backends.shared import silent
from crossstage.errors import ConfigError

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from crossstage.deploy.graph import ExportPlan
    from crossstage.deploy.header import ExportHeader
    from crossstage.ops.nms import NMS

OPSET = 18  # the newest that OpenCV 4.x, ONNX Runtime and OpenVINO all read, and the lowest the exporter writes itself


def write(recipe: Recipe, path: Path) -> ExportHeader:
    """Write a recipe as one ONNX file."""
    model, header = build(recipe)
    save(model, path)
    return header


def build(recipe: Recipe) -> tuple[ModelProto, ExportHeader]:
    """Return the ONNX graph of a recipe, and the header that lies in its metadata.

    Raises:
        ConfigError: ONNX has no suppression of the wanted kind.
    """
    header = recipe.plan.header
    if recipe.nms:
        _check_nms(recipe.nms)
    model = to_onnx(recipe.plan)
    if recipe.calibration:
        model = quantise(model, [*predictors(model), *recipe.in_float], recipe.calibration)
        describe(model, header)
    if recipe.nms:
        header = replace(header, outputs="detections", nms=recipe.nms)
        add_suppression(model, recipe.nms, single=header.batch == 1)
        describe(model, header)
    return model, header


def layers(recipe: Recipe) -> list[str]:
    """Return the names of the layers that become int8; see :class:`~crossstage.deploy.backends.base.FileFormat`."""
    from crossstage.deploy.sensitivity import ranked

    model = to_onnx(recipe.plan)
    return ranked(model, predictors(model), recipe.calibration)


def to_onnx(plan: ExportPlan) -> ModelProto:
    """Record a plan by PyTorch's dynamo exporter and simplify it."""
    import onnxslim
    import torch

    importlib.import_module("onnxscript")  # the exporter needs it, and would say so late and at length
    with silent(), torch.inference_mode():
        program = torch.onnx.export(
            plan.graph,
            plan.inputs,
            dynamo=True,
            input_names=["images", "padded"][: len(plan.inputs)],
            output_names=plan.header.output_names,
            opset_version=OPSET,
            dynamic_shapes=plan.dynamic_shapes,
            external_data=False,
            custom_translation_table={torch.ops.crossstage.nms.default: suppression},
            verbose=False,
        )
        assert program is not None
        recorded = program.model_proto
        if len(plan.inputs) > 1:
            pad_inside(recorded, plan.model.size_divisor)
        model: Any = onnxslim.slim(recorded)
    _spell_out_hard_sigmoids(model, half=plan.graph.half_precision)
    _strip(model)
    describe(model, plan.header)
    return model


def describe(model: ModelProto, header: ExportHeader) -> None:
    """Put a header into a graph's metadata, in place of an earlier one."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: header.to_json()})
    model.producer_name = "crossstage"


def save(model: ModelProto, path: Path) -> None:
    """Check a graph and write it.

    Raises:
        onnx.checker.ValidationError: It is no valid graph.
    """
    import onnx

    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def quantise(model: ModelProto, in_float: Sequence[str], batches: Sequence[Tensor]) -> ModelProto:
    """Quantise a graph by ONNX Runtime's static quantisation: QDQ nodes, one scale for each channel of a weight.

    Args:
        model: A graph in float32.
        in_float: Names of the operations that stay in float, see :func:`predictors`.
        batches: Inputs, each as the graph takes it.
    """
    import onnx
    from onnxruntime.quantization import (  # pyright: ignore[reportMissingTypeStubs]
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any]:
            batch = next(self.left, None)
            return {} if batch is None else {"images": batch.numpy()}

    with silent(), tempfile.TemporaryDirectory(prefix="crossstage-") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, str(source))
        quantize_static(
            source,
            target,
            Batches(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=list(in_float),
            extra_options={"CalibMovingAverage": True},  # one odd image must not decide a scale
        )
        return onnx.load(str(target))


def predictors(model: ModelProto) -> list[str]:
    """Return the names of the last convolutions or linear layers of a graph, and of all operations that follow them."""
    makers = {output: node for node in model.graph.node for output in node.output}
    names, pending = [], [output.name for output in model.graph.output]
    while pending:
        node = makers.get(pending.pop())
        if node is None or node.name in names:
            continue
        names.append(node.name)
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            pending.extend(node.input)
    return names


def _check_nms(nms: NMS) -> None:
    if nms.kind != "iou" or nms.class_ids is not None:
        which = f"of kind {nms.kind!r}" if nms.kind != "iou" else "of chosen classes"
        raise ConfigError(f"suppression {which} cannot lie inside a graph; expected kind 'iou' and all classes")


def add_suppression(model: ModelProto, nms: NMS, *, single: bool) -> None:
    """Follow boxes and scores by ONNX's own suppression.

    The graph's output becomes ``detections`` ``(M, 7)``, best first: image, class, score, x1, y1, x2, y2.

    Args:
        model: A graph whose outputs are ``boxes`` and ``scores``.
        nms: Thresholds of suppression within each class, and the most detections of an image.
        single: Whether the graph takes one image at a time.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    constants: dict[str, Any] = {
        "most": np.array([nms.max_detections], np.int64),  # of a class for suppression, then of an image
        "iou_threshold": np.array([nms.iou], np.float32),
        "score_threshold": np.array([nms.score], np.float32),
        "image_and_box": np.array([0, 2], np.int64),
        "image_and_class": np.array([0, 1], np.int64),
        "column": np.array([1], np.int64),
    }
    if not single:
        constants |= {"first": np.array([0], np.int64), "scalar": np.array(0, np.int64), "bit": np.array([0, 1])}
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
        *(_BEST_OF_ONE if single else _BEST_OF_EACH),
    ]
    graph.node.extend(helper.make_node(kind, takes, gives, **options) for kind, takes, gives, options in steps)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["found", 7]))


_BEST_OF_ONE: list[tuple[str, list[str], list[str], dict[str, int]]] = [
    ("Min", ["count", "most"], ["taken"], {}),
    ("TopK", ["flat_scores", "taken"], ["ordered_scores", "order"], {"largest": 1, "sorted": 1}),
    ("Gather", ["unordered", "order"], ["detections"], {"axis": 0}),
]
"""The best rows of the only image."""

_BEST_OF_EACH: list[tuple[str, list[str], list[str], dict[str, int]]] = [
    ("TopK", ["flat_scores", "count"], ["ordered_scores", "order"], {"largest": 1, "sorted": 1}),
    ("Gather", ["unordered", "order"], ["ordered"], {"axis": 0}),
    ("Gather", ["kept", "order"], ["ordered_kept"], {"axis": 0}),
    ("Gather", ["ordered_kept", "scalar"], ["image_of_row"], {"axis": 1}),  # (M,)
    ("Shape", ["boxes"], ["shape_of_boxes"], {}),
    ("Gather", ["shape_of_boxes", "first"], ["images_count"], {"axis": 0}),
    ("OneHot", ["image_of_row", "images_count", "bit"], ["of_image"], {}),  # (M, N)
    ("CumSum", ["of_image", "scalar"], ["rows_so_far"], {}),
    ("Mul", ["rows_so_far", "of_image"], ["own_rows_so_far"], {}),
    ("ReduceSum", ["own_rows_so_far", "column"], ["rank"], {"keepdims": 0}),  # (M,), from 1 in each image
    ("LessOrEqual", ["rank", "most"], ["among_best"], {}),
    ("NonZero", ["among_best"], ["best_rows"], {}),
    ("Squeeze", ["best_rows", "first"], ["best_row"], {}),
    ("Gather", ["ordered", "best_row"], ["detections"], {"axis": 0}),
]
"""The best rows of each of several images: those with the lowest rank among the rows of their image."""


def _spell_out_hard_sigmoids(model: ModelProto, *, half: bool) -> None:
    """Write hard sigmoids as ``clip(x / 6 + 1 / 2, 0, 1)``.

    OpenCV takes a product with the operation for a hard swish of its argument.
    """
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
    """Remove what the exporter notes of the source code, paths of this machine among it."""
    for part in (model, model.graph):
        part.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    del model.graph.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        del value.metadata_props[:]


def read_header(path: Path) -> str | None:
    """Return the value of the header's key in a file's metadata.

    Raises:
        OSError: The file cannot be read.
        ValueError, EOFError: It is no ONNX file.
    """
    with path.open("rb") as file:
        for entry in _fields(file, _METADATA):
            key, value = (b"".join(_fields(io.BytesIO(entry), number)) for number in (1, 2))
            if key == KEY.encode():
                return value.decode()
    return None


_METADATA = 14  # ModelProto.metadata_props
_MAX_FIELDS = 10_000
_LENGTHS = {1: 8, 5: 4}  # bytes of fixed-size wire types


def _fields(file: BinaryIO, wanted: int) -> Iterator[bytes]:
    """Yield the values of a field of a protobuf message and skip the others (protobuf's wire format)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    for _ in range(_MAX_FIELDS):
        if file.tell() == size:
            return
        number, wire = divmod(_varint(file), 8)
        if wire == 0:
            _varint(file)
            continue
        if wire != 2 and wire not in _LENGTHS:
            raise ValueError(f"a field of wire type {wire}")
        length = _varint(file) if wire == 2 else _LENGTHS[wire]
        if length > size - file.tell():
            raise EOFError(f"a field of {length:,} bytes reaches beyond its end")
        if number == wanted and wire == 2 and length <= MAX_HEADER_BYTES:
            yield file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)
    raise ValueError(f"more than {_MAX_FIELDS:,} fields")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 10 bytes")


BACKENDS = {
    "onnx": Backend(
        label="ONNX",
        module="onnx",
        install="crossstage[export]",
        preference=10,
        distributions=("torch", "onnx", "onnxscript", "onnxslim"),
        format=FileFormat(
            suffix=".onnx",
            options=ALL_OPTIONS,
            write=write,
            read_header=read_header,
            note=f"opset {OPSET}",
            second_stage=True,
            layers=layers,
        ),
    )
}
