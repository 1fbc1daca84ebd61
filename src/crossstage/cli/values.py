"""Values of a dataclass's fields, from words of the command line and from YAML."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from crossstage.cli.arguments import Convert, boolean, number, one_of, whole_number
from crossstage.cli.declared import Field, Hint
from crossstage.errors import ConfigError, did_you_mean
from crossstage.reading.yaml import read_yaml

_PLAIN: dict[str, Convert] = {"bool": boolean, "int": whole_number, "float": number, "str": str}


def reader(hint: Hint) -> Convert:
    """Return what turns a word, or a value of YAML, into a value of a type.

    The reader raises :class:`argparse.ArgumentTypeError` for what does not fit, with the end of a sentence.
    """

    def read(value: Any) -> Any:
        if hint.optional and value in (None, "null"):
            return None
        if isinstance(value, Mapping):
            return _mapping(hint, value)
        if hint.items:
            items = _items(hint.items, value)
            return items[0] if hint.plain and len(items) == 1 else items
        if hint.choices and (str(value) in hint.choices or not (hint.plain or hint.fields)):
            return one_of(hint.choices)(str(value))
        if hint.fields or (hint.mapping and not hint.plain):
            return _mapping(hint, _content(hint, value))
        return _scalar(hint, value)

    return read


def read_fields(fields: Mapping[str, Field], content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of some of a dataclass's fields, each of its field's type.

    Args:
        fields: The fields by name.
        content: Words or values of YAML.
        prefix: What the names begin with in messages.

    Raises:
        ConfigError: A field is unknown, or a value does not fit.
    """
    result = {}
    for name, value in content.items():
        if name not in fields:
            raise ConfigError(f"unknown option {f'{prefix}{name}'!r}{did_you_mean(str(name), fields)}")
        try:
            result[name] = reader(fields[name].hint)(value)
        except argparse.ArgumentTypeError as error:
            raise ConfigError(f"{prefix}{name} {error}") from None
        except ConfigError as error:
            raise ConfigError(f"{prefix}{name}: {error}") from None
    return result


def plain_value(value: Any) -> Any:
    """Read a word as YAML does, and numbers such as 1e-3, which YAML takes for text, as numbers."""
    for read in (int, float, yaml.safe_load) if isinstance(value, str) else ():
        try:
            return read(value)
        except (ValueError, yaml.YAMLError):
            continue
    return value


def _mapping(hint: Hint, value: Mapping[str, Any]) -> dict[str, Any]:
    if not (hint.fields or hint.mapping):
        raise argparse.ArgumentTypeError(f"is {dict(value)}; expected {_expected(hint)}")
    if not hint.fields:
        return dict(value)
    return read_fields({field.name: field for field in hint.fields}, value)


def _content(hint: Hint, value: Any) -> Mapping[str, Any]:
    """Return a mapping that is given as JSON or by the name of a YAML file."""
    word = str(value)
    if word.lstrip().startswith("{"):
        try:
            return json.loads(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"is {word!r}, which is no JSON: {error}") from None
    if Path(word).is_file():
        return read_yaml(Path(word), ConfigError, "settings")
    close = did_you_mean(word, hint.choices)
    raise argparse.ArgumentTypeError(f"is {word!r}; expected {_expected(hint)}{close}")


def _items(hint: Hint, value: Any) -> tuple[Any, ...]:
    """Return the items of a list, or of words with commas, perhaps in brackets."""
    parts = value if isinstance(value, (list, tuple)) else str(value).strip("[]() ").split(",")
    read = reader(hint)
    return tuple(read(part) for part in parts if str(part).strip())


def _scalar(hint: Hint, value: Any) -> Any:
    if isinstance(value, bool):
        value = str(value).lower()
    if "int" in hint.plain and isinstance(value, float) and value.is_integer():
        value = int(value)
    kinds = [kind for kind in ("bool", "int", "float", "str") if kind in hint.plain]
    for kind in kinds[:-1]:
        try:
            return _PLAIN[kind](str(value))
        except argparse.ArgumentTypeError:
            continue
    return _PLAIN[kinds[-1] if kinds else "str"](str(value))


def _expected(hint: Hint) -> str:
    mapping = ["settings as JSON or the name of a YAML file"] if hint.fields or hint.mapping else []
    return " or ".join([*hint.choices, *mapping, *hint.plain, *(["null"] if hint.optional else [])])
