"""The verb that puts models behind HTTP: serve."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say
from crossstage.cli.opening import MODEL, declare_running
from crossstage.cli.verb import Verb

if TYPE_CHECKING:
    from crossstage.serving.served import Served

WARNING = (
    "everybody who reaches this machine can use the server: it asks for no password and encrypts nothing; a proxy "
    "before it does"
)


def declare(parser: Parser) -> None:
    """Declare the arguments of serve."""
    parser.positional("models", f"{MODEL} Several may be given; requests choose by name.", many=True)
    parser.option("host", "The address to listen at; 0.0.0.0 lets other machines in.", default="127.0.0.1")
    parser.option("port", "The port to listen at; 0 takes a free one.", int, 8000)
    parser.several(
        "runtime",
        "What runs the models, apart or with commas, or auto for the fastest that is installed; by default torch, for "
        "an exported file the first that reads it. Of several, requests choose by name.",
        choices=names.runtimes(),
    )
    declare_running(parser)
    parser.option(
        "streams",
        "Passes that are computed side by side, which share the threads: many clients get most images in a second by "
        "one for each core, which is the default, up to 8; a lone client is answered soonest by 1.",
        int,
    )
    parser.option("max_body", "The most megabytes of a request's body.", int, 32)
    parser.option("queue", "The most images that wait; further requests are told to come again.", int, 64)
    parser.option("timeout", "Seconds after which a request is given up.", float, 30.0)


def run(given: Namespace) -> int:
    """Serve the models until Ctrl-C or another signal."""
    from crossstage.serving.server import address_of, check_installed, is_loopback, listen, serve

    check_installed()
    from crossstage.serving.limits import Limits

    limits = Limits(body=given.max_body << 20, queue=given.queue, seconds=given.timeout)
    taken = listen(given.host, given.port)
    address, notes = address_of(taken), console(stderr=True, quiet=given.quiet)
    if not is_loopback(given.host):
        notes.print(WARNING, style="yellow", soft_wrap=True)
    notes.print(f"opening {', '.join(given.models)}", highlight=False, soft_wrap=True)

    def ready(served: Sequence[Served]) -> None:
        told = ", ".join(f"{one.name} ({one.runtime})" for one in served)
        say(f"{address} serves {told}; Ctrl-C ends it")

    serve(lambda: _open(given), taken, limits, host=given.host, on_ready=ready)
    return 0


def _open(given: Namespace) -> list[Served]:
    from crossstage.deploy.open import Opened, open_model, streams_for
    from crossstage.serving.served import open_served

    streams = given.streams or streams_for(given.threads, single=False, live=False)

    def open_one(model: str, runtime: str | None) -> Opened:
        return open_model(
            model,
            runtime=runtime,
            device=given.device,
            threads=given.threads,
            precision=given.precision,
            imgsz=given.imgsz,
            batch=given.batch,
            streams=streams,
        )

    return open_served(given.models, given.runtime or [None], open_one)


VERB = Verb("Serve models on a page of this machine and by HTTP.", declare, run)
