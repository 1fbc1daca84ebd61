"""Docstrings for the site: roles become links, and double backquotes code, before a page is written from them.

An extension of griffe, which reads the package's docstrings for the site's API pages without importing anything.
"""

from __future__ import annotations

import re
from typing import Any

import griffe  # pyright: ignore[reportMissingImports]

_ROLE = re.compile(r":(class|func|meth|attr|data|mod|exc|obj):`(~?)([\w.]+)`")
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)


def plain(text: str) -> str:
    """Return a docstring with Markdown in place of roles, and a section that griffe knows in place of "Example"."""
    return _EXAMPLE.sub(r"\1Examples:", _ROLE.sub(_link, text).replace("``", "`"))


def _link(found: re.Match[str]) -> str:
    kind, short, name = found.groups()
    shown = name.rpartition(".")[2] if short else name
    # Constants have no entry of their own on the pages.
    return f"[`{shown}`][{name}]" if name.startswith("crossstage.") and kind != "data" else f"`{shown}`"


class Roles(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Rewrite one object's docstring."""
        if getattr(obj, "docstring", None):
            obj.docstring.value = plain(obj.docstring.value)
