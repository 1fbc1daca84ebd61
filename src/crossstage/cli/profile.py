"""The verb that says what a network costs: profile."""

from __future__ import annotations

from argparse import Namespace

from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, working
from crossstage.cli.opening import note_twin
from crossstage.cli.verb import Verb

NETWORK = (
    'A model in "crossstage models", a model file, a Darknet .cfg, another library\'s network such as '
    "timm-network:resnet50, or path/to/file.py:function, which is run and gives a torch module. Weights are not needed."
)


def declare(parser: Parser) -> None:
    """Declare the arguments of profile."""
    parser.positional("model", NETWORK)
    parser.option("imgsz", "Side of the network's input in pixels; by default its own.", int)
    declare_measuring(parser)
    parser.flag("layers", "Print every operation, not the largest layers alone.")
    parser.several(
        "write",
        "Files to write: .json for all of it, .csv for a row of each layer, .png for a chart.",
        commas=False,
    )


def declare_measuring(parser: Parser) -> None:
    """Declare the size of a pass, and whether and where its operations are timed."""
    parser.option("batch", "Images of a pass.", int, 1)
    parser.flag("measure", "Time each operation on this machine, too, and place it under the machine's roofline.")
    parser.option("device", "Where to measure, such as cpu or cuda:1; by default a GPU if there is one.")


def run(given: Namespace) -> int:
    """Count, and perhaps time, a network's operations, and print and write the result."""
    from crossstage.analysis.printing import print_profile
    from crossstage.profiling import profile

    note_twin(given.model, quiet=given.quiet)
    with working("measuring" if given.measure else "counting", given.quiet):
        counted = profile(given.model, given.imgsz, batch=given.batch, measure=given.measure, device=given.device)
    for file in given.write or ():
        counted.save(file)
    print_profile(counted, console(), layers=given.layers)
    return 0


VERB = Verb("Tell what a network costs: parameters, operations, memory traffic, peak memory, bottleneck.", declare, run)
