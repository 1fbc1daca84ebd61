"""Decoded images kept in memory, which all processes that prepare batches share.

A mosaic reads four images for each that is trained on, and decoding takes longer than all that follows. What is kept is
the image as it was decoded, byte for byte, so a training is the same with and without.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossstage.errors import ConfigError
from crossstage.inference.images import Pixels

GIGABYTE = 2**30
USUAL_SHARE = 0.25  # of the memory that is free


class ImageCache:
    """Images by their number, decoded when they are first asked for; as many of the first as fit.

    The memory is mapped, and taken page by page as images come. Processes that are forked share it; one that is spawned
    has none, and decodes each image anew.

    Args:
        sizes: Height and width in pixels of each image.
        gigabytes: Most memory to take; None takes a quarter of what is free, 0 keeps nothing.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], gigabytes: float | None = None) -> None:
        budget = USUAL_SHARE * free_memory() if gigabytes is None else gigabytes * GIGABYTE
        self.sizes = [(int(height), int(width)) for height, width in sizes]
        lengths = np.array([3 * height * width for height, width in self.sizes], np.int64)
        ends = np.cumsum(lengths)
        self.kept = int((ends <= budget).sum())
        self.starts = [0, *ends[: self.kept].tolist()]
        self.memory, self.done = _mapped(self.starts[-1]), _mapped(self.kept)

    def read(self, index: int, decode: Callable[[], Pixels]) -> Pixels:
        """Return an image ``(H, W, 3)``; it must not be written to.

        Args:
            index: Its number.
            decode: Reads it. An image of another size than was announced is not kept.
        """
        if index >= self.kept or self.memory is None or self.done is None:
            return decode()
        shape = (*self.sizes[index], 3)
        start, end = self.starts[index], self.starts[index + 1]
        place = np.frombuffer(self.memory, np.uint8, end - start, start).reshape(shape)
        if not self.done[index]:
            pixels = decode()
            if pixels.shape != shape:
                return pixels
            place[:] = pixels
            self.done[index] = 1  # after the pixels, so that no other process sees half an image
        place.setflags(write=False)
        return place

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "memory": None, "done": None}


def _mapped(length: int) -> mmap.mmap | None:
    """Return memory that forked processes share, all zeros; None for none."""
    if not length:
        return None
    try:
        return mmap.mmap(-1, length)
    except OSError as error:
        raise ConfigError(f"cache: {length / GIGABYTE:.1f} GB cannot be had: {error}; expected less") from None


def free_memory() -> float:
    """Return the bytes of memory that are free, for the system or the container it runs in; 0 if nothing tells."""
    known = [_available(), _left_in_container()]
    return min((value for value in known if value is not None), default=0.0)


def _available() -> float | None:
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return float(found[0]) * 1024 if found else None


def _left_in_container() -> float | None:
    folder = Path("/sys/fs/cgroup")
    try:
        most, used, stat = ((folder / f"memory.{name}").read_text().strip() for name in ("max", "current", "stat"))
    except OSError:
        return None
    given_back = [line.split()[1] for line in stat.splitlines() if line.startswith("inactive_file ")]
    return None if most == "max" else float(most) - float(used) + sum(map(float, given_back))
