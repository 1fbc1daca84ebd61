"""What the parts of a network ask of each other, and what inference and evaluation ask of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Backbone(Protocol):
    """Images to feature maps, shallow to deep.

    Attributes:
        channels: Channels of the returned maps.
        strides: Pixels of the input per pixel of the returned maps.
    """

    channels: list[int]
    strides: list[int]

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of ``(N, 3, H, W)`` images."""
        ...


class Neck(Protocol):
    """Feature maps to feature maps, shallow to deep; it may add maps that are coarser than those it reads.

    Attributes:
        channels: Channels of the returned maps.
        strides: Pixels of the input per pixel of the returned maps.
    """

    channels: list[int]
    strides: list[int]

    def __call__(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the fused maps."""
        ...
