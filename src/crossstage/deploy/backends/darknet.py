"""Darknet's files: a ``.cfg`` and its ``.weights``, by this package's own writer and reader."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.deploy.backends.base import Backend, FileFormat, Recipe
from crossstage.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from crossstage.deploy.backends.base import Floats
    from crossstage.deploy.header import ExportHeader
    from crossstage.structures import Preprocessing


def write(recipe: Recipe, path: Path) -> ExportHeader:
    """Write a recipe's graph as a cfg, and beside it weights and names.

    Raises:
        ExportError: Darknet has no layers for the network or its head.
    """
    from crossstage.darknet.writer import write_darknet
    from crossstage.models.heads.yolo import YoloConfig

    header = recipe.plan.header
    if header.outputs == "boxes":
        raise ExportError(f"{header.name} has no head of its own to write; expected a detector of this package's own")
    row = header.head.row if header.head else None
    preprocessing = _in_darknets_scale(header)
    if row is not None and not isinstance(row, YoloConfig):
        raise ExportError(f"{header.name} has a {type(row).__name__}; Darknet's files hold YOLO heads alone")
    write_darknet(
        recipe.plan.record(),
        path,
        name=header.name,
        size=(recipe.plan.images.shape[2], recipe.plan.images.shape[3]),
        preprocessing=preprocessing,
        class_names=header.class_names,
        levels=row.levels if row else (),
    )
    return header


def _in_darknets_scale(header: ExportHeader) -> Preprocessing | None:
    """Return the preprocessing as Darknet's programs do it, who give RGB in [0, 1] to a network's first layer."""
    known = header.preprocessing
    if known is None or (known.colour_order, known.scale) == ("rgb", 1):
        return known
    if known.colour_order != "rgb":
        raise ExportError(f"{header.name} reads colours as {known.colour_order}; Darknet's programs give them as rgb")
    mean, std = (tuple(value / known.scale for value in values) for values in (known.mean, known.std))
    return replace(known, mean=mean, std=std, scale=1.0)


def check(path: Path, header: ExportHeader, images: Tensor) -> list[Floats]:
    """Return what this package's reader of Darknet's files computes of a file, for normalised images."""
    import torch

    from crossstage import darknet
    from crossstage.structures import Preprocessing

    known = _in_darknets_scale(header) or Preprocessing()
    network = darknet.load(path, path.with_suffix(".weights"))
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (known.mean, known.std))
    with torch.inference_mode():
        return [output.numpy() for output in network(images * std + mean)]


BACKENDS = {
    "darknet": Backend(
        label="Darknet",
        module="torch",
        install="torch",
        preference=80,
        format=FileFormat(
            suffix=".cfg",
            options=frozenset(),
            write=write,
            beside=(".weights", ".names"),
            check=check,
            fused=False,
        ),
    )
}
