"""Images of a dataset: how often classes occur, how large boxes are, what the network will see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crossstage.data.anchors import Sizes
from crossstage.data.augment import NO_AUGMENTATION, Augmentation
from crossstage.data.class_names import as_label, distinct
from crossstage.data.labelled import Labelled
from crossstage.data.loading import ClassifiedImages, DetectionImages
from crossstage.data.records import Dataset, DetectionData
from crossstage.inference.images import Pixels
from crossstage.structures import Preprocessing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_POINTS = 20_000
TITLE_WIDTH = 60  # characters that fit above a plot
TICKS = 12


def class_counts(dataset: Dataset) -> dict[str, int]:
    """Return how many boxes, or images, each class has, by its name."""
    return dict(zip(distinct(dataset.class_names), dataset.counts.tolist(), strict=True))


def plot_classes(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw how many labels each class has, a bar for each part; classes by frequency in the first part."""
    from matplotlib.figure import Figure

    first = next(iter(counts.values()))
    names = sorted(first, key=lambda name: -first[name])
    figure = Figure(figsize=(8, max(2.5, 0.28 * len(names) + 1.2)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(counts)
    for number, (part, of_class) in enumerate(counts.items()):
        places = np.arange(len(names)) + number * height
        axes.barh(places, [of_class.get(name, 0) for name in names], height, label=as_label(part))
    axes.set_yticks(np.arange(len(names)) + 0.4 - height / 2, [as_label(name) for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="labels", title="labels of each class")
    axes.legend()
    return figure


def plot_boxes(sizes: Sizes, anchors: Sizes, title: str) -> Figure:
    """Draw widths and heights of boxes in pixels of the network's input, and the anchors among them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    shown = sizes[np.linspace(0, len(sizes) - 1, min(len(sizes), MOST_POINTS)).astype(int)]
    axes.scatter(shown[:, 0], shown[:, 1], s=4, alpha=0.25, linewidths=0, label=f"{len(sizes)} boxes")
    axes.scatter(anchors[:, 0], anchors[:, 1], marker="x", s=80, color="red", label=f"{len(anchors)} anchors")
    axes.set(xlabel="width in pixels of the input", ylabel="height", xscale="log", yscale="log")
    axes.set_title("\n".join(wrap(as_label(title, 4 * TITLE_WIDTH), TITLE_WIDTH)), fontsize="medium")
    for axis in (axes.xaxis, axes.yaxis):  # 1, 2, 5, 10, ... of which each has room
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=TICKS))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    axes.legend()
    return figure


def seen_by_the_network(
    dataset: Dataset, preprocessing: Preprocessing, augmentation: Augmentation | None, count: int, *, seed: int = 0
) -> list[Pixels]:
    """Return training images as a network gets them, with their boxes, and masks if there are any, drawn.

    Args:
        dataset: The images and labels, of which the first in a random order are taken.
        preprocessing: Size of the input in pixels and how images are resized.
        augmentation: What is changed at random; None changes nothing.
        count: How many images are drawn.
        seed: Decides the order and the changes.
    """
    chosen = augmentation or NO_AUGMENTATION
    if isinstance(dataset, DetectionData):
        known = {"seed": seed, "epochs": 1_000_000, "masks": dataset.has_masks}
        images = DetectionImages(dataset, preprocessing, chosen, **known)
    else:
        images = ClassifiedImages(dataset, preprocessing, chosen, seed=seed)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    tiles = []
    for index in order.tolist():
        sample = images[(0, index)]
        if isinstance(sample[0], Labelled):
            tiles.append(_drawn(sample[0], dataset.class_names))
        else:
            tiles.append(_pixels(sample[0]))
    return tiles


def _drawn(sample: Labelled, names: Sequence[str]) -> Pixels:
    import supervision as sv

    from crossstage.inference.drawing import draw

    classes = sample.class_ids.numpy()
    boxes = sample.boxes.as_subclass(Tensor).numpy().reshape(-1, 4)
    detections = sv.Detections(
        boxes,
        mask=None if sample.masks is None else sample.masks.as_subclass(Tensor).bool().numpy(),
        class_id=classes,
        data={"class_name": np.array(names)[classes]},
    )
    return draw(_pixels(sample.image), detections)


def _pixels(image: Tensor) -> Pixels:
    """Return ``(H, W, 3)`` uint8 of ``(3, H, W)`` float in [0, 1]."""
    return np.ascontiguousarray((image.as_subclass(Tensor) * 255).round().byte().permute(1, 2, 0).numpy())
