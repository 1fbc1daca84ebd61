"""The verb that trains: train. Its options are those of :class:`crossstage.training.TrainOptions`.

They are read from that class's source, so that help needs no torch. What stands later counts: a file given by --config
changes what stands before it, and is changed by what stands behind it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any

import yaml

from crossstage.cli import names
from crossstage.cli.arguments import Parser, nullable, one_of
from crossstage.cli.declared import Field, loss_settings, type_of
from crossstage.cli.values import plain_value, read_fields, reader
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError

LOSSES = ("loss", "plain_loss")
MAY_CHANGE = (  # when a run goes on
    *("epochs", "patience", "data"),
    *("devices", "nodes", "strategy", "accelerator", "workers", "threads", "cache", "logger"),
)


def declare(parser: Parser) -> None:
    """Declare the options of a training."""
    parser.set_defaults(given=())
    parser.positional("dataset", 'The dataset, as --data, see "crossstage data check --help".', default="")
    parser.flag("plan", "Print what follows from the data and what is given, with reasons, and do not train.")
    parser.option(
        "resume",
        f"The folder of a run to go on with; other options are {', '.join(MAY_CHANGE)} at most. More epochs go on "
        "with a run that is over, at the learning rate that a training of that length has there; data is known again "
        "by the names and sizes of its images.",
    )
    recipes = ", ".join(names.recipes())
    parser.declare("config", f"A YAML file with options, or the name of a recipe: {recipes}.", str, action=_Later)
    parser.declare(
        "print_config",
        "Print the options as a YAML file, with skip_default those alone that differ from the default, and do not "
        "train.",
        one_of(("all", "skip_default")),
        nargs="?",
        const="all",
    )
    parser.add_argument("--partial.help", action="help", help=argparse.SUPPRESS)
    for field in _fields().values():
        _declare(parser, field, field.name)
        for inner in field.hint.fields:
            _declare(parser, inner, f"{field.name}.{inner.name}")
    for name, (head, setting) in _loss_settings().items():
        _declare(parser, setting, f"loss.{name}", f" ({head})")
    for name in sorted(_settings_elsewhere()):
        _declare_loss(parser, f"loss.{name}")
    parser.declare_unknown = lambda name: _declare_loss(parser, name)


def run(given: argparse.Namespace) -> int:
    """Train, go on with a run, or print the options.

    Raises:
        CrossStageError: See :func:`crossstage.training.train`.
    """
    content = _merged(given.given)
    if given.dataset:
        if content.get("data", given.dataset) != given.dataset:
            raise ConfigError(f"data is {content['data']!r} and {given.dataset!r}; expected one dataset")
        content["data"] = given.dataset
    if given.print_config:
        print(_as_yaml(content, changed_only=given.print_config == "skip_default"), end="")
        return 0
    if given.resume is None:
        if not content.get("data"):
            raise ConfigError("the dataset is missing; usage: crossstage train DATA [options]")
    elif unfit := [name for name in content if name not in MAY_CHANGE]:
        raise ConfigError(f"--{unfit[0]} does not go with --resume; expected one of {', '.join(MAY_CHANGE)}")
    from crossstage.training import Interrupted, TrainOptions, plan_of, resume, train

    try:
        if given.resume is None:
            options = TrainOptions.from_mapping(content, "train")
            if given.plan:
                print(*plan_of(options).lines(), sep="\n")
                return 0
            train(options, quiet=given.quiet)
        else:
            changes = {name: value for name, value in content.items() if value is not None}
            resume(given.resume, quiet=given.quiet, **changes)
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


class _Later(argparse.Action):
    """Keep what was given, in its order."""

    def __call__(self, _parser: Any, namespace: argparse.Namespace, value: Any, _option: Any = None) -> None:
        namespace.given = (*namespace.given, (self.dest, value))


class _Items(_Later):
    """The same for the items of a list that stand apart."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, value: Any, _option: Any = None) -> None:
        super().__call__(parser, namespace, tuple(item for part in value for item in part))


@cache
def _fields() -> dict[str, Field]:
    return {field.name: field for field in type_of("crossstage.training.options", "TrainOptions").fields}


