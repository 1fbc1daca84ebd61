"""Images that cannot be read in the middle of a training: what stands in for them, and how that is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from crossstage.data.verified import OnBadImage
from crossstage.errors import DataError
from crossstage.inference.images import Pixels, load_image

Read = TypeVar("Read")
TRIED = 16  # images, one after the other, for one that can be read


class Spares:
    """What a training does about images that cannot be read.

    Args:
        on_bad_image: "repair" reads damaged images as far as they go. In the middle of a training, for an image that
            cannot be read then, "repair" and "skip" take another one, which is told; "refuse" raises.
    """

    def __init__(self, on_bad_image: OnBadImage = "refuse") -> None:
        self.on_bad_image = on_bad_image
        self._lost: list[str] = []

    def load(self, image: str | Path | bytes) -> Pixels:
        """Read an image.

        Raises:
            DataError: It cannot be read.
        """
        return load_image(image, repair=True) if self.on_bad_image == "repair" else load_image(image)

    def first(self, read: Callable[[int], Read], index: int, length: int) -> Read:
        """Return what is read of an image, or of the next one that can be read.

        Args:
            read: Reads the image at a position.
            index: The position of the image that is wanted.
            length: How many images there are.

        Raises:
            DataError: None of the next :data:`TRIED` can be read, or others are not to be taken.
        """
        for position in range(index, index + min(TRIED, length)):
            try:
                return read(position % length)
            except DataError as error:
                self.note(error)
        raise DataError(f"{self._lost[-1]}; nor can the {TRIED - 1} images after it")

    def note(self, error: DataError) -> None:
        """Remember why an image could not be read; raise that, if no other is to be taken."""
        if self.on_bad_image == "refuse":
            raise error
        self._lost.append(str(error))

    def told(self) -> list[str]:
        """Return why images could not be read since this was asked for last."""
        lost, self._lost[:] = list(self._lost), []
        return lost
