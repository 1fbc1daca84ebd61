"""The verbs for Darknet's files: darknet info and convert."""

from __future__ import annotations

from argparse import Namespace

from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, table
from crossstage.cli.pack import declare_origin, say_digest
from crossstage.cli.verb import Group, Verb


def _declare_info(parser: Parser) -> None:
    parser.positional("cfg", "The .cfg file.")
    parser.option("weights", "The .weights file.")


def info(given: Namespace) -> int:
    """Print a network's layers, and whether weights fit them."""
    from crossstage.darknet import check_weights, describe

    rows = describe(given.cfg)
    shown = table("", "layer", "output", "parameters", "BFLOPs", numbers=3)
    for row in rows:
        shown.add_row(str(row.index), row.kind, str(row.output_shape), f"{row.parameters:,}", f"{row.bflops:.3f}")
    shown.add_section()
    shown.add_row("", "total", "", f"{sum(row.parameters for row in rows):,}", f"{sum(row.bflops for row in rows):.3f}")
    out = console()
    out.print(shown)
    if given.weights:
        verdict = str(check_weights(given.cfg, given.weights))
        out.print(verdict, style="bold", markup=False, highlight=False, soft_wrap=True)
    return 0


def _declare_convert(parser: Parser) -> None:
    parser.option("weights", "The .weights file.", required=True)
    parser.option("model", "The name of the native model.", required=True)
    parser.option("names", "A text file with a class name in each line.", required=True)
    declare_origin(parser)


def convert(given: Namespace) -> int:
    """Write the model file, and print its digest."""
    from crossstage.weights.from_darknet import convert_darknet

    convert_darknet(
        given.weights,
        given.out,
        model=given.model,
        names=given.names,
        source=given.source,
        licence=given.licence,
        trained_on=given.trained_on,
        half=given.half,
    )
    say_digest(given.out)
    return 0


GROUP = Group(
    "Networks and weights in Darknet's formats.",
    {
        "info": Verb("Show a Darknet network layer by layer, and whether a weights file fits it.", _declare_info, info),
        "convert": Verb(
            "Turn Darknet weights into a model file for the native network; equal input gives equal bytes.",
            _declare_convert,
            convert,
        ),
    },
)
