"""What images look like: each is read once, on all cores, and kept as a size, a hash and a sketch of a few bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossstage.errors import DataError
from crossstage.inference.images import Pixels, load_image
from crossstage.machine import cores

SKETCH = 18  # pixels, the side of a sketch
DIGEST = 16  # bytes
BATCH = 64  # images that a thread takes at a time
BLOCK = 1 << 20  # bytes


@dataclass(frozen=True, eq=False)
class Looks:
    """What ``n`` images look like.

    Attributes:
        sizes: ``(n, 2)`` int32 heights and widths in pixels; 0 where an image cannot be read.
        digests: ``(n, 16)`` uint8 hashes of the files' bytes.
        sketches: ``(n, 18, 18)`` uint8 greys of the images, each scaled to a square.
        reasons: Why images cannot be read, by position.
    """

    sizes: NDArray[np.int32]
    digests: NDArray[np.uint8]
    sketches: NDArray[np.uint8]
    reasons: dict[int, str]

    @property
    def readable(self) -> NDArray[np.bool_]:
        """``(n,)`` whether each image can be read."""
        return self.sizes[:, 0] > 0


def look_at(images: Sequence[Path | bytes], names: Sequence[str], what: str, *, progress: bool = False) -> Looks:
    """Read images.

    Args:
        images: Files, or their content.
        names: What to call each in messages.
        what: What to call them all beside the progress bar.
        progress: Whether a bar is shown on stderr.
    """
    from rich.console import Console
    from rich.progress import track

    count = len(images)
    looks = Looks(
        np.zeros((count, 2), np.int32),
        np.zeros((count, DIGEST), np.uint8),
        np.zeros((count, SKETCH, SKETCH), np.uint8),
        {},
    )

    def look(first: int) -> None:
        for position in range(first, min(first + BATCH, count)):
            try:
                looks.digests[position], pixels = _read(images[position])
                looks.sketches[position] = sketch(pixels)
                looks.sizes[position] = pixels.shape[:2]
            except (DataError, OSError) as error:
                looks.reasons[position] = str(error).removeprefix(f"{names[position]}: ")

    batches = range(0, count, BATCH)
    pool = ThreadPoolExecutor(cores(), "crossstage-look")
    try:
        console = Console(stderr=True)
        bar = {"console": console, "transient": True, "disable": not (progress and console.is_terminal)}
        for _ in track(pool.map(look, batches), what, total=len(batches), **bar):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return looks


def sketch(pixels: Pixels) -> NDArray[np.uint8]:
    """Return ``(18, 18)`` greys of an image, each the mean of its share of the image."""
    image = Image.fromarray(pixels).resize((SKETCH, SKETCH), Image.Resampling.BOX, reducing_gap=4)
    return np.asarray(image.convert("L"))


def _read(image: Path | bytes) -> tuple[NDArray[np.uint8], Pixels]:
    digest = hashlib.blake2b(digest_size=DIGEST)
    if isinstance(image, bytes):
        digest.update(image)
    elif image.is_file():  # a pipe would be waited for
        with image.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return np.frombuffer(digest.digest(), np.uint8), load_image(image)
