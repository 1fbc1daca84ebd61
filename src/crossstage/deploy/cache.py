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
    imgsz: int | None,
    batch: int = 1,
    calibration: Sequence[Tensor] = (),
) -> Path:
    """Return the model as a file that a runtime reads, in the cache.

    Args:
        model: The model with its weights.
        name: The model's name, for the file's header.
        runtime: The name of the backend that is to run it.
        imgsz: Side of the input in pixels; None for the size the model was trained at.
        batch: Images of a pass; more than 1 makes a file that takes any number.
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
    kind = formats()[format]
    if batch > 1 and "dynamic" not in kind.options:
        raise ConfigError(f"{BACKENDS[runtime].label} takes one image at a time; expected batch 1, not {batch}")
    file = f"model{kind.suffix}"

    def make(folder: Path) -> None:
        calib = list(calibration) or None
        export(model, Path(name).name, format, folder / file, imgsz=imgsz, dynamic=batch > 1, calib=calib)

    key = fingerprint(model, format, imgsz, batch > 1, *map(_digest, calibration), versions(format))
    return kind.graph_file(cached("exported", key, make) / file)


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
        return settled_folder(home, make, lambda made: f"{key}-{_content(made)}")
    except OSError as error:
        told = error.strerror or error
        raise DataError(f"{home}: cannot be written: {told}; $CROSSSTAGE_CACHE names another folder") from None


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
