"""What names on the command line stand for.

Apart from the verbs: jsonargparse imports all that their module names in annotations, and ``--help`` is to be quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossstage.data import DataSource
    from crossstage.data.anchors import Sizes
    from crossstage.inference import Preprocessing


def source_of(data: str, format: str | None) -> DataSource:
    """A dataset."""
    from crossstage.data import find_data

    return find_data(data, format)  # pyright: ignore[reportArgumentType] (checked there)


def anchors_of(model: str, imgsz: int | None) -> tuple[Sizes, Preprocessing]:
    """A model's anchors, none for a classifier, and its preprocessing."""
    import numpy as np

    from crossstage.detectors import OneStageDetector
    from crossstage.zoo import start_model
    from crossstage.zoo.starting import classes_of

    made = start_model(model, classes_of(model), imgsz=imgsz)
    assert made.spec.preprocessing
    levels = made.model.head.levels if isinstance(made.model, OneStageDetector) else ()
    anchors = [anchor for level in levels for anchor in level.anchors]
    return np.array(anchors, float).reshape(-1, 2), made.spec.preprocessing
