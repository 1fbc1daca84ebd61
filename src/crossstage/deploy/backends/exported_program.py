"""PyTorch's exported program: the graph of ``torch.export``, for ExecuTorch, AOTInductor and PyTorch itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.deploy.backends.base import KEY, Backend, FileFormat, Recipe
from crossstage.deploy.backends.shared import header_in_zip, silent

if TYPE_CHECKING:
    from torch import Tensor

    from crossstage.deploy.backends.base import Floats
    from crossstage.deploy.header import ExportHeader


def write(recipe: Recipe, path: Path) -> ExportHeader:
    """Record a recipe's graph and save it."""
    import torch

    content = io.BytesIO()  # torch's own writer of files ends the process where a disk is full
    with silent():
        torch.export.save(recipe.plan.record(), content, extra_files={KEY: recipe.plan.header.to_json()})
    path.write_bytes(content.getbuffer())
    return recipe.plan.header


def check(path: Path, _header: ExportHeader, images: Tensor) -> list[Floats]:
    """Return what PyTorch computes of a file."""
    import torch

    with silent(), torch.inference_mode():
        return [output.numpy() for output in torch.export.load(path).module()(images)]


BACKENDS = {
    "exported_program": Backend(
        label="PyTorch exported program",
        module="torch",
        install="torch",
        preference=70,
        distributions=("torch",),
        format=FileFormat(
            suffix=".pt2",
            options=frozenset({"dynamic", "half", "decode"}),
            write=write,
            read_header=header_in_zip,
            check=check,
        ),
    )
}
