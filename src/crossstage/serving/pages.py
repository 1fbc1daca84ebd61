"""The pages that a server shows: files of this folder, which ask no other machine for anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

PARTS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/masks.js": ("masks.js", "text/javascript"),
}
"""The parts of the page by their paths: file and type."""


def part(name: str) -> bytes:
    """Return a file of the page."""
    return files("crossstage.serving.html").joinpath(name).read_bytes()


def api_page(description: Mapping[str, Any], address: str) -> str:
    """Return a page for people of an OpenAPI description.

    Args:
        description: As ``/openapi.json`` has it.
        address: The URL of the server, for examples.
    """
    operations = [
        (f"{verb.upper()} {path}", operation)
        for path, verbs in description["paths"].items()
        for verb, operation in verbs.items()
    ]
    template = Template(part("docs.html").decode())
    return template.substitute(address=escape(address), operations="\n".join(_operation(*each) for each in operations))


def _operation(name: str, operation: Mapping[str, Any]) -> str:
    lines = [f"<section><h2><code>{escape(name)}</code></h2>", f"<p>{escape(operation['summary'])}.</p>"]
    lines += _table("parameter", _parameters(operation))
    lines += _table("body", ((kind, _fields(content)) for kind, content in _bodies(operation)))
    lines += _table("answer", ((code, entry["description"]) for code, entry in operation["responses"].items()))
    return "\n".join([*lines, "</section>"])


def _parameters(operation: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for parameter in operation.get("parameters", ()):
        yield parameter["name"], parameter.get("description", "")


def _bodies(operation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield from operation.get("requestBody", {}).get("content", {}).items()


def _fields(content: Mapping[str, Any]) -> str:
    fields = content["schema"].get("properties")
    return f"A form with the files in its field {' or '.join(fields)}." if fields else "The bytes of an image's file."


def _table(title: str, rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    told = [f"<tr><th><code>{escape(name)}</code></th><td>{escape(text)}</td></tr>" for name, text in rows]
    if told:
        yield f"<table><thead><tr><th>{title}</th><th></th></tr></thead><tbody>{''.join(told)}</tbody></table>"
