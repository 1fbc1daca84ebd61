"""The verb that gives a network its cross stage partial variant: convert."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import say
from crossstage.cli.opening import note_twin
from crossstage.cli.verb import Verb


def declare(parser: Parser) -> None:
    """Declare the arguments of convert."""
    parser.positional(
        "module",
        'The network: a name of "crossstage models", another library\'s such as timm-network:resnet50, or '
        "path/to/file.py:function.",
    )
    parser.option(
        "gamma", "Share of the channels that is carried past a stage's blocks; larger is cheaper.", float, 0.5
    )
    parser.option(
        "fusion",
        "Which transitions there are: first (after the parts are joined), last (before), both or none.",
        default="both",
        choices=names.fusions(),
    )
    parser.option(
        "split",
        "Read each part with a convolution of its own, or slice the channels.",
        default="project",
        choices=names.splits(),
    )
    parser.several(
        "stages",
        "Names or numbers of the stages to convert, in the order they run; by default those that get cheaper, or all "
        "if none does.",
    )
    parser.option(
        "imgsz", "Side of the images that costs are counted at, in pixels; by default the network's own.", int
    )
    parser.option(
        "out", "The Python file to write, which holds the network's edits and runs alone; by default none is written."
    )


def run(given: Namespace) -> int:
    """Convert the network, print what changed, and write its source."""
    import torch

    from crossstage.csp import carry_out, make_plan, origin_of, write_source
    from crossstage.files import write_text
    from crossstage.nn import Partial
    from crossstage.weights.resolving import resolve

    note_twin(given.module, quiet=given.quiet)
    found = resolve(given.module)
    channels, *size = found.input_shape
    example = torch.empty(1, channels, *([given.imgsz, given.imgsz] if given.imgsz else size), device="meta")
    chosen = given.stages and [int(name) if name.lstrip("-").isdigit() else name for name in given.stages]
    plan = make_plan(found.module, Partial(given.gamma, given.fusion, given.split), chosen, example)
    _, report = carry_out(found.module, plan)
    if given.out:
        settings = f"gamma {given.gamma}, fusion {given.fusion}, split {given.split}"
        title = f"{given.module} as a cross stage partial network: {settings}."
        out = Path(given.out)
        write_text(out, write_source(found.module, plan, report, origin_of(given.module, out), title))
    say(str(report))
    if given.out:
        say(f"written: {given.out}")
    return 0


VERB = Verb("Give a plain network its cross stage partial variant, and write that as source.", declare, run)
