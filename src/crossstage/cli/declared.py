"""What other rooms declare, read from their source: types and dataclasses, of which help is to tell without torch.

A person who asks for help waits for no library. What an option takes is still declared once, in the room that uses it:
here its source is parsed, which takes a millisecond, and a table of names is never repeated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
PLAIN = ("str", "int", "float", "bool")


@dataclass(frozen=True)
class Hint:
    """What values a type has, as far as options and YAML files need it.

    Attributes:
        plain: Names of the plain types among them: str, int, float or bool.
        choices: The values of literal types.
        optional: None is one.
        items: The type of a tuple's items.
        fields: The fields of a dataclass.
        mapping: It is a mapping with any keys.
    """

    plain: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    optional: bool = False
    items: Hint | None = None
    fields: tuple[Field, ...] = ()
    mapping: bool = False

    def __or__(self, other: Hint) -> Hint:
        return Hint(
            self.plain + other.plain,
            self.choices + other.choices,
            self.optional or other.optional,
            self.items or other.items,
            self.fields + other.fields,
            self.mapping or other.mapping,
        )


@dataclass(frozen=True)
class Field:
    """A field of a dataclass.

    Attributes:
        name: Its name.
        hint: Its type.
        required: It has no default.
        default: The default, if that is a plain value; else None.
        text: Its description in the class's docstring.
    """

    name: str
    hint: Hint
    required: bool
    default: Any
    text: str


@cache
def type_of(module: str, name: str) -> Hint:
    """Return a type that a module of this package defines or imports.

    Args:
        module: The module's dotted name, such as ``"crossstage.ops.nms"``.
        name: Name of a literal type, a union of types or a dataclass.

    Raises:
        LookupError: There is no such type.
    """
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return _hint(node.value, module)
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Hint(fields=tuple(_fields(node, module)))
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            if (node.module or "").startswith("crossstage"):
                original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
                return type_of(str(node.module), original)
            return Hint(mapping=name in ("Mapping", "MutableMapping"))
    raise LookupError(f"{module} has no type {name}")


def choices(module: str, name: str) -> tuple[str, ...]:
    """Return the values of a literal type, see :func:`type_of`."""
    return type_of(module, name).choices


def loss_settings() -> dict[str, tuple[Field, ...]]:
    """Return the settings of the losses of all heads in the package, by the name of the class that holds them."""
    found: dict[str, tuple[Field, ...]] = {}
    for file in sorted((PACKAGE / "models" / "heads").glob("*.py")):
        module = f"crossstage.models.heads.{file.stem}"
        for node in _tree(module).body:
            for entry in node.body if isinstance(node, ast.ClassDef) else ():
                named = isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)
                if named and entry.target.id == "loss" and isinstance(entry.annotation, ast.Name):  # pyright: ignore
                    kind = entry.annotation.id  # pyright: ignore
                    found[kind] = type_of(module, kind).fields
    return found


@cache
def _tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _hint(node: ast.expr, module: str) -> Hint:
    """Return what an annotation says."""
    found = Hint()
    match node:
        case ast.BinOp(left=left, right=right):
            found = _hint(left, module) | _hint(right, module)
        case ast.Constant(value=None):
            found = Hint(optional=True)
        case ast.Name(id=name):
            found = Hint(plain=(name,)) if name in PLAIN else type_of(module, name)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=values):
            entries = values.elts if isinstance(values, ast.Tuple) else [values]
            found = Hint(choices=tuple(str(ast.literal_eval(entry)) for entry in entries))
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[first, *_])):
            found = Hint(items=_hint(first, module))
        case ast.Subscript(value=ast.Name(id=name)):
            found = Hint(mapping=name in ("dict", "Mapping"))
    return found


def _fields(node: ast.ClassDef, module: str) -> Iterator[Field]:
    texts = _descriptions(ast.get_docstring(node) or "")
    for entry in node.body:
        if not isinstance(entry, ast.AnnAssign) or not isinstance(entry.target, ast.Name):
            continue
        try:
            default = None if entry.value is None else ast.literal_eval(entry.value)
        except ValueError:  # a factory
            default = None
        name = entry.target.id
        yield Field(name, _hint(entry.annotation, module), entry.value is None, default, texts.get(name, ""))


def _descriptions(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each attribute, without markup."""
    section = docstring.partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, flags=re.MULTILINE)
    return {name: _plain(text) for name, text in entries}


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", " ".join(text.split()))
    return text.replace("``", "")
