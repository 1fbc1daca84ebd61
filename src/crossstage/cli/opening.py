"""What predict and val share: which model is run, by what and how."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, working

if TYPE_CHECKING:
    from crossstage.deploy.open import Opened

MODEL = (
    'A model with weights in "crossstage models", with or without their tag; a model file; the folder of a training; a '
    "Darknet .cfg with its .weights, and .names if there are any, beside it; or what export wrote."
)


SIZE = "Side of the network's input in pixels, or its height and width; by default what it was trained at."


def declare_opening(parser: Parser) -> None:
    """Declare the model, and what runs it."""
    parser.option("model", MODEL, default=names.DEFAULT_MODEL)
    parser.option(
        "runtime",
        "What runs the model, or auto for the fastest that is installed; by default torch, for an exported file the "
        "first that reads it.",
        choices=names.runtimes(),
    )
    declare_running(parser)


def declare_running(parser: Parser) -> None:
    """Declare how a model is run."""
    parser.size("imgsz", SIZE)
    parser.option("batch", "Images that share a forward pass.", int, 1)
    parser.option("device", "Where to run, such as cpu or cuda:1; by default a GPU if there is one.")
    parser.option(
        "precision",
        "Precision of the arithmetic; bf16 where runtime and processor have it.",
        default="fp32",
        choices=names.precisions(),
    )
    parser.option("threads", "Threads to use on a CPU; by default as many as the runtime takes.", int)


def open_given(given: Namespace, **options: Any) -> Opened:
    """Open the model that was named, which can take a minute for a new runtime, and say on stderr how it was chosen."""
    from crossstage.deploy.open import open_model

    with working("opening the model", given.quiet):
        opened = open_model(
            given.model,
            runtime=given.runtime,
            device=given.device,
            threads=given.threads,
            precision=given.precision,
            imgsz=given.imgsz,
            batch=given.batch,
            **options,
        )
    if opened.message:
        out = console(stderr=True, quiet=given.quiet)
        out.print(opened.message, markup=False, highlight=False, soft_wrap=True)
    return opened


def note_twin(model: str, *, quiet: bool) -> None:
    """Say on stderr which network a peer's weights stand for: until 0.1.0 that name was the peer's own network here."""
    from crossstage.weights.peers import PEERS
    from crossstage.weights.ref import parse

    ref = parse(model)
    if ref.kind == "peer":
        own = f"{ref.library}'s own is {ref.library}-network:{ref.tagged}"
        text = f"{model} is {PEERS[ref.peer].model}, our network of it; {own}"
        console(stderr=True, quiet=quiet).print(text, markup=False, highlight=False, soft_wrap=True)
