"""Rows of tables as plain values, for the headers of files, and back.

A dataclass becomes ``{"Name": {field: value, ...}}``. Only dataclasses that a row of a table can hold are read back, so
that a file from outside names nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from crossstage.errors import ConfigError
from crossstage.models.heads import HEADS
from crossstage.nn.partial import Partial

MAX_NUMBER = 1 << 16  # of whole numbers: what is built from a row is bounded
MAX_DEPTH = 32  # of lists and mappings
MAX_VALUES = 2_000  # three levels with three anchors each hold 60


def encode(value: Any) -> Any:
    """Turn a row, or a value of its fields, into what JSON holds."""
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: {f.name: encode(getattr(value, f.name)) for f in fields(value) if f.init}}
    if isinstance(value, (list, tuple)):
        return [encode(part) for part in value]
    return value


def decode(value: Any) -> Any:
    """Read what :func:`encode` made.

    Raises:
        KeyError: It names a dataclass that no row holds.
        ValueError: A dictionary names none, or several; or there are more values, deeper ones or larger numbers than a
            network has settings.
        TypeError: A field is unknown or missing.
        ConfigError: A value does not fit.
    """
    _check_plain(value)
    return _decoded(value, _storable())


def _decoded(value: Any, known: Mapping[str, type]) -> Any:
    if isinstance(value, dict):
        ((name, content),) = value.items()
        return known[name](**{key: _decoded(part, known) for key, part in content.items()})
    if isinstance(value, list):
        return tuple(_decoded(part, known) for part in value)
    return value


def _storable() -> dict[str, type]:
    """Return the dataclasses that a row can hold, by name; heads that were added by a program are among them."""
    found: dict[str, type] = {Partial.__name__: Partial}
    for row in HEADS.values():
        for kind in _reachable(type(row)):
            other = found.setdefault(kind.__name__, kind)
            if other is not kind:
                places = " and ".join(f"{each.__module__}.{each.__qualname__}" for each in (other, kind))
                raise ConfigError(f"rows of heads hold {places}, which files cannot tell apart; rename one")
    return found


def _reachable(hint: Any) -> Iterator[type]:
    """Yield the dataclasses that a type hint names, and those of their fields.

    Raises:
        ConfigError: A field's type is not there at run time.
    """
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
        try:
            hints = get_type_hints(hint)
        except NameError as error:
            raise ConfigError(
                f"{hint.__qualname__}: the types of a row's fields are needed at run time: {error}"
            ) from None
        for inner in hints.values():
            yield from _reachable(inner)
    for inner in get_args(hint):
        yield from _reachable(inner)


def _check_plain(row: Any) -> None:
    """Refuse plain values whose whole numbers, length or depth would make what is built from them large.

    Raises:
        ValueError: They would.
    """
    pending, count = [(row, 0)], 0
    while pending:
        value, depth = pending.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise ValueError(f"settings nested more than {MAX_DEPTH} deep, or more than {MAX_VALUES:,}")
        if isinstance(value, int) and abs(value) > MAX_NUMBER:  # a float sizes nothing, and may be infinite
            raise ValueError(f"{value!r} among the settings; expected whole numbers up to {MAX_NUMBER:,}")
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        pending.extend((part, depth + 1) for part in parts)
