"""Images to quantise by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from crossstage.data.find import find_data
from crossstage.data.records import DetectionData
from crossstage.errors import DataError
from crossstage.inference.images import load_image
from crossstage.inference.preprocessing import prepare
from crossstage.inference.sources import Source, Unreadable
from crossstage.structures import Preprocessing

MOST = 300  # images: more of them do not move a scale


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
