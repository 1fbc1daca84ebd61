"""Several datasets made one: classes of one name are one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from crossstage.data.records import Dataset, DetectionData, joined
from crossstage.errors import DataError


def merge_data(several: Sequence[Mapping[str, Dataset]]) -> dict[str, Dataset]:
    """Merge datasets, part by part.

    Args:
        several: The parts of each dataset. Classes are numbered in the order in which they first occur.

    Raises:
        DataError: Some have boxes and others one label an image.
    """
    everything = [data for parts in several for data in parts.values()]
    if other := next((data for data in everything if type(data) is not type(everything[0])), None):
        raise DataError(f"{other.path}: other labels than in {everything[0].path}; expected boxes in both or none")
    names = list(dict.fromkeys(name for data in everything for name in data.class_names))
    splits = dict.fromkeys(split for parts in several for split in parts)
    return {split: joined([_renumbered(p[split], names) for p in several if split in p]) for split in splits}


def _renumbered(data: Dataset, names: Sequence[str]) -> Dataset:
    """Return a dataset with classes of other numbers."""
    new = np.array([names.index(name) for name in data.class_names], np.int64)
    if not isinstance(data, DetectionData):
        return replace(data, class_names=tuple(names), labels=new[data.labels])
    boxes = replace(data.boxes, class_ids=new[data.boxes.class_ids])
    return replace(data, class_names=tuple(names), boxes=boxes, category_ids=tuple(range(1, len(names) + 1)))
