"""The verb that compares networks on one page: report."""

from __future__ import annotations

from argparse import Namespace

from crossstage.cli.arguments import Parser
from crossstage.cli.console import say, working
from crossstage.cli.opening import note_twin
from crossstage.cli.profile import declare_measuring
from crossstage.cli.verb import Verb


def declare(parser: Parser) -> None:
    """Declare the arguments of report."""
    parser.positional("models", "Networks, as for profile; the others are compared with the first.", many=True)
    parser.option("out", "The page to write, which opens in any browser.", default="report.html")
    parser.option("imgsz", "Side of the networks' input in pixels; by default each network's own.", int)
    declare_measuring(parser)


def run(given: Namespace) -> int:
    """Count, and perhaps time, the networks' operations, and write the page."""
    from crossstage.analysis.html import write_report
    from crossstage.profiling import profile

    with working("measuring" if given.measure else "counting", given.quiet) as status:
        counted = []
        for name in given.models:
            note_twin(name, quiet=given.quiet)
            status.update(name)
            counted.append(profile(name, given.imgsz, batch=given.batch, measure=given.measure, device=given.device))
        write_report(counted, given.out)
    say(f"{given.out}: {', '.join(given.models)}")
    return 0


VERB = Verb(
    "Compare what networks cost on one page: charts of every layer, bottlenecks, roofline, tables.", declare, run
)
