"""A verb of version 0.1.0 that moved to the repository's research folder: claims."""

from __future__ import annotations

from argparse import Namespace

from crossstage.cli.arguments import Parser
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError


def declare(parser: Parser) -> None:
    """Declare the arguments that claims had."""
    parser.option("run", "A structural claim to count again and compare with the ledger, or all.")


def run(given: Namespace) -> int:
    """Name the command that took this verb's place.

    Raises:
        ConfigError: Always.
    """
    options = f" --run {given.run}" if given.run else ""
    raise ConfigError(f"claims moved to research: run python -m research.claims{options} in a checkout of CrossStage")


VERB = Verb("Moved: run python -m research.claims in a checkout of CrossStage.", declare, run)
