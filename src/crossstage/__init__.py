"""CrossStage: Cross Stage Partial networks in PyTorch.

The public surface is small and loaded when first used, so that ``import crossstage`` costs next to nothing::

    import crossstage

    detector = crossstage.load("cspdarknet53_tiny_yolo.coco")
    for detections in detector.predict("photo.jpg"):
        print(detections.data["class_name"], detections.confidence)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from crossstage.errors import ConfigError, CrossStageError, DataError, ExportError, TrainingError, WeightsError
from crossstage.version import __version__

if TYPE_CHECKING:
    from crossstage import darknet
    from crossstage.convert import to_partial
    from crossstage.deploy import open_model
    from crossstage.detectors import Detector
    from crossstage.nn import Partial
    from crossstage.nn.fuse import fuse
    from crossstage.training import TrainOptions, train
    from crossstage.zoo import create_detector, create_model, list_models, load, model_info, profile

_HOMES = {
    "Detector": "crossstage.detectors",
    "Partial": "crossstage.nn",
    "create_detector": "crossstage.zoo",
    "create_model": "crossstage.zoo",
    "fuse": "crossstage.nn.fuse",
    "list_models": "crossstage.zoo",
    "load": "crossstage.zoo",
    "TrainOptions": "crossstage.training",
    "model_info": "crossstage.zoo",
    "open_model": "crossstage.deploy",
    "profile": "crossstage.zoo",
    "to_partial": "crossstage.convert",
    "train": "crossstage.training",
}

__all__ = [
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
