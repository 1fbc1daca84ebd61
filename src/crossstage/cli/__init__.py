"""The command line: one file for each verb, over the functions that the Python API offers.

A file declares its verb's arguments and carries it out. Nothing heavy is imported before a verb runs, so that
``crossstage --help`` and the help of each verb answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from signal import SIGINT

from crossstage.cli import (
    benchmark,
    claims,
    completion,
    convert,
    darknet,
    data,
    explain,
    explore,
    export,
    gradients,
    import_,
    label,
    models,
    pack,
    predict,
    profile,
    report,
    serve,
    track,
    train,
    tune,
    val,
)
from crossstage.cli.arguments import Parser, UsageError
from crossstage.cli.outputs import check_outputs
from crossstage.cli.signals import ending_signals
from crossstage.cli.verb import FAILED, SIGNALLED, UNREAD, Group, Verb, parser_of
from crossstage.errors import CrossStageError, one_of
from crossstage.reading.text import visible
from crossstage.version import __version__

VERBS: dict[str, Verb | Group] = {
    "predict": predict.VERB,
    "track": track.VERB,
    "label": label.VERB,
    "serve": serve.VERB,
    "train": train.VERB,
    "tune": tune.VERB,
    "val": val.VERB,
    "explain": explain.VERB,
    "data": data.GROUP,
    "export": export.VERB,
    "benchmark": benchmark.VERB,
    "pack": pack.VERB,
    "import": import_.VERB,
    "models": models.MODELS,
    "info": models.INFO,
    "profile": profile.VERB,
    "report": report.VERB,
    "convert": convert.VERB,
    "explore": explore.VERB,
    "gradients": gradients.VERB,
    "darknet": darknet.GROUP,
    "claims": claims.VERB,
    "completion": completion.completion(lambda: VERBS),
}
HELP = ("--help", "-h")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command and options; by default those of the process.

    Returns:
        0 on success, 1 if something was skipped or faulty, 2 if the command could not be carried out, 130 after
        Ctrl-C, 141 where nobody reads the output any more, 143 after a signal to terminate, 129 after that of a
        terminal that was closed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with suppress(AttributeError, ValueError):  # a stdout that is no text file, or has been written to
        sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with ending_signals():
            code = _run("crossstage", VERBS, words)
        sys.stdout.flush()
        return code
    except CrossStageError as error:
        print(_shown(error), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as error:
        return SIGNALLED + getattr(error, "signal", int(SIGINT))
    except BrokenPipeError:
        _drop_output()
        return UNREAD


def _shown(error: CrossStageError) -> str:
    """Return an error's line; if it has more, they are indented, so that none can pass for another error's."""
    return "\n  ".join(map(visible, f"error: {error}".split("\n")))


def _drop_output() -> None:
    """Send what is still buffered for stdout nowhere, so that Python does not object at its end."""
    with suppress(OSError, ValueError):  # a stdout without a descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _run(prog: str, verbs: Mapping[str, Verb | Group], words: Sequence[str]) -> int:
    """Run the verb that the first word names, with the others."""
    first, rest = words[0] if words else "", words[1:]
    if first in HELP:
        print(_help(prog, verbs))
        return 0
    if first == "--version" and verbs is VERBS:
        print(f"crossstage {__version__}")
        return 0
    if first not in verbs:
        what = f"{first!r} is unknown" if first else "a verb is missing"
        raise UsageError(f"{what}; {one_of(first, verbs)}; usage: {prog} VERB [options]")
    found = verbs[first]
    if isinstance(found, Group):
        return _run(f"{prog} {first}", found.verbs, rest)
    given = parser_of(f"{prog} {first}", found).read(rest)
    check_outputs(given)
    return found.run(given)


def _help(prog: str, verbs: Mapping[str, Verb | Group]) -> str:
    """Return the help of a command with verbs."""
    group = VERBS.get(prog.rpartition(" ")[2])
    summary = group.summary if group else "Cross Stage Partial networks: find objects, train, measure, convert."
    parser = Parser(prog, summary)
    parser.usage = f"{prog} VERB [options]"
    if group is None:
        parser.add_argument("--version", action="version", version=__version__, help="show the version and exit")
    listed = parser.add_argument_group("verbs", f"each has a help of its own: {prog} VERB --help")
    for name, verb in verbs.items():
        listed.add_argument(name, help=verb.summary.rstrip("."))
    return parser.format_help().rstrip()
