"""The verb that compares cross stage partial variants of a network: explore."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say
from crossstage.cli.verb import Verb


def declare(parser: Parser) -> None:
    """Declare the arguments of explore."""
    parser.option(
        "backbone", 'A classifier of "crossstage models", or a detector, whose backbone is varied.', required=True
    )
    parser.several(
        "gamma", "Shares of the channels that are carried past the blocks.", float, default=(0.25, 0.5, 0.75)
    )
    parser.several(
        "fusion",
        "Where the carried and the processed part are fused.",
        default=("first", "last", "both"),
        choices=names.fusions(),
    )
    parser.several(
        "split",
        "How the parts are taken: by a convolution for each, or by slicing the channels.",
        default=("project",),
        choices=names.splits(),
    )
    parser.option("imgsz", "Side of the input in pixels; by default the published one.", int)
    parser.several(
        "runtime",
        "What runs the networks to time them, of the runtimes of benchmark.",
        default=("torch",),
        choices=names.benchmark_ways(),
    )
    parser.option("rounds", "Timed passes of each.", int, 30)
    parser.option("threads", "Threads of each runtime; by default all cores.", int)
    parser.option(
        "train",
        'Data to train each network on, see "crossstage data check --help"; by default none is trained.',
    )
    parser.option("epochs", "Epochs of each training.", int, 10)
    parser.option("batch", "Images in an optimisation step.", int, 64)
    parser.option("seed", "Seed of each training.", int, 0)
    parser.option(
        "out",
        "The folder for explore.json, explore.csv, explore.png, and a folder for each training; by default "
        "runs/explore and the network's name. The same command goes on where it was interrupted.",
    )


def run(given: Namespace) -> int:
    """Count, time and perhaps train the variants, and print and write how they compare."""
    from rich.progress import Progress

    from crossstage.csp import explore as room
    from crossstage.training import Interrupted, TrainOptions

    folder = Path(given.out or f"runs/explore/{given.backbone}")
    training = None
    if given.train is not None:
        settings = {"epochs": given.epochs, "batch": given.batch, "seed": given.seed, "out": str(folder)}
        training = TrainOptions(given.backbone, given.train, sample_every=0, **settings)
    with Progress(console=console(stderr=True, quiet=given.quiet), transient=True) as bar:
        task = bar.add_task(given.backbone)
        found = room.explore(
            given.backbone,
            gammas=given.gamma,
            fusions=given.fusion,
            splits=given.split,
            num_classes=room.classes_in(training) if training else None,
            imgsz=given.imgsz,
            runtimes=given.runtime,
            rounds=given.rounds,
            threads=given.threads,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    found.save_all(folder)
    if training:
        try:
            found = room.with_accuracy(found, training, each=lambda known: known.save_all(folder), quiet=given.quiet)
        except Interrupted as error:
            print(f"{error}, or with the rest of {folder} by the same command", file=sys.stderr)
            return error.exit_code
    room.print_exploration(found, console())
    say(f"{folder}: explore.json, explore.csv, explore.png")
    return 0


VERB = Verb(
    "Compare the cross stage partial variants of a network: costs, latency and accuracy, with their Pareto fronts.",
    declare,
    run,
)
