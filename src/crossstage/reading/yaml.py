"""YAML of strangers: mappings of plain values, built while they are read, so that nothing can grow out of a few bytes.

Plain scalars are read as people mean them, which is YAML 1.2's way rather than 1.1's: ``yes``, ``no``, ``on``, ``off``,
dates and ``1:30`` are text, and ``1e-3`` is a number. Anchors, aliases and merges (``<<``) are read, and count as much
as what they stand for.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossstage.errors import CrossStageError
from crossstage.reading.text import read_text, shown, visible

MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # of scalars, lists and mappings, aliases and merges counted as what they stand for
MAX_DEPTH = 32
MAX_DIGITS = 100
_TAG = "tag:yaml.org,2002:"
_MERGE = object()
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {word: truth for truth in (True, False) for word in (str(truth), str(truth).lower(), str(truth).upper())}
_WHOLE = re.compile(r"[+-]?[0-9]+")
_OTHER_BASE = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_SPECIAL = re.compile(r"([+-]?)\.(inf|Inf|INF|nan|NaN|NAN)")


def read_yaml(path: Path, error: type[CrossStageError], expected: str, *, text: Collection[str] = ()) -> dict[Any, Any]:
    """Read a mapping.

    Args:
        path: The file, of at most 1 MiB.
        error: The type of the error that is raised if the file cannot be used.
        expected: What the mapping holds, for messages.
        text: Keys of the mapping below which every scalar that is no key stays the text that was written, such as
            ``007``, ``yes`` or ``1e3``; an empty one is None.

    Returns:
        The mapping, of texts, numbers, booleans, None, lists and mappings.

    Raises:
        CrossStageError: Of the given type, with the line: the file cannot be read, is no YAML, holds something else or
            too much, names a key twice, or has tags of a programming language.
    """
    content = parse_yaml(read_text(path, error, expected=expected, max_bytes=MAX_BYTES), path, error, text=text)
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise error(f"{visible(path)}: holds {found}; expected {expected}")
    return content


def parse_yaml(content: str, name: object, error: type[CrossStageError], *, text: Collection[str] = ()) -> Any:
    """Read any value; see :func:`read_yaml`.

    Args:
        content: The text.
        name: What messages call it.
        error: The type of the error that is raised if it cannot be used.
        text: Keys below which scalars stay text.
    """
    import yaml

    builder = _Builder(text)
    try:
        for event in yaml.parse(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except _RefusedError as refused:
        raise error(f"{visible(name)}:{refused.line}: {refused}") from None
    except yaml.MarkedYAMLError as found:
        mark = found.problem_mark or found.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise error(f"{visible(name)}{line}: not YAML: {visible(found.problem or found.context)}") from None
    except (yaml.YAMLError, ValueError) as found:
        raise error(f"{visible(name)}: not YAML: {shown(str(found))}") from None
    return builder.value


class _RefusedError(Exception):
    """What is YAML and still not taken, with its line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class _Open:
    """A list or mapping that has not ended.

    Attributes:
        value: What has been read of it.
        is_text: Whether the scalars in it stay text.
        anchor: Its name for aliases.
        size: The nodes in it, itself included.
        depth: How deep it is nested, itself included.
        key: The key whose value comes next, in a mapping; unset where a key comes next.
        merged: Keys that came by a merge, which others may replace.
    """

    value: list[Any] | dict[Any, Any]
    is_text: bool
    anchor: str | None
    size: int = 1
    depth: int = 1
    key: Any = None
    has_key: bool = False
    merged: set[Any] = field(default_factory=set)


