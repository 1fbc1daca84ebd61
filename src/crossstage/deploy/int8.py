"""Post-training quantisation to int8: eight-bit weights and activations, scaled by what real images make of them.

The convolutions that predict stay in float: their outputs are coordinates and scores, whose fine steps decide over
average precision, and they cost a few percent of the whole.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from crossstage.deploy.backends.onnx import silent
from crossstage.errors import ConfigError

if TYPE_CHECKING:
    import openvino
    from onnx import ModelProto


def quantise_onnx(model: ModelProto, in_float: Sequence[str], batches: Sequence[Tensor]) -> ModelProto:
    """Static quantisation of ONNX Runtime: QDQ nodes, one scale for each channel of a weight.

    Args:
        model: A float graph.
        in_float: Names of its operations that stay in float, see :func:`predictors`.
        batches: Inputs, each as the graph takes it.

    Raises:
        ConfigError: The packages that quantise are not installed.
    """
    try:
        import onnx
        from onnxruntime.quantization import (  # pyright: ignore[reportMissingTypeStubs]
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
    except ImportError as error:
        raise ConfigError(f"int8 needs {error.name}; try: pip install 'crossstage[export]'") from None

    class Reader(CalibrationDataReader):
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
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=list(in_float),
            extra_options={"CalibMovingAverage": True},  # one odd image must not decide a scale
        )
        return onnx.load(str(target))


def quantise_openvino(model: openvino.Model, in_float: Sequence[str], batches: Sequence[Tensor]) -> openvino.Model:
    """NNCF's quantisation for OpenVINO.

    Args:
        model: A float graph.
        in_float: Names of its operations that stay in float.
        batches: Inputs, each as the graph takes it.

    Raises:
        ConfigError: NNCF is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise ConfigError(f"int8 needs {error.name}; try: pip install 'crossstage[export]'") from None
    present = {operation.get_friendly_name() for operation in model.get_ops()}
    with silent(), contextlib.redirect_stdout(sys.stderr):  # where its progress belongs
        quantised: Any = nncf.quantize(
            model,
            nncf.Dataset([batch.numpy() for batch in batches]),
            preset=nncf.QuantizationPreset.MIXED,  # asymmetric activations: leaky ReLU goes little below 0
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=[name for name in in_float if name in present]),
        )
    return quantised


def predictors(model: ModelProto) -> list[str]:
    """Names of the last convolutions or linear layers, and of all that follows them: decoding, above all."""
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
