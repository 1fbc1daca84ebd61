"""The verb that trains. Its options are those of :class:`crossstage.training.TrainOptions`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def train() -> int:
    """Train a detector or a classifier on your own images."""
    raise AssertionError("run_train parses this verb's arguments")


def run_train(words: Sequence[str]) -> int:
    """Parse the verb's arguments and train.

    Args:
        words: What follows ``crossstage train``.

    Returns:
        0, or 130 or 143 if SIGINT or SIGTERM ended the training, whose state is saved then.

    Raises:
        CrossStageError: See :func:`crossstage.training.train`.
    """
    from crossstage.training import Interrupted, TrainOptions, resume
    from crossstage.training import train as start

    try:
        if any(word.split("=")[0] == "--resume" for word in words):
            chosen = vars(_resume_parser().parse_args(list(words)))
            run = chosen.pop("resume")
            resume(run, **{name: value for name, value in chosen.items() if value is not None})
        else:
            parser = _parser()
            chosen = parser.parse_args(_with_recipe_paths(words))
            chosen.pop("config", None)
            start(TrainOptions(**vars(parser.instantiate(chosen))))
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    from crossstage.training import TrainOptions, recipe_names

    parser = ArgumentParser(
        prog="crossstage train",
        description="Train a detector or a classifier on your own images. "
        "Or go on with a run that was interrupted: crossstage train --resume RUN",
    )
    recipes = ", ".join(recipe_names())
    parser.add_argument("--config", action="config", help=f"YAML file with options, or the name of a recipe: {recipes}")
    parser.add_class_arguments(TrainOptions, None)
    return parser


def _resume_parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="crossstage train", description="Go on with a run from its last complete state.")
    parser.add_argument("--resume", type=str, required=True, help="Folder of the run.")
    parser.add_argument("--data", type=str | None, help="Where the data lies now.")
    parser.add_argument("--devices", type=int | None, help="Devices of this machine.")
    parser.add_argument("--nodes", type=int | None, help="Machines.")
    parser.add_argument("--strategy", type=Literal["auto", "ddp", "fsdp"] | None, help="How they share the work.")
    parser.add_argument("--accelerator", type=str | None, help="auto, cpu, cuda or mps.")
    parser.add_argument("--workers", type=int | None, help="Processes that prepare images, on each device.")
    return parser


def _with_recipe_paths(words: Sequence[str]) -> list[str]:
    """The arguments with names of recipes replaced by their files."""
    from crossstage.training.options import recipe_path

    result: list[str] = []
    for number, word in enumerate(words):
        if number and words[number - 1] == "--config":
            result.append(str(recipe_path(word)))
        elif word.startswith("--config="):
            result.append(f"--config={recipe_path(word.partition('=')[2])}")
        else:
            result.append(word)
    return result
