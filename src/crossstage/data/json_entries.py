"""Large JSON files in bounded memory: what they mention, and the entries of their lists, one after the other."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterator
from json.decoder import scanstring  # pyright: ignore[reportAttributeAccessIssue]
from pathlib import Path
from typing import Any

from crossstage.errors import DataError
from crossstage.reading.text import shown

MAX_BYTES = 2 << 30
_SPACE = re.compile(r"[ \t\n\r]*")
_decode = json.JSONDecoder().raw_decode
_ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")


def mentions(path: Path, *keys: str) -> bool:
    """Return whether a file holds each of some keys in quotation marks, without reading all of it into memory."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(any(content.find(f'"{key}"'.encode(form)) >= 0 for form in _ENCODINGS) for key in keys)
    except (OSError, ValueError):  # it cannot be read, or is empty
        return False


def begins_with(path: Path, mark: str) -> bool:
    """Return whether the first character of a file, space and byte order marks left out, is the one given."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError:
        return False
    return head.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0")[:1] == mark.encode()


def members(text: str) -> Iterator[tuple[str, int]]:
    """Yield each key of a JSON object and where its value begins.

    The values between two keys are parsed, in pieces, and not kept.

    Raises:
        ValueError: The text is no JSON.
        RecursionError: It is nested too deeply.
        DataError: It holds another thing than an object.
    """
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        value, _ = _decode(text, at)
        raise DataError(f"holds a {type(value).__name__}; expected an object")
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, at)
        key, at = scanstring(text, at + 1)
        at = _expect(text, _skip(text, at), ":")
        yield key, at
        at = _after(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if (rest := _skip(text, at + 1)) != len(text):
        raise json.JSONDecodeError("Extra data", text, rest)


def items(text: str, at: int) -> Iterator[tuple[int, Any]]:
    """Yield where each entry of a list begins, and the entry.

    Args:
        text: JSON.
        at: Where the list begins.

    Raises:
        ValueError: The text is no JSON.
        RecursionError: It is nested too deeply.
    """
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        value, end = _decode(text, at)
        yield at, value
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)


def parsed(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        DataError: It is no JSON; the message is that of the fault.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(why_not(error)) from None


def why_not(error: ValueError | RecursionError) -> str:
    """Return why a text is no JSON that is read, from what Python's parser raised."""
    if isinstance(error, RecursionError):
        return "JSON that is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {shown(str(error))[1:-1]}"
    return "JSON with a number of too many digits"  # the one thing that Python's int refuses of what JSON allows


def _after(text: str, at: int) -> int:
    """Return where the next thing begins behind a value."""
    if text[at : at + 1] != "[":
        return _skip(text, _decode(text, at)[1])
    at = _skip(text, at + 1)
    while text[at : at + 1] != "]":
        at = _skip(text, _decode(text, at)[1])
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    return _skip(text, at + 1)


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise json.JSONDecodeError(f"Expecting {mark!r} delimiter", text, at)
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found
    return found.end()