class _Builder:
    """Makes a value of a parser's events, in a loop and not by recursion, and counts while it does."""

    def __init__(self, text: Collection[str]) -> None:
        self.value: Any = None
        self._text = text
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int, int]] = {}
        self._nodes = self._documents = 0

    def take(self, event: Any) -> None:
        """Take the next event."""
        kind, line = type(event).__name__, event.start_mark.line + 1
        if kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise _RefusedError("a second document begins; expected a single one", line)
        elif kind in ("SequenceStartEvent", "MappingStartEvent"):
            self._begin(event, kind, line)
        elif kind in ("SequenceEndEvent", "MappingEndEvent"):
            done = self._open.pop()
            self._put(done.value, done.size, done.depth, done.anchor, line)
        elif kind == "AliasEvent":
            if event.anchor not in self._anchors:
                raise _RefusedError(f"*{shown(event.anchor)} stands for nothing that has been read by then", line)
            value, size, depth = self._anchors[event.anchor]
            self._count(size, depth, line)
            self._put(value, size, depth, None, line)
        elif kind == "ScalarEvent":
            self._count(1, 0, line)
            self._put(self._scalar(event, line), 1, 0, event.anchor, line)

    def _count(self, nodes: int, depth: int, line: int) -> None:
        if len(self._open) + depth > MAX_DEPTH:
            raise _RefusedError(f"nested more than {MAX_DEPTH} deep", line)
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise _RefusedError(f"more than {MAX_NODES:,} values, aliases counted as what they stand for", line)

    def _begin(self, event: Any, kind: str, line: int) -> None:
        value: list[Any] | dict[Any, Any] = [] if kind == "SequenceStartEvent" else {}
        if event.tag not in (None, "!", _TAG + ("seq" if isinstance(value, list) else "map")):
            raise _RefusedError(f"tag {shown(event.tag)}; expected plain values", line)
        if self._awaits_key():
            raise _RefusedError("a list or mapping as a key; expected a word", line)
        self._count(1, 1, line)
        self._open.append(_Open(value, self._below_text(), event.anchor))

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and not self._open[-1].has_key

    def _below_text(self) -> bool:
        """Return whether a scalar that comes now stays text."""
        if len(self._open) == 1 and self._open[0].has_key:
            key = self._open[0].key
            return isinstance(key, str) and key in self._text
        return bool(self._open) and self._open[-1].is_text

    def _scalar(self, event: Any, line: int) -> Any:
        plain = event.implicit[0] and event.tag is None
        if plain and self._awaits_key() and event.value == "<<":
            return _MERGE
        if plain and not self._awaits_key() and self._below_text():
            return event.value or None
        return _resolved(event.value, event.tag, plain, line)

    def _put(self, value: Any, size: int, depth: int, anchor: str | None, line: int) -> None:
        """Put a value where it belongs: into the list or mapping that is open, or as the whole."""
        if anchor is not None:
            self._anchors[anchor] = value, size, depth
        if not self._open:
            self.value = value
            return
        parent = self._open[-1]
        parent.size += size
        parent.depth = max(parent.depth, depth + 1)
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif not parent.has_key:
            if isinstance(value, (list, dict)):
                raise _RefusedError("a list or mapping as a key; expected a word", line)
            if value in parent.value and value not in parent.merged:
                raise _RefusedError(f"{shown(value)} stands here a second time; expected each key once", line)
            parent.key, parent.has_key = value, True
        else:
            self._assign(parent, value, line)

    def _assign(self, parent: _Open, value: Any, line: int) -> None:
        assert isinstance(parent.value, dict)
        key, parent.key, parent.has_key = parent.key, None, False
        if key is not _MERGE:
            parent.value[key] = value
            parent.merged.discard(key)
            return
        for other in value if isinstance(value, list) else [value]:
            if not isinstance(other, dict):
                raise _RefusedError(f"<<: {shown(other)}; expected a mapping to merge", line)
            new = {name: each for name, each in other.items() if name not in parent.value}
            parent.value.update(new)
            parent.merged.update(new)


def _resolved(text: str, tag: str | None, plain: bool, line: int) -> Any:
    """Return what a scalar means, by its tag or, if it has none and no quotes, by how it is written."""
    if tag in ("!", f"{_TAG}str") or (tag is None and not plain):
        return text
    value = _by_look(text, line)
    kinds = {"null": type(None), "bool": bool, "int": int, "float": float}
    if tag is None:
        return value
    kind = kinds.get(tag.removeprefix(_TAG)) if tag.startswith(_TAG) else None
    if kind is None:
        raise _RefusedError(f"tag {shown(tag)}; expected plain values", line)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _RefusedError(f"found {shown(text)} with the tag of a {kind.__name__}", line)
    return value


def _by_look(text: str, line: int) -> Any:
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if found := _SPECIAL.fullmatch(text):
        return float(found[1] + found[2])
    whole, other = _WHOLE.fullmatch(text), _OTHER_BASE.fullmatch(text)
    if (whole or other or _FLOAT.fullmatch(text)) and len(text) > MAX_DIGITS:
        raise _RefusedError(f"a number of {len(text):,} characters; expected at most {MAX_DIGITS}", line)
    if whole or other:
        return int(text) if whole else int(text, 0)
    return float(text) if _FLOAT.fullmatch(text) else text
