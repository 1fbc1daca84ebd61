"""Modules of a network as source names them."""

from __future__ import annotations

from keyword import iskeyword

from torch import nn


def access(model: nn.Module, path: str, root: str = "network") -> str:
    """Return the expression for a module of this name.

    Args:
        model: The network.
        path: Dotted name of the module in it.
        root: The expression for the network.
    """
    expression = root
    for name in path.split(".") if path else ():
        if isinstance(model, (nn.Sequential, nn.ModuleList)) and not name.isidentifier():
            expression += f"[{[child for child, _ in model.named_children()].index(name)}]"
        elif isinstance(model, nn.ModuleDict) and not name.isidentifier():
            expression += f'["{name}"]'
        elif name.isidentifier() and not iskeyword(name):
            expression += f".{name}"
        else:
            expression += f'.get_submodule("{name}")'
        model = model.get_submodule(name)
    return expression


def assignment(model: nn.Module, path: str, value: str) -> str:
    """Return the statement that puts a value in the place of a module of this name."""
    target = access(model, path)
    if target.endswith(")"):
        parent, _, name = path.rpartition(".")
        return f'setattr({access(model, parent)}, "{name}", {value})'
    return f"{target} = {value}"
