"""How the plain network is made, as source."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import dataclass
from pathlib import Path

from crossstage.weights.peers import LIBRARIES, PEERS
from crossstage.weights.ref import NETWORKS, Ref, check_twin, parse

_RESOLVE = "from crossstage.weights.resolving import resolve"


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


def origin_of(name: str | Path | Ref, written: Path) -> Origin:
    """Write source that makes the network that a name stands for.

    Args:
        name: What :func:`crossstage.weights.resolving.resolve` takes.
        written: The file that the source is for; a user's own file is looked for from there.

    Raises:
        ConfigError: The name is unknown.
    """
    ref = parse(name, NETWORKS)
    if ref.kind == "model":
        return Origin(("import crossstage",), f'crossstage.create_model("{ref.name}")')
    if ref.kind == "peer":
        check_twin(ref)
        twin = PEERS[ref.peer]
        settings = "".join(f", {key}={value!r}" for key, value in twin.settings.items()).replace("'", '"')
        return Origin(("import crossstage",), f'crossstage.create_model("{twin.model}"{settings})')
    if ref.kind == "peer-network":
        library = LIBRARIES[ref.library]
        return Origin((library.imports,), library.expression.format(name=ref.name))
    if ref.kind == "function":
        return _own(ref.file.resolve(), ref.name, written.resolve().parent)
    return Origin((_RESOLVE,), f'resolve({_quoted(str(ref))}, "cpu").module')


def _own(file: Path, function: str, folder: Path) -> Origin:
    made = [
        node for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    if file.parent == folder and file.stem.isidentifier() and function in {node.name for node in made}:
        return Origin((), f"{function}()", (f"from {file.stem} import {function}",))
    path = Path(os.path.relpath(file, folder)).as_posix()
    imports = ("from pathlib import Path", _RESOLVE)
    place = _quoted(f"/{path}:{function}".replace("{", "{{").replace("}", "}}"))[1:]
    return Origin(imports, f'resolve(f"{{Path(__file__).parent}}{place}, "cpu").module')


def _quoted(text: str) -> str:
    """Return a text as a literal of Python between double quotes, whatever is in it."""
    return json.dumps(text, ensure_ascii=False)
