"""The verb that looks at gradients: gradients."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say, table
from crossstage.cli.opening import note_twin
from crossstage.cli.profile import NETWORK
from crossstage.cli.verb import Verb

if TYPE_CHECKING:
    from torch import Tensor, nn

    from crossstage.analysis import GradientPaths

MOST_IMAGES = 128
LONG = 10**15  # counts of paths are written out below this


def declare(parser: Parser) -> None:
    """Declare the arguments of gradients."""
    parser.positional("model", NETWORK)
    parser.option("imgsz", "Side of the network's input in pixels; by default its own.", int)
    parser.option("json", "The file for the paths, with the exact counts.")
    parser.option(
        "data",
        "A classification dataset whose images show how alike the gradients are that reach the layers of each stage; "
        "for our own classifiers.",
    )
    parser.option("save", "The image for that, a heat map for each stage.", default="gradients.png")


def run(given: Namespace) -> int:
    """Count the paths, compare the gradients, and print and write both."""
    from decimal import Decimal
    from json import dumps

    from crossstage.files import write_text

    note_twin(given.model, quiet=given.quiet)
    rows = _paths(given.model, given.imgsz)
    shown = table("layer", "paths", "shortest", "longest", numbers=3)
    for row in rows:
        paths = f"{row.paths:,}" if row.paths < LONG else f"{Decimal(row.paths):.3e}"
        shown.add_row(row.layer, paths, str(row.shortest), str(row.longest))
    console().print(shown)
    if given.json:
        write_text(Path(given.json), dumps([vars(row) for row in rows], indent=1) + "\n")
    if given.data:
        _compare(given)
    return 0


def _compare(given: Namespace) -> None:
    """Draw how alike the gradients within each stage are."""
    from crossstage.analysis import gradient_similarity, plot_similarity
    from crossstage.files import whole_file

    network, batch = _classifier_and_batch(given)
    found = gradient_similarity(network, [batch])
    with whole_file(Path(given.save)) as temporary:
        plot_similarity(found).savefig(temporary, dpi=120)
    say(f"{given.save}: gradients of {len(batch[0])} images")


def _paths(model: str, imgsz: int | None) -> list[GradientPaths]:
    from crossstage.analysis import gradient_paths
    from crossstage.analysis.cost import NeedsValuesError
    from crossstage.profiling import input_shape
    from crossstage.weights.resolving import resolve

    found = resolve(model)
    shape = input_shape(found.input_shape, imgsz, 1)
    try:
        return gradient_paths(found.module, shape)
    except NeedsValuesError:
        return gradient_paths(resolve(model, "cpu").module, shape)


def _classifier_and_batch(given: Namespace) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return a classifier for a dataset's classes, in training mode, and input for it with the labels."""
    import torch

    from crossstage.data.find import part_to_measure
    from crossstage.data.loading import ValImages
    from crossstage.data.records import ClassificationData
    from crossstage.errors import ConfigError, DataError
    from crossstage.inference.preprocessing import stack
    from crossstage.models.classifier import Classifier
    from crossstage.weights.starting import start_model

    dataset = part_to_measure(given.data)
    if not isinstance(dataset, ClassificationData):
        raise DataError(f"{given.data}: boxes to find; expected a dataset of images by class")
    started = start_model(given.model, dataset.class_names, imgsz=given.imgsz)
    if not isinstance(started.model, Classifier):
        raise ConfigError(f"{given.model} is a detector; expected a classifier to go with the classes of {given.data}")
    assert started.spec.preprocessing
    samples = ValImages(dataset, started.spec.preprocessing)
    chosen = range(0, len(samples), -(-len(samples) // MOST_IMAGES))  # evenly, as classes follow each other
    images = stack([samples[index][0] for index in chosen], started.spec.preprocessing)
    labels = torch.from_numpy(dataset.labels[list(chosen)])
    return started.model, (started.spec.preprocessing.normalise(images), labels)


VERB = Verb(
    "Count the gradient paths to each layer of a network; compare the gradients within its stages.", declare, run
)
