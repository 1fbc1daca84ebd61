"""Exported files that runtimes need and nobody asked for: in a cache, made when first needed."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from crossstage.deploy.backends.onnx import OPSET
from crossstage.deploy.backends.sessions import Runtime
from crossstage.deploy.export import export
from crossstage.errors import ConfigError, DataError
from crossstage.machine import cache_folder
from crossstage.models.registry import Model
from crossstage.version import __version__

_PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "ncnn", "pnnx", "opencv-python-headless", "opencv-python")


def exported_file(
    model: Model,
    name: str,
    runtime: Runtime,
    *,
    imgsz: int | None,
    batch: int = 1,
    calibration: Sequence[Tensor] = (),
) -> Path:
    """The model as a file that a runtime reads, in the cache.

    Args:
        model: With its weights.
        name: Its name, for the file's header.
        runtime: What is to run it.
        imgsz: Side of the input in pixels; None for the size the model was trained at.
        batch: Images of a pass; more than 1 makes a file that takes any number.
        calibration: Inputs to quantise to int8 by; empty for floats.

    Raises:
        ConfigError: The size or the batch does not fit, or the packages that export are not installed.
        DataError: The cache cannot be written.
        ExportError: The model cannot be exported.
    """
    if runtime == "ncnn" and batch > 1:
        raise ConfigError(f"ncnn takes one image at a time; expected batch 1, not {batch}")
    format, file, inside = ("onnx", "model.onnx", "model.onnx")
    if runtime == "ncnn":
        format, file, inside = ("ncnn", "ncnn", "ncnn/model.ncnn.param")
    elif calibration and runtime == "openvino":
        format, file, inside = ("openvino", "openvino", "openvino/model.xml")

    def make(folder: Path) -> None:
        calib = list(calibration) or None
        export(model, Path(name).name, format, folder / file, imgsz=imgsz, dynamic=batch > 1, calib=calib)

    key = fingerprint(model, format, imgsz, batch > 1, *map(_digest, calibration), __version__, OPSET)
    return cached("exported", key, make) / inside


def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made when first needed, and again if it no longer holds what was written.

    Its name ends with a hash of its content, and it appears when it is complete, so that processes which make it at
    once, or are killed, leave nothing behind that another would take for whole.

    Args:
        kind: Where in the cache.
        key: All that its content depends on, hashed.
        make: Fills an empty folder.

    Raises:
        DataError: The cache cannot be written.
    """
    home = cache_folder() / kind
    for found in sorted(home.glob(f"{key}-*")):
        if found.name == f"{key}-{_content(found)}":
            return found
        shutil.rmtree(found, ignore_errors=True)
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=home) as scratch:
            made = Path(scratch) / "entry"
            made.mkdir()
            make(made)
            entry = home / f"{key}-{_content(made)}"
            try:
                made.rename(entry)
            except OSError:
                if not entry.is_dir():  # or another process was as fast
                    raise
    except OSError as error:
        told = error.strerror or error
        raise DataError(f"{home}: cannot be written: {told}; $CROSSSTAGE_CACHE names another folder") from None
    return entry


def _content(folder: Path) -> str:
    digest = hashlib.sha256()
    try:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(str(file.relative_to(folder)).encode())
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    except OSError:  # another process found it damaged, too
        return ""
    return digest.hexdigest()[:16]


def fingerprint(model: Model, *about: object) -> str:
    """A short hash of a model's structure, classes and tensors, and of whatever else matters."""
    digest = hashlib.sha256()
    known = (type(model).__name__, str(model), model.class_names, model.preprocessing, *about)
    digest.update(repr(known).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:24]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def versions() -> dict[str, str]:
    """Those of the packages that run models."""
    found = {"crossstage": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