def _loss_settings() -> dict[str, tuple[str, Field]]:
    """Return the settings of the losses of the package's heads, by name, with the classes that have them.

    Those that a head of a program's own has as well are left out, for its types are not known.
    """
    found: dict[str, tuple[str, Field]] = {}
    for head, settings in loss_settings().items():
        for field in settings:
            heads, known = found.get(field.name, ("", field))
            joined = replace(known, hint=known.hint | field.hint)
            found[field.name] = (f"{heads}, {head}", joined) if heads else (head, field)
    return {name: entry for name, entry in found.items() if name not in _settings_elsewhere()}


def _settings_elsewhere() -> set[str]:
    """Return the settings of the losses of heads that a program has added to the package's."""
    room = sys.modules.get("crossstage.models.heads")
    losses = [getattr(row, "loss", None) for row in room.HEADS.values()] if room else []
    own = [loss for loss in losses if is_dataclass(loss) and not type(loss).__module__.startswith("crossstage.")]
    return {field.name for loss in own for field in fields(loss)}


def _declare(parser: Parser, field: Field, name: str, remark: str = "") -> None:
    default = "" if field.default is None or field.default is False else f" (default: {_shown(field.default)})"
    help = f"{field.text}{remark}{default}"
    if field.hint.plain == ("bool",):
        parser.flag(name, help, argparse.SUPPRESS, action=_Later)
        return
    settings: dict[str, Any] = {"action": _Later, "default": argparse.SUPPRESS}
    if field.hint.items and field.hint.plain:
        parser.size(name, help, **settings)
        return
    if field.hint.items:
        settings |= {"action": _Items, "nargs": "+"}
    choices: Any = field.hint.choices
    read = reader(field.hint)
    if field.name == "format":  # its values stand in a table that programs may add to
        choices = names.data_formats()
        read = nullable(one_of(choices))
    closed = not field.hint.fields and (choices is not field.hint.choices or not field.hint.plain)
    parser.declare(name, help, read, choices=choices if closed else None, **settings)


def _declare_loss(parser: Parser, name: str) -> bool:
    """Declare a setting of the loss of a head that is not the package's, and return whether it can be one."""
    room, _, setting = name.partition(".")
    if room not in LOSSES or not setting:
        return False
    parser.declare(name, argparse.SUPPRESS, plain_value, action=_Later, default=argparse.SUPPRESS)
    return True


def _merged(given: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Return the options by name, the later ones over the earlier."""
    content: dict[str, Any] = {}
    for name, value in given:
        if name == "config":
            for key, entry in _config(value).items():
                _set(content, key, entry)
        else:
            outer, _, inner = name.partition(".")
            _set(content, outer, {inner: value} if inner else value, part=bool(inner))
    return content


def _set(content: dict[str, Any], name: str, value: Any, *, part: bool = False) -> None:
    """Set an option, or change a part of it."""
    hint, before = _fields()[name].hint, content.get(name)
    joins = part or not hint.choices  # a partial stage's settings are one value, given as a whole
    if isinstance(value, Mapping) and isinstance(before, Mapping) and joins:
        value = {**before, **value}
    content[name] = _with_typed_loss(value) if name in LOSSES else value


def _config(name: str) -> dict[str, Any]:
    """Return the options of a YAML file or recipe."""
    from crossstage.training.options import completed
    from crossstage.training.recipe_files import load_recipe

    content = load_recipe(name)
    try:
        read = read_fields(
            _fields(), {key: value for key, value in content.items() if value is not None or key == "partial"}
        )
        return completed(read)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None


def _with_typed_loss(settings: Mapping[str, Any]) -> dict[str, Any]:
    known = {name: field for name, (_, field) in _loss_settings().items()}
    typed = read_fields(known, {name: value for name, value in settings.items() if name in known}, "loss.")
    return {name: typed[name] if name in typed else plain_value(value) for name, value in settings.items()}


def _as_yaml(content: Mapping[str, Any], *, changed_only: bool) -> str:
    """Return options as a YAML file, in the order of their declaration."""
    defaults = {name: _default(field) for name, field in _fields().items()}
    shown: dict[str, Any] = {}
    for name, default in defaults.items():
        value = content.get(name, default)
        if not changed_only or (name in content and value != default):
            shown[name] = _listed(value)
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def _listed(value: Any) -> Any:
    """Return a value with lists for tuples, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: _listed(entry) for key, entry in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _default(field: Field) -> Any:
    if field.required or field.default is not None or field.hint.optional:
        return field.default
    return {inner.name: inner.default for inner in field.hint.fields}


def _shown(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


VERB = Verb("Train a detector or a classifier on your own images, or go on with a run.", declare, run)
