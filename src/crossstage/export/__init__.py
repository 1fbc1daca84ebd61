"""Models as files that other programs run: ONNX, OpenVINO, TorchScript, exported programs, ncnn and Darknet."""

from crossstage.export.export import Exported, export
from crossstage.export.formats import FORMATS, Format, FormatName

__all__ = ["FORMATS", "Exported", "Format", "FormatName", "export"]
