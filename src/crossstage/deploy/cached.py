"""Exported files that runtimes need and nobody asked for: in a cache, made when first needed."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from crossstage.export import export
from crossstage.export.onnx import OPSET
from crossstage.machine import cache_folder
from crossstage.version import __version__
from crossstage.zoo.registry import Model

_PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "opencv-python-headless", "opencv-python")


def exported_file(model: Model, name: str, *, imgsz: int | None, batch: int) -> Path:
    """The model as an ONNX file in the cache.

    Args:
        model: With its weights.
        name: Its name, for the file's header.
        imgsz: Side of the input in pixels; None for the size the model was trained at.
        batch: Pictures of a pass; more than 1 makes a file that takes any number.

    Raises:
        ConfigError: The size does not fit, or the packages that export are not installed.
        ExportError: The model cannot be exported.
    """
    path = cache_folder() / "onnx" / f"{fingerprint(model, imgsz, batch, __version__, OPSET)}.onnx"
    if not path.is_file():
        export(model, Path(name).name, "onnx", path, imgsz=imgsz, dynamic=batch > 1)
    return path


def fingerprint(model: Model, *about: object) -> str:
    """A short hash of a model's structure, classes and tensors, and of whatever else matters."""
    digest = hashlib.sha256()
    known = (type(model).__name__, str(model), model.class_names, model.preprocessing, *about)
    digest.update(repr(known).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:24]


def versions() -> dict[str, str]:
    """Those of the packages that run models."""
    found = {"crossstage": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
