"""What a release of authors' code is: how its tensors become those of a detector of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossstage.structures import Preprocessing
from crossstage.weights.peers.base import Adapter, State


@dataclass(frozen=True)
class Release:
    """Checkpoints of a detector from its authors' code.

    Attributes:
        adapt: Gives the authors' tensors the names, and where needed the order, of ours.
        count_classes: Reads the number of classes off the adapted tensors.
        settings: Fields of our detector's row that the authors' has otherwise.
        preprocessing: How the authors' detector wants its images; None takes our detector's.
        class_names: Names by class id of the authors' own weights; for tensors of as many classes.
    """

    adapt: Adapter
    count_classes: Callable[[State], int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    class_names: Sequence[str] = ()
