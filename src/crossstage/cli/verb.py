"""What a verb is, and the exit codes that verbs share."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

from crossstage.cli.arguments import Parser

FOUND_FAULTS = 1
FAILED = 2
SIGNALLED = 128  # to which the number of a signal is added
UNREAD = 141  # as a shell says of what SIGPIPE ended


@dataclass(frozen=True)
class Verb:
    """A verb of the command line.

    Attributes:
        summary: What it does, in a sentence.
        declare: Declares its arguments.
        run: Carries it out, given the values of these arguments, and returns the exit code.
    """

    summary: str
    declare: Callable[[Parser], None]
    run: Callable[[Namespace], int]


@dataclass(frozen=True)
class Group:
    """Verbs under a common word.

    Attributes:
        summary: What they are about, in a sentence.
        verbs: The verbs by their second word.
    """

    summary: str
    verbs: dict[str, Verb]


def parser_of(prog: str, verb: Verb) -> Parser:
    """Return the parser of a verb.

    Args:
        prog: The command and the verb, as a person types them.
        verb: The verb.
    """
    parser = Parser(prog, verb.summary)
    verb.declare(parser)
    parser.flag("quiet", "Show no progress and no remarks, only results and errors.")
    return parser
