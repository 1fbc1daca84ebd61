"""What names on the command line stand for.

Apart from the verbs: jsonargparse imports all that their module names in annotations, and ``--help`` is to be quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crossstage.cli.console import console

if TYPE_CHECKING:
    from torch import Tensor, nn

    from crossstage.analysis import GradientPaths
    from crossstage.data.anchors import Sizes
    from crossstage.data.find import DataSource
    from crossstage.deploy.open import Opened
    from crossstage.structures import Preprocessing


def source_of(data: str, format: str | None) -> DataSource:
    """A dataset."""
    from crossstage.data.find import find_data

    return find_data(data, format)  # pyright: ignore[reportArgumentType] (checked there)


def opened_model(model: str, **options: Any) -> Opened:
    """A model, whose opening can take a minute when a runtime is used for the first time; told how it was chosen."""
    from crossstage.deploy.open import open_model

    with console(stderr=True).status("opening the model"):
        opened = open_model(model, **options)
    if opened.told:
        console(stderr=True).print(opened.told, markup=False, highlight=False, soft_wrap=True)
    return opened


def anchors_of(model: str, imgsz: int | None) -> tuple[Sizes, Preprocessing]:
    """A model's anchors, none for a classifier, and its preprocessing."""
    import numpy as np

    from crossstage.models.heads.base import Head
    from crossstage.weights.starting import classes_of, start_model

    made = start_model(model, classes_of(model), imgsz=imgsz)
    assert made.spec.preprocessing
    head = getattr(made.model, "head", None)
    anchors = head.row.anchors if isinstance(head, Head) else ()
    return np.array(anchors, float).reshape(-1, 2), made.spec.preprocessing


def gradient_paths_of(model: str, imgsz: int | None) -> list[GradientPaths]:
    """The gradient paths of a network by name."""
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


def classifier_and_batch(
    model: str, data: str, imgsz: int | None, most: int = 128
) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A classifier for a dataset's classes, in training mode, and normalised images of it with their labels."""
    import torch

    from crossstage.data.find import part_to_measure
    from crossstage.data.loading import ScoredImages
    from crossstage.data.records import ClassificationData
    from crossstage.errors import ConfigError, DataError
    from crossstage.models.classifier import Classifier
    from crossstage.weights.starting import start_model

    dataset = part_to_measure(data)
    if not isinstance(dataset, ClassificationData):
        raise DataError(f"{data}: boxes to find; expected a dataset of images by class")
    started = start_model(model, dataset.class_names, imgsz=imgsz)
    if not isinstance(started.model, Classifier):
        raise ConfigError(f"{model} is a detector; expected a classifier to go with the classes of {data}")
    assert started.spec.preprocessing
    samples = ScoredImages(dataset, started.spec.preprocessing)
    chosen = range(0, len(samples), -(-len(samples) // most))  # evenly, as classes follow each other
    images = torch.stack([samples[index][0] for index in chosen])
    labels = torch.from_numpy(dataset.labels[list(chosen)])
    return started.model, (started.spec.preprocessing.normalise(images), labels)
