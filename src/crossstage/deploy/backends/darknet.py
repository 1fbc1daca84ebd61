"""Darknet's files: a ``.cfg`` and its ``.weights``, by this package's own writer and reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossstage import darknet
from crossstage.darknet.writer import write_darknet
from crossstage.deploy.graph import Plan
from crossstage.deploy.header import Header
from crossstage.errors import ExportError
from crossstage.models.heads.yolo import YoloConfig
from crossstage.structures import Preprocessing


def write(plan: Plan, path: Path) -> None:
    """Write a plan as a cfg, and beside it weights and names.

    Raises:
        ExportError: Darknet has no layers for the network or its head.
    """
    header = plan.header
    if header.outputs == "boxes":
        raise ExportError(f"{header.name} has no head of its own to write; expected a detector of this package's own")
    row = header.head.row if header.head else None
    if row is not None and not isinstance(row, YoloConfig):
        raise ExportError(f"{header.name} has a {type(row).__name__}; Darknet's files hold YOLO heads alone")
    write_darknet(
        plan.record(),
        path,
        name=header.name,
        size=(plan.images.shape[2], plan.images.shape[3]),
        preprocessing=header.preprocessing,
        class_names=header.class_names,
        levels=row.levels if row else (),
    )


def run(path: Path, header: Header, images: Tensor) -> list[Any]:
    """Return what this package's reader of Darknet's files computes of one that was written."""
    known = header.preprocessing or Preprocessing()
    network = darknet.load(path, path.with_suffix(".weights"))
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (known.mean, known.std))
    with torch.inference_mode():
        return [output.numpy() for output in network(images * std + mean)]
