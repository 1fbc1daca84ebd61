"""The verb that times networks: benchmark."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, working
from crossstage.cli.verb import Verb


def declare(parser: Parser) -> None:
    """Declare the arguments of benchmark."""
    parser.positional("models", "Models, with or without weights, or model files.", many=True)
    parser.option("imgsz", "Side of the networks' input in pixels; by default each network's own.", int)
    parser.several(
        "runtimes", "What runs the networks, apart or with commas; by default all.", choices=names.benchmark_ways()
    )
    parser.flag(
        "peers",
        "Add the same network by others (OpenCV on Darknet's files, timm), and ultralytics' nano models if they are "
        "installed.",
    )
    parser.option("rounds", "Timed passes of each.", int, 30)
    parser.option("threads", "Threads of each runtime; by default all cores.", int)
    parser.flag("memory", "Measure peak memory, too, each row in a process of its own.", default=True)
    parser.option(
        "calib", "Images to quantise int8 networks by, a dataset or a folder; by default noise, which is as fast."
    )
    parser.option("json", "The file for all that was measured.")


def run(given: Namespace) -> int:
    """Time the networks, and print and write the table."""
    from crossstage.deploy.benchmark.benchmark import benchmark
    from crossstage.deploy.benchmark.printing import print_benchmark

    with working("benchmark", given.quiet) as status:
        result = benchmark(
            given.models,
            imgsz=given.imgsz,
            runtimes=given.runtimes,
            peers=given.peers,
            rounds=given.rounds,
            threads=given.threads,
            memory=given.memory,
            calib=given.calib,
            progress=status.update,
        )
    print_benchmark(result, console())
    if given.json:
        result.save(Path(given.json))
    return 0


VERB = Verb("Time networks in every installed runtime, side by side.", declare, run)
