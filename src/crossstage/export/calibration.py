"""Pictures to quantise by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from crossstage.data import CocoDataset
from crossstage.data.source import find_data
from crossstage.errors import DataError
from crossstage.inference import Preprocessing, Source, Unreadable, load_image, prepare

MOST = 300  # pictures: more of them do not move a scale


def calibration_inputs(data: str | Path, preprocessing: Preprocessing) -> list[Tensor]:
    """Pictures as a network takes them, spread evenly over a dataset's training part or a folder.

    Args:
        data: A dataset, see :func:`~crossstage.data.source.find_data`, or a folder, glob or list of pictures.
        preprocessing: How they become input.

    Returns:
        Up to 300 tensors ``(1, 3, H, W)``.

    Raises:
        DataError: There are no pictures, or one of a dataset cannot be read.
    """
    inputs = []
    for pixels in _pictures(data):
        tensor, _ = prepare(pixels, preprocessing.size, preprocessing.resize)
        inputs.append(preprocessing.normalise(tensor.unsqueeze(0)))
    if not inputs:
        raise DataError(f"{data}: no picture in it can be read; expected some to quantise by")
    return inputs


def _pictures(data: str | Path) -> Iterator[Any]:
    try:
        source = find_data(data)
    except DataError:  # no dataset, but perhaps pictures: Source tells what is wrong if not
        return (entry.image for entry in islice(Source(data), MOST) if not isinstance(entry, Unreadable))
    part = source.read("train" if "train" in source.parts else next(iter(source.parts)))
    pictures = [image.path for image in part.images] if isinstance(part, CocoDataset) else part.pictures
    return (load_image(picture) for picture in _spread(pictures))


def _spread(pictures: Sequence[Any]) -> list[Any]:
    step = max(1.0, len(pictures) / MOST)
    return [pictures[int(index * step)] for index in range(min(MOST, len(pictures)))]
