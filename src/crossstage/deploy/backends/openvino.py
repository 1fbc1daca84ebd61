"""OpenVINO writes its own files, converted from ONNX, and runs these and ONNX files on the CPU."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.parsers.expat import ExpatError, ParserCreate

from crossstage.deploy.backends.base import ALL_OPTIONS, KEY, Arithmetic, Backend, FileFormat, Recipe, Runtime
from crossstage.deploy.backends.onnx import build, layers, predictors, save
from crossstage.deploy.backends.shared import silent, take_turns

if TYPE_CHECKING:
    import openvino
    from torch import Tensor

    from crossstage.deploy.backends.base import Floats, Session
    from crossstage.deploy.header import ExportHeader

BIASED = "/WithoutBiases"  # behind the name of a convolution, whose bias is an addition of the name itself
_MAX_XML_BYTES = 1 << 26  # the graph of the largest network here has 2 MB


def write(recipe: Recipe, path: Path) -> ExportHeader:
    """Write ``model.xml`` and ``model.bin``.

    The graph is converted from ONNX: OpenVINO's own reader of PyTorch's graphs is slower and no better.
    """
    import openvino

    with tempfile.TemporaryDirectory(prefix="crossstage-") as scratch:
        model, header = build(replace(recipe, calibration=()))
        in_float = [*predictors(model), *recipe.in_float]
        save(model, Path(scratch) / "model.onnx")
        converted = openvino.Core().read_model(Path(scratch) / "model.onnx")
        if recipe.calibration:
            converted = _quantised(converted, in_float, recipe.calibration)
        converted.set_rt_info(header.to_json(), KEY)
        openvino.save_model(converted, path / "model.xml", compress_to_fp16=recipe.half)
    return header


def _quantised(model: openvino.Model, in_float: Sequence[str], batches: Sequence[Tensor]) -> openvino.Model:
    """Return a graph quantised by NNCF, in which the named operations stay in float."""
    import nncf

    present = {operation.get_friendly_name() for operation in model.get_ops()}
    with silent(), contextlib.redirect_stdout(sys.stderr):  # where its progress belongs
        quantised: Any = nncf.quantize(
            model,
            nncf.Dataset([batch.numpy() for batch in batches]),
            preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations: leaky ReLU goes little below 0
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=[name for name in present if name.removesuffix(BIASED) in in_float]),
        )
    return quantised


def read_header(path: Path) -> str | None:
    """Return the value of ``<net><rt_info><crossstage>`` in a graph's file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is too large, no XML, or defines entities.
    """
    found, inside = [], []

    def begin(name: str, attributes: dict[str, str]) -> None:
        inside.append(name)
        if inside == ["net", "rt_info", KEY]:
            found.append(attributes.get("value", ""))

    def refuse(*_: object) -> None:
        raise ValueError("it defines entities")

    parser = ParserCreate()
    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda _: inside.pop()
    parser.StartDoctypeDeclHandler = refuse
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > _MAX_XML_BYTES:
            raise ValueError(f"{size:,} bytes, expected at most {_MAX_XML_BYTES:,}")
        try:
            parser.ParseFile(file)
        except ExpatError as error:
            raise ValueError(str(error)) from None
    return found[-1] if found else None


def start(path: Path, outputs: Sequence[str], threads: int | None, precision: Arithmetic, streams: int) -> Session:
    """Load a file; see :class:`~crossstage.deploy.backends.base.Runtime`."""
    import openvino

    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
    }
    if streams > 1:
        options["ENABLE_CPU_PINNING"] = False  # what surrounds the network would wait for its core
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads * streams
    compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def session() -> Session:
        request = compiled.create_infer_request()

        def run(images: Floats) -> list[Floats]:
            request.infer([images], share_inputs=True)
            return [request.get_tensor(name).data.copy() for name in outputs]

        return run

    return take_turns([session() for _ in range(streams)])


BACKENDS = {
    "openvino": Backend(
        label="OpenVINO",
        module="openvino",
        install="crossstage[export]",
        preference=20,
        distributions=("torch", "onnx", "onnxscript", "onnxslim", "openvino", "nncf"),
        format=FileFormat(
            suffix="_openvino",
            options=ALL_OPTIONS,
            write=write,
            read_header=read_header,
            graph="model.xml",
            half_inside=False,
            second_stage=True,
            layers=layers,
        ),
        runtime=Runtime(
            reads=(".xml", ".onnx"),
            start=start,
            format="onnx",
            int8_format="openvino",
            precisions=("fp32", "bf16"),
            second_stage=True,
        ),
    )
}
