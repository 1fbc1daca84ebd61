"""Exported files, run by ONNX Runtime, OpenVINO or OpenCV as models of this package are.

No other package is needed to run a file than its runtime: what a model is rides in the file, see :class:`Header`.
"""

from crossstage.runtimes.exported import ExportedClassifier, ExportedDetector, is_exported, open_exported
from crossstage.runtimes.header import Header
from crossstage.runtimes.sessions import RUNTIMES, Precision, Runtime, Session, installed, start

__all__ = [
    "RUNTIMES",
    "ExportedClassifier",
    "ExportedDetector",
    "Header",
    "Precision",
    "Runtime",
    "Session",
    "installed",
    "is_exported",
    "open_exported",
    "start",
]
