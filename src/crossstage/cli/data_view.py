"""The verb that shows a dataset on a page of this machine: data view."""

from __future__ import annotations

from argparse import Namespace

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say, working
from crossstage.cli.opening import MODEL
from crossstage.cli.verb import Verb

PORT = 8008


def declare(parser: Parser) -> None:
    """Declare the arguments of data view."""
    parser.positional("data", 'The dataset, see "crossstage data check --help".')
    parser.option(
        "format", "The format, where it is not recognised or recognised wrongly.", choices=names.data_formats()
    )
    parser.option("model", f"Show what a model finds beside the labels, and its worst images first. {MODEL}")
    parser.option("port", "The port of the page; 0 takes a free one.", int, PORT)


def run(given: Namespace) -> int:
    """Show a dataset until Ctrl-C or another signal."""
    from crossstage.data.find import find_data
    from crossstage.viewing.server import DataView, view_until_stopped

    source = find_data(given.data, given.format)
    with DataView(given.port) as view:
        from crossstage.viewing.gallery import Gallery

        model = _opened(given)
        console(stderr=True, quiet=given.quiet).print(f"reading {source.path}", markup=False, soft_wrap=True)
        gallery = Gallery(source, model, model_name=given.model or "", progress=not given.quiet)
        view_until_stopped(view, gallery, lambda address: say(f"{address} shows {len(gallery)} images; Ctrl-C ends it"))
    return 0


def _opened(given: Namespace) -> object:
    from crossstage.deploy.open import open_model

    if not given.model:
        return None
    with working("opening the model", given.quiet):
        opened = open_model(given.model)
    return opened.detector or opened.classifier


VERB = Verb("Look at a dataset on a page of this machine, and at what a model makes of it.", declare, run)
