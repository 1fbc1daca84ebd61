"""The verb that prints what a shell needs to complete the others: completion."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any

from crossstage.cli.arguments import Parser
from crossstage.cli.verb import Group, Verb, parser_of
from crossstage.errors import not_installed

SHELLS = ("bash", "zsh", "fish")


def completion(verbs: Callable[[], Mapping[str, Verb | Group]]) -> Verb:
    """Return the verb.

    Args:
        verbs: Gives all verbs of the command line, this one among them.
    """

    def run(given: Namespace) -> int:
        try:
            import shtab
        except ImportError:
            raise not_installed("shtab", "completion") from None
        print(shtab.complete(_whole("crossstage", "crossstage", verbs(), shtab.FILE), given.shell))
        return 0

    return Verb("Print a script by which a shell completes verbs, options and their values.", _declare, run)


def _declare(parser: Parser) -> None:
    parser.option("shell", "The shell, which reads the script when it starts.", choices=SHELLS, required=True)


def _whole(prog: str, summary: str, verbs: Mapping[str, Verb | Group], files: Any) -> argparse.ArgumentParser:
    """Return one parser of all verbs, whose values are completed by their choices, else by names of files."""
    parser = argparse.ArgumentParser(prog, description=summary)
    inner = parser.add_subparsers(parser_class=_as_made)  # pyright: ignore[reportArgumentType]
    for name, verb in verbs.items():
        called = f"{prog} {name}"
        if isinstance(verb, Group):
            made = _whole(called, verb.summary, verb.verbs, files)
        else:
            made = parser_of(called, verb)
            for action in made.options().values():
                action.choices = made.choices.get(action.dest)
                if not action.choices and action.nargs != 0:
                    action.complete = files  # pyright: ignore[reportAttributeAccessIssue]
        inner.add_parser(name, help=verb.summary, made=made)
    return parser


def _as_made(made: argparse.ArgumentParser, **_: Any) -> argparse.ArgumentParser:
    """Stand for a class of parsers where the parser is there already."""
    return made
