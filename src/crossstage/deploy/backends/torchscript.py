"""TorchScript: the graph as PyTorch traces it, for programs in C++."""

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
    """Trace a recipe's graph and save it with its weights frozen."""
    import torch

    with silent(), torch.inference_mode():
        traced = torch.jit.trace(recipe.plan.graph, (recipe.plan.images,), check_trace=False)
        extra = {KEY: recipe.plan.header.to_json()}
        content = io.BytesIO()  # torch's own writer of files ends the process where a disk is full
        torch.jit.save(torch.jit.freeze(traced), content, _extra_files=extra)
    path.write_bytes(content.getbuffer())
    return recipe.plan.header


def check(path: Path, _header: ExportHeader, images: Tensor) -> list[Floats]:
    """Return what PyTorch computes of a file."""
    import torch

    with silent(), torch.inference_mode():
        return [output.numpy() for output in torch.jit.load(str(path))(images)]


BACKENDS = {
    "torchscript": Backend(
        label="TorchScript",
        module="torch",
        install="torch",
        preference=60,
        distributions=("torch",),
        format=FileFormat(
            suffix=".torchscript",
            also=(".pt",),
            options=frozenset({"half", "decode"}),
            write=write,
            read_header=header_in_zip,
            check=check,
        ),
    )
}
