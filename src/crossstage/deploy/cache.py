"""Exported files that runtimes need and nobody asked for: in a cache, made when first needed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from crossstage.deploy.backends import BACKENDS, formats, ordered, runtimes
from crossstage.deploy.export import export
from crossstage.errors import ConfigError, DataError
from crossstage.files import settled_folder
from crossstage.machine import cache_folder
from crossstage.models.registry import Model
from crossstage.version import __version__


def exported_file(
    model: Model,
    name: str,
    runtime: str,
    *,
    imgsz: int | tuple[int, int] | None,
    batch: int = 1,
    calibration: Sequence[Tensor] = (),
) -> Path:
    """Return the model as a file that a runtime reads, in the cache.

    Args:
        model: The model with its weights.
        name: The model's name, for the file's header.
        runtime: The name of the backend that is to run it.
        imgsz: Side of the input in pixels, or its height and width; None for the size the model was trained at.
        batch: Images of a pass; more than 1 makes a file that takes any number, as does a model whose input's size
            differs from image to image.
        calibration: Inputs to quantise to int8 by; empty for floats.

    Raises:
        ConfigError: The runtime has no int8, the size or the batch does not fit, or the packages that export are not
            installed.
        DataError: The cache cannot be written.
        ExportError: The model cannot be exported.
    """
    able = runtimes()[runtime]
    format = able.int8_format if calibration else able.format
    if not format:
        raise ConfigError(f"{runtime} does not run int8")
    if batch > 1 and "dynamic" not in formats()[format].options:
        raise ConfigError(f"{BACKENDS[runtime].label} takes one image at a time; expected batch 1, not {batch}")
    varies = model.preprocessing is not None and model.preprocessing.resize == "shortest"
    return exported_as(model, name, format, imgsz=imgsz, dynamic=batch > 1 or varies, calibration=calibration)


def exported_as(
    model: Model,
    name: str,
    format: str,
    *,
    imgsz: int | tuple[int, int] | None,
    dynamic: bool = False,
    calibration: Sequence[Tensor] = (),
) -> Path:
    """Return the file that holds the graph of a model in a format, in the cache.

    Args:
        model: The model with its weights.
        name: The model's name, for the file's header.
        format: One of :func:`~crossstage.deploy.backends.formats`.
        imgsz: Side of the input in pixels, or its height and width; None for the size the model was trained at.
        dynamic: Whether the file takes any number of images of any size.
        calibration: Inputs to quantise to int8 by; empty for floats.

    Raises:
        ConfigError: The format has no such option, the size does not fit, or a package that exports is missing.
        DataError: The cache cannot be written.
        ExportError: The model cannot be exported.
    """
    kind = formats()[format]
    file = f"model{kind.suffix}"

    def make(folder: Path) -> None:
        calib = list(calibration) or None
        export(model, Path(name).name, format, folder / file, imgsz=imgsz, dynamic=dynamic, calib=calib)

    key = fingerprint(model, format, imgsz, dynamic, *map(_digest, calibration), versions(format))
    return kind.graph_file(cached("exported", key, make) / file)


def cached(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, made when first needed, and again if it no longer holds what was written.

    Its name ends with a hash of its content, and it appears when it is complete, so that processes which make it at
    once, or are killed, leave nothing behind that another would take for whole.

    Args:
        kind: Name of the part of the cache that the folder lies in.
        key: A hash of all that the folder's content depends on.
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
        return settled_folder(home, make, lambda made: f"{key}-{_content(made)}")
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{home}: cannot be written: {reason}; $CROSSSTAGE_CACHE names another folder") from None


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
    """Return a short hash of a model's structure, settings, classes and tensors.

    Args:
        model: The model.
        about: Whatever else the hash is to depend on, by its ``repr``.
    """
    digest = hashlib.sha256()
    row = getattr(getattr(model, "head", None), "row", None)
    known = (type(model).__name__, str(model), row, model.class_names, model.preprocessing, *about)
    digest.update(repr(known).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:24]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes(tensor)).hexdigest()


def versions(*backends: str) -> dict[str, str]:
    """Return the versions of this package and of the packages of backends, by default of all, as far as installed."""
    found = {"crossstage": __version__}
    for name, backend in ordered().items():
        for package in backend.distributions if not backends or name in backends else ():
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                continue
    return found
