"""Whether the values of a dataclass are of the types that it declares, for options from Python and from files."""

from __future__ import annotations

import os
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from crossstage.errors import ConfigError, one_of
from crossstage.reading.numbers import number, whole

SHOWN = 60  # characters of a value in a message
LARGEST = 2**53  # of whole numbers, up to which floats hold them


def typed(kind: type, name: str, value: Any) -> Any:
    """Return the value of a field as the plain type that it is declared with: a whole float as int, a Path as text.

    Args:
        kind: The dataclass.
        name: The field.
        value: What was given.

    Raises:
        ConfigError: It is of another type, no finite number, or none of the words that there are.
    """
    hint = _hints(kind)[name]
    for each in _alternatives(hint):
        try:
            return _as(each, value)
        except (TypeError, ValueError, OverflowError):
            continue
    words = [word for each in _alternatives(hint) if get_origin(each) is Literal for word in get_args(each)]
    others = [each for each in _alternatives(hint) if get_origin(each) is not Literal and each is not types.NoneType]
    expected = one_of(value, words) if words and not others else f"expected {_described(hint)}"
    raise ConfigError(f"{name} is {shown(value)}; {expected}")


def shown(value: Any) -> str:
    """Return a value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _as(hint: Any, value: Any) -> Any:
    """Return a value as one type.

    Raises:
        TypeError, ValueError, OverflowError: It is none of that.
    """
    origin = get_origin(hint)
    if hint in (types.NoneType, bool, str):
        return _plain(hint, value)
    if hint is int or hint is float:
        return _number(hint, value)
    if origin is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
        raise ValueError
    if origin is tuple:
        return _items(get_args(hint), value)
    if is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        raise TypeError
    if isinstance(value, Mapping):
        return value
    raise TypeError


def _plain(hint: type, value: Any) -> Any:
    if isinstance(value, hint):
        return value
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError


def _number(hint: type, value: Any) -> int | float:
    if isinstance(value, (bool, str)):
        raise TypeError
    if hint is float:
        return number(value)
    found = whole(value)
    if abs(found) > LARGEST:
        raise ValueError
    return found


def _items(hints: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (tuple, list)):
        raise TypeError
    if hints[-1] is Ellipsis:
        return tuple(_as(hints[0], item) for item in value)
    return tuple(_as(hint, item) for hint, item in zip(hints, value, strict=True))


def _described(hint: Any) -> str:
    """Return a type in words."""
    words = []
    for each in _alternatives(hint):
        if get_origin(each) is Literal:
            words += map(str, get_args(each))
        elif get_origin(each) is tuple:
            words.append("several numbers" if get_args(each)[-1] is Ellipsis else "height and width")
        elif each is types.NoneType:
            words.append("None")
        else:
            named = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
            words.append(named.get(each, "settings by name" if get_origin(each) else getattr(each, "__name__", "")))
    return " or ".join(words)


def check_fields(values: Any) -> dict[str, Any]:
    """Return those fields of a dataclass whose values are not yet of the plain types that are declared, as these.

    Args:
        values: An instance of the dataclass.

    Raises:
        ConfigError: A value is of another type.
    """
    changed = {}
    for field in fields(values):
        given = getattr(values, field.name)
        plain = typed(type(values), field.name, given)
        if type(plain) is not type(given) or plain != given:
            changed[field.name] = plain
    return changed
