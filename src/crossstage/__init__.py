"""CrossStage: Cross Stage Partial networks in PyTorch.

The public surface is small and loaded when first used, so that ``import crossstage`` costs next to nothing::

    import crossstage

    detector = crossstage.load("cspdarknet53_tiny_yolo.coco")
    for detections in detector.predict("photo.jpg"):
        print(detections.data["class_name"], detections.confidence)
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from crossstage.errors import ConfigError, CrossStageError, DataError, ExportError, TrainingError, WeightsError
from crossstage.version import __version__

# It draws without OpenCV as well; what OpenCV is needed for here, an extra brings and a message names.
warnings.filterwarnings("ignore", message=r"OpenCV \(`opencv-python`\) is not installed; supervision")

if TYPE_CHECKING:
    from crossstage import darknet
    from crossstage.csp import to_partial
    from crossstage.deploy.open import open_model
    from crossstage.models.detector import Detector
    from crossstage.nn.fuse import fuse
    from crossstage.nn.partial import Partial
    from crossstage.ops.nms import NMS
    from crossstage.profiling import profile
    from crossstage.training import TrainOptions, train
    from crossstage.weights.cards import list_models, model_info
    from crossstage.weights.from_authors import from_authors
    from crossstage.weights.loading import create_detector, create_model, load

_HOMES = {
    "Detector": "crossstage.models.detector",
    "NMS": "crossstage.ops.nms",
    "Partial": "crossstage.nn.partial",
    "TrainOptions": "crossstage.training",
    "create_detector": "crossstage.weights.loading",
    "create_model": "crossstage.weights.loading",
    "from_authors": "crossstage.weights.from_authors",
    "fuse": "crossstage.nn.fuse",
    "list_models": "crossstage.weights.cards",
    "load": "crossstage.weights.loading",
    "model_info": "crossstage.weights.cards",
    "open_model": "crossstage.deploy.open",
    "profile": "crossstage.profiling",
    "to_partial": "crossstage.csp",
    "train": "crossstage.training",
}

__all__ = [
    "NMS",
    "ConfigError",
    "CrossStageError",
    "DataError",
    "Detector",
    "ExportError",
    "Partial",
    "TrainOptions",
    "TrainingError",
    "WeightsError",
    "__version__",
    "create_detector",
    "create_model",
    "darknet",
    "from_authors",
    "fuse",
    "list_models",
    "load",
    "model_info",
    "open_model",
    "profile",
    "to_partial",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "darknet":
        return importlib.import_module("crossstage.darknet")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
