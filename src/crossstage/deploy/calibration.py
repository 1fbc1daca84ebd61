"""Images to quantise by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossstage.data.find import find_data
from crossstage.data.records import DetectionData
from crossstage.errors import DataError
from crossstage.inference.images import load_image
from crossstage.inference.preprocessing import prepare
from crossstage.inference.sources import Source, Unreadable
from crossstage.models.detector import Detector
from crossstage.structures import Preprocessing

MOST = 300  # images: more of them do not move a scale
FEWEST = 32  # images, with fewer of which scales hang on the one or the other
FOUND = 0.25  # score from which on an object counts as found
LEAST_SPREAD = 0.02  # of an image's values, relative to the largest: less is one colour and its noise


def calibration_inputs(data: str | Path, preprocessing: Preprocessing) -> list[Tensor]:
    """Read images as a network takes them, spread evenly over a dataset's training part or a folder.

    Args:
        data: A dataset, see :func:`~crossstage.data.find.find_data`, or a folder, glob or list of images.
        preprocessing: How they become input.

    Returns:
        Up to 300 tensors ``(1, 3, H, W)``.

    Raises:
        DataError: There are no images, or one of a dataset cannot be read.
    """
    inputs = []
    for pixels in _images(data):
        tensor, _ = prepare(pixels, preprocessing)
        inputs.append(preprocessing.normalise(tensor.unsqueeze(0)))
    if not inputs:
        raise DataError(f"{data}: no image in it can be read; expected some to quantise by")
    return inputs


def remarks_on(inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """Return what is to be said of inputs to quantise by: too few of them, or such as show nothing.

    Args:
        inputs: As :func:`calibration_inputs` returns them; none is no matter.
    """
    plain = sum(
        float(image.amax() - image.amin()) < LEAST_SPREAD * max(1.0, float(image.abs().max())) for image in inputs
    )
    remarks = []
    if plain:
        which = "all of them are" if plain == len(inputs) else f"{plain} of them {'is' if plain == 1 else 'are'}"
        remarks.append(f"quantised by {len(inputs)} images, and {which} of one colour: the file may find nothing")
    if len(inputs) > 1 and len({image.numpy().tobytes() for image in inputs}) == 1 and not plain:
        remarks.append(f"quantised by {len(inputs)} images that are all the same one; scales hang on it alone")
    if 0 < len(inputs) < FEWEST:
        few = f"{len(inputs)} image{'' if len(inputs) == 1 else 's'}"
        remarks.append(f"quantised by {few}; {FEWEST} or more that are like those to come give better scales")
    return tuple(remarks)


def remarks_on_objects(model: Detector, inputs: Sequence[Tensor]) -> tuple[str, ...]:
    """Return what is to be said where a detector finds nothing in images to quantise it by.

    Args:
        model: The detector.
        inputs: As :func:`calibration_inputs` returns them, of which the first 32 are looked at, up to the first with an
            object in it.
    """
    looked = inputs[:FEWEST]
    if not looked or any(_finds(model, image) for image in looked):
        return ()
    which = "the image" if len(looked) == 1 else f"any of {len(looked)} images"
    return (
        f"the model finds nothing in {which} to quantise by: what objects do to the scales is not in them, and the "
        "file may find nothing",
    )


def _finds(model: Detector, image: Tensor) -> bool:
    size = (image.shape[2], image.shape[3])
    with torch.inference_mode():
        (found,) = model.detect(model(image), size, replace(model.nms, score=FOUND))
    return len(found.scores) > 0


def _images(data: str | Path) -> Iterator[Any]:
    try:
        source = find_data(data)
    except DataError:  # no dataset, but perhaps images: Source says what is wrong if not
        return (entry.pixels for entry in islice(Source(data), MOST) if not isinstance(entry, Unreadable))
    part = source.read("train" if "train" in source.parts else next(iter(source.parts)))
    chosen = [image.path for image in part.images] if isinstance(part, DetectionData) else part.images
    return (load_image(entry) for entry in _spread(chosen))


def _spread(entries: Sequence[Any]) -> list[Any]:
    step = max(1.0, len(entries) / MOST)
    return [entries[int(index * step)] for index in range(min(MOST, len(entries)))]
