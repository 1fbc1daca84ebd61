"""The command line: one function for each verb, over the functions that the Python API offers.

Nothing heavy is imported before a verb runs, so that ``crossstage --help`` answers at once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from crossstage.cli.convert import convert
from crossstage.cli.cost import profile_network, report
from crossstage.cli.data import data_anchors, data_check, data_show, data_stats
from crossstage.cli.deploy import benchmark, export
from crossstage.cli.explore import explore
from crossstage.cli.gradients import gradients
from crossstage.cli.train import run_train, train
from crossstage.cli.verbs import INTERRUPTED, darknet_convert, darknet_info, info, models, pack, predict, val
from crossstage.errors import CrossStageError
from crossstage.version import __version__

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

FAILED = 2

Verb = Callable[..., int]

VERBS: dict[str, Verb | dict[str, Verb]] = {
    "predict": predict,
    "train": train,
    "val": val,
    "data": {"check": data_check, "stats": data_stats, "anchors": data_anchors, "show": data_show},
    "export": export,
    "benchmark": benchmark,
    "pack": pack,
    "models": models,
    "info": info,
    "profile": profile_network,
    "report": report,
    "convert": convert,
    "explore": explore,
    "gradients": gradients,
    "darknet": {"info": darknet_info, "convert": darknet_convert},
}
GROUPS = {
    "darknet": "Networks and weights in Darknet's formats.",
    "data": "Datasets: check, describe, fit anchors, look at.",
}
LISTS = {  # options that take several values
    "classes": "Names or ids of the classes to look for, apart or with commas; by default all.",
    "fusion": "Where the carried and the processed part are fused.",
    "gamma": "Shares of the channels that are carried past the blocks.",
    "runtime": "What runs the networks to time them, of the runtimes of benchmark.",
    "runtimes": "Some of torch-eager, torch, torch-compiled, torch-bf16, onnxruntime, onnxruntime-int8, openvino, "
    "openvino-bf16, openvino-int8, ncnn, ncnn-bf16, opencv, apart or with commas; by default all.",
    "stages": "Names or numbers of the stages to convert, in the order they run; by default those that get cheaper, or "
    "all if none does.",
    "split": "How the parts are taken: by a convolution for each, or by slicing the channels.",
    "write": "Files to write: .json for all of it, .csv for a row of each layer, .png for a chart.",
}
SEVERAL = {"models": "Models, with or without weights, or model files."}  # positional
FLAGS = {
    "augment",
    "compiled",
    "decode",
    "dynamic",
    "half",
    "int8",
    "layers",
    "measure",
    "nms",
    "fit_anchors",
    "freeze_backbone",
    "nms_sweep",
    "peers",
}  # may stand without a value
OPTIONAL = {"pattern": "Shell-style wildcards, such as 'csp*'; by default all."}  # positional, and may be left out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command and options; by default those of the process.

    Returns:
        0 on success, 1 if something was skipped or faulty, 2 if the command could not be carried out, 130 after
        Ctrl-C, 143 after being told to terminate.
    """
    words = _plain(list(sys.argv[1:] if arguments is None else arguments))
    try:
        if words[:1] == ["train"]:
            return run_train(words[1:])
        chosen = _parser().parse_args(words)
        verb = VERBS[chosen.subcommand]
        chosen = chosen[chosen.subcommand]
        if isinstance(verb, dict):
            verb, chosen = verb[chosen.subcommand], chosen[chosen.subcommand]
        return verb(**vars(chosen))
    except CrossStageError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _plain(words: Sequence[str]) -> list[str]:
    """Options as they are defined: hyphens become underscores, a flag without a value is true, and -o is --out."""
    words = ["--out" if word == "-o" else word for word in words]
    result = []
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if name in FLAGS and not equals and following.startswith("--"):
                equals, value = "=", "true"
            result.append(f"--{name}{equals}{value}")
        else:
            result.append(word)
    return result


def _parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="crossstage", description="Cross Stage Partial networks: find objects, train, measure, convert."
    )
    parser.add_argument("--version", action="version", version=f"crossstage {__version__}")
    _add_verbs(parser, VERBS)
    return parser


def _add_verbs(parser: ArgumentParser, verbs: Mapping[str, Verb | dict[str, Verb]]) -> None:
    """Required parameters become positional arguments, unless they are keyword-only."""
    from jsonargparse import ArgumentParser

    commands = parser.add_subcommands()
    for name, verb in verbs.items():
        summary = GROUPS[name] if isinstance(verb, dict) else (verb.__doc__ or "").splitlines()[0]
        below = ArgumentParser(description=summary)
        commands.add_subcommand(name, below, help=summary.rstrip("."))
        if isinstance(verb, dict):
            _add_verbs(below, verb)
            continue
        if verb is train:  # it has a parser of its own, which needs torch
            continue
        parameters = inspect.signature(verb).parameters
        first = next(iter(parameters.values()))
        lists = _lists(verb)
        below.add_function_arguments(
            verb, as_positional=first.kind is not first.KEYWORD_ONLY, skip={*lists, *OPTIONAL, *SEVERAL}
        )
        for argument in SEVERAL.keys() & parameters.keys():
            below.add_argument(argument, nargs="+", help=SEVERAL[argument])
        for argument in OPTIONAL.keys() & parameters.keys():
            below.add_argument(argument, nargs="?", default=parameters[argument].default, help=OPTIONAL[argument])
        for option, kind in lists.items():
            default = parameters[option].default
            default = list(default) if isinstance(default, tuple) else default  # shown as it is typed
            below.add_argument(f"--{option}", nargs="+", type=kind, default=default, help=LISTS[option])


def _lists(verb: Verb) -> dict[str, Any]:
    """The options of a verb that take several values, and what one of them is."""
    found = {}
    for name, hint in get_type_hints(verb).items():
        for form in (hint, *get_args(hint)):
            if get_origin(form) in (list, Sequence) and name not in SEVERAL:
                found[name] = get_args(form)[0]
    return found
