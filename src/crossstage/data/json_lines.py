"""Where the entries of a JSON object's lists stand in its text."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from json.decoder import scanstring  # pyright: ignore[reportAttributeAccessIssue]

_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode


def entry_lines(text: str, wanted: Container[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Find the lines of list entries, counted from 1.

    Args:
        text: A JSON object, known to be well-formed.
        wanted: The entries to find: the key of a list in the object, and the position in the list.

    Returns:
        Line by key and position.
    """
    lines: dict[tuple[str, int], int] = {}
    line, counted = 1, 0
    at = _skip(text, 0) + 1
    while text[at := _skip(text, at)] != "}":
        key, at = scanstring(text, at + 1)
        at = _skip(text, _skip(text, at) + 1)
        if text[at] != "[":
            _, at = _decode(text, at)
        else:
            number, at = 0, _skip(text, at + 1)
            while text[at] != "]":
                if (key, number) in wanted:
                    line, counted = line + text.count("\n", counted, at), at
                    lines[key, number] = line
                _, at = _decode(text, at)
                number, at = number + 1, _skip(text, at)
                if text[at] == ",":
                    at = _skip(text, at + 1)
            at += 1
        at = _skip(text, at)
        if text[at] == ",":
            at += 1
    return lines


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found
    return found.end()
