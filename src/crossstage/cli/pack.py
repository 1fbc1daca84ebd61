"""The verb that makes one file of a trained model: pack."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from pathlib import Path

from crossstage.cli.arguments import Parser
from crossstage.cli.console import say
from crossstage.cli.verb import Verb


def declare(parser: Parser) -> None:
    """Declare the arguments of pack."""
    parser.option("model", "The folder of a training, a model file, or other weights.", required=True)
    declare_origin(parser)


def declare_origin(parser: Parser) -> None:
    """Declare the file of a model to pass on, and what its header says of the weights."""
    parser.option("out", "The .safetensors file to write.", required=True)
    parser.option("source", "What was trained and by whom, for the file's header.", required=True)
    parser.option("licence", "The licence of the weights, for the file's header.", required=True)
    parser.option("trained_on", "The training data, for the file's header.", required=True)
    parser.flag("half", "Store float16, which halves the file.", default=True)


def run(given: Namespace) -> int:
    """Write the file, and print its digest."""
    from crossstage.weights.stored import pack

    origin = {"source": given.source, "licence": given.licence, "trained_on": given.trained_on}
    pack(given.model, given.out, half=given.half, **origin)
    say_digest(given.out)
    return 0


def say_digest(path: str) -> None:
    """Print a file's name and SHA-256."""
    say(f"{path}: sha256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()}")


VERB = Verb("Write a trained model as one file to pass on, with its origin and licence.", declare, run)
