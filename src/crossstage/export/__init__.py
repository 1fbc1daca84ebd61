"""Models as files that other programs run: ONNX, OpenVINO, TorchScript, exported programs, ncnn and Darknet."""

from crossstage.export.export import Exported, export
from crossstage.export.formats import FORMATS, Format, FormatName
from crossstage.export.onnx import OPSET

__all__ = ["FORMATS", "OPSET", "Exported", "Format", "FormatName", "export"]
