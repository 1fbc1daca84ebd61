"""How the plain network is made, as source."""

from __future__ import annotations

import ast
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Origin:
    """Source that makes a network, with weights drawn anew.

    Attributes:
        imports: Lines that it needs.
        expression: Makes the network.
        own: Lines that import files of the user's own.
    """

    imports: tuple[str, ...]
    expression: str
    own: tuple[str, ...] = ()


def origin_of(name: str, written: Path) -> Origin:
    """Source that makes the network that a name stands for.

    Args:
        name: What :func:`crossstage.weights.resolving.resolve` takes.
        written: The file that the source is for; a user's own file is looked for from there.
    """
    library, _, rest = name.partition(":")
    if library == "timm":
        return Origin(("import timm",), f'timm.create_model("{rest.partition(".")[0]}")')
    if library == "torchvision":
        return Origin(
            ("import torchvision",), f'torchvision.models.get_model("{rest.partition(".")[0]}", weights=None)'
        )
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return _own(Path(file).resolve(), function, written.resolve().parent)
    if not Path(name).exists() and not Path(name).suffix:
        return Origin(("import crossstage",), f'crossstage.create_model("{name}")')
    return Origin(("from crossstage.zoo import resolve",), f'resolve("{name}", "cpu").module')


def _own(file: Path, function: str, folder: Path) -> Origin:
    made = [
        node for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    if file.parent == folder and file.stem.isidentifier() and function in {node.name for node in made}:
        return Origin((), f"{function}()", (f"from {file.stem} import {function}",))
    path = Path(os.path.relpath(file, folder)).as_posix()
    imports = ("from pathlib import Path", "from crossstage.zoo import resolve")
    return Origin(imports, f'resolve(f"{{Path(__file__).parent}}/{path}:{function}", "cpu").module')
