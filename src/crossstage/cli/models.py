"""The verbs that say which models there are: models, info."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, table
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crossstage.structures import Preprocessing
    from crossstage.weights.cards import ModelCard
    from crossstage.weights.ref import Ref


def _declare_models(parser: Parser) -> None:
    parser.positional("pattern", "Shell-style wildcards, such as 'csp*'; by default all.", default="*")


def models(given: Namespace) -> int:
    """Print the models that fit a pattern, with their costs."""
    from rich.progress import track

    from crossstage.models.published import families
    from crossstage.weights.cards import list_models, model_info

    found, composed = list_models(given.pattern), families(given.pattern)
    if not found and not composed:
        close = did_you_mean(given.pattern.strip("*?"), list_models())
        raise ConfigError(f"no model is called {given.pattern!r}{close}")
    shown = table("model", "weights", "what", "M parameters", "GFLOPs", "at", numbers=3)
    for name in track(found, "counting", console=console(stderr=True, quiet=given.quiet), transient=True):
        card = model_info(name)
        tags = " ".join(f"{weights.removeprefix(name)}{_download(card, weights)}" for weights in card.weights)
        parameters, bflops = f"{card.parameters / 1e6:.3f}", f"{card.bflops:.3f}"
        shown.add_row(name, tags, card.summary, parameters, bflops, f"{card.input_size[0]} x {card.input_size[1]}")
    if found:
        console().print(shown)
    if composed:
        console().print(f"with any backbone: {', '.join(composed)}", markup=False, soft_wrap=True)
    return 0


def _declare_info(parser: Parser) -> None:
    parser.positional(
        "name",
        "A model's name, with or without the tag of its weights; or a model file, the folder of a training, or what "
        "export wrote.",
    )


def info(given: Namespace) -> int:
    """Print a model's card, or what a file says of its model."""
    from pathlib import Path

    from crossstage.deploy.reading import is_exported
    from crossstage.weights.cards import model_info
    from crossstage.weights.ref import parse

    named = Path(given.name).exists() or Path(given.name).suffix == ".safetensors"
    ref = parse(given.name, is_exported=is_exported) if named else None
    shown = table("", given.name)
    if ref is not None and ref.kind == "exported":
        rows = _rows_of_export(ref.file)
    elif ref is not None and ref.kind in ("file", "run"):
        rows = _rows_of_file(ref)
    else:
        rows = _rows(model_info(given.name))
    for key, value in rows.items():
        shown.add_row(key, value)
    console().print(shown)
    return 0


def _rows_of_file(ref: Ref) -> dict[str, str]:
    from crossstage.models.registry import find
    from crossstage.weights.stored import stored_spec

    spec = stored_spec(ref)
    rows = {"model": spec.name, "task": find(spec.name).task, "what": find(spec.name).summary}
    if spec.overrides:
        rows["settings"] = ", ".join(f"{name} {value}" for name, value in spec.overrides.items())
    rows |= _prepared(spec.preprocessing, spec.class_names)
    known = vars(spec.provenance) if spec.provenance else {}
    return rows | {f"weights' {key}".replace("_", " "): value for key, value in known.items() if value}


def _rows_of_export(path: Path) -> dict[str, str]:
    from crossstage.deploy.reading import graph_file, read_header

    header = read_header(graph_file(path))
    images = "any number of images of any size" if header.batch is None else f"{header.batch} image"
    rows = {"model": header.name, "task": header.task, "outputs": ", ".join(header.output_names), "a pass": images}
    return rows | _prepared(header.preprocessing, header.class_names)


def _prepared(preprocessing: Preprocessing | None, class_names: Sequence[str]) -> dict[str, str]:
    """Return rows that say what goes into a model and which classes come out."""
    rows = {}
    if preprocessing:
        rows["input"] = f"{preprocessing.size[0]} x {preprocessing.size[1]}, {preprocessing.resize}"
    return rows | {"classes": str(len(class_names)), "class names": ", ".join(class_names)}


def _rows(card: ModelCard) -> dict[str, str]:
    rows = {
        "task": card.task + (", a reconstruction from published sizes" if card.reconstruction else ""),
        "what": card.summary,
        "source": card.source,
        "input": f"{card.input_size[0]} x {card.input_size[1]}",
        "classes": str(card.num_classes),
        "parameters": f"{card.parameters:,}, of which {card.weights_only:,} weights",
        "GFLOPs": f"{card.bflops:.3f} (two for each multiply-add; the papers' BFLOPs)",
        "weights": ", ".join(f"{weights}{_download(card, weights)}" for weights in card.weights) or "none yet",
    }
    if card.provenance:
        rows |= {f"weights' {key}".replace("_", " "): value for key, value in vars(card.provenance).items() if value}
    if card.class_names:
        rows["class names"] = ", ".join(card.class_names)
    return rows


def _download(card: ModelCard, weights: str) -> str:
    """Return a mark for weights that are not in the package."""
    return " (download)" if weights in card.downloads else ""


MODELS = Verb("List the models.", _declare_models, models)
INFO = Verb("Show a model's card: what it is, what it costs, where its weights come from.", _declare_info, info)
