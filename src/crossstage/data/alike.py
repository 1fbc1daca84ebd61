"""Images that are alike: of equal bytes, or nearly the same to the eye.

To the eye: a hash of 128 bits tells where each of 8 x 8 fields is brighter than its neighbours to the left and above
(difference hashing). Copies of an image that were scaled, compressed again or brightened differ in few bits, others in
about 50. Hashes are sorted once from each of eight of their bytes on, so that two which differ in few bits stand close
together in one of the orders: the time is that of sorting, not of comparing all pairs. What is found is compared once
more, by the sketches themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from crossstage.data.looks import Looks

MOST_BITS = 10  # of 128 that may differ
STEP = 2.0  # greys by which a field has to be brighter, so that noise on flat ground changes nothing
FLAT = 4.0  # standard deviation of greys, below which an image shows too little to be compared
CORRELATION = 0.98
BANDS = 8
WINDOW = 32  # neighbours in each order that are compared
CHUNK = 1 << 16
_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def equal_images(looks: Looks) -> Iterator[list[int]]:
    """Yield the positions of images whose bytes are equal, for each group of several."""
    positions = np.flatnonzero(looks.digests.any(1) & looks.readable)
    keys = np.ascontiguousarray(looks.digests[positions]).view(f"V{looks.digests.shape[1]}").ravel()
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(
        np.diff(np.concatenate([[False], keys[order][1:] == keys[order][:-1], [False]]).astype(np.int8))
    )
    for first, last in same.reshape(-1, 2).tolist():
        yield sorted(positions[order[first : last + 1]].tolist())


def similar_images(looks: Looks, parts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return images that nearly are one of an earlier part, each with the one that it is most like.

    Args:
        looks: The images of all parts.
        parts: ``(n,)`` the number of each image's part.

    Returns:
        Pairs of positions, that of the earlier part first. Images of equal bytes are not among them.
    """
    shades = looks.sketches.reshape(len(parts), -1)
    rows = np.flatnonzero(looks.readable & (_deviations(shades) > FLAT))
    if len(rows) < 2 or len(np.unique(parts[rows])) < 2:
        return []
    hashes = hashes_of(looks.sketches[rows])
    best: dict[int, tuple[int, int]] = {}
    for band in range(BANDS):
        turned = np.roll(hashes, -2 * band, axis=1)
        order = np.argsort(np.ascontiguousarray(turned).view("V16").ravel(), kind="stable")
        for step in range(1, min(WINDOW, len(rows) - 1) + 1):
            for first, second in _close(hashes, order, step, parts[rows]):
                bits = int(_BITS[hashes[first] ^ hashes[second]].sum())
                earlier, later = sorted((rows[first], rows[second]), key=lambda row: (parts[row], row))
                if (bits, earlier) < best.get(later, (MOST_BITS + 1, 0)) and _agree(looks, earlier, later):
                    best[int(later)] = bits, int(earlier)
    return sorted((earlier, later) for later, (_, earlier) in best.items())


def hashes_of(sketches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``(n, 16)`` uint8 of ``(n, 18, 18)`` sketches: 128 bits for each."""
    fields = sketches.reshape(len(sketches), 9, 2, 9, 2).mean((2, 4), dtype=np.float32)
    across = fields[:, :8, 1:] - fields[:, :8, :-1] > STEP
    down = fields[:, 1:, :8] - fields[:, :-1, :8] > STEP
    return np.packbits(np.concatenate([across.reshape(-1, 64), down.reshape(-1, 64)], axis=1), axis=1)


def _deviations(shades: NDArray[np.uint8]) -> NDArray[np.float32]:
    chunks = [shades[first : first + CHUNK].std(1, dtype=np.float32) for first in range(0, len(shades), CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)


def _close(
    hashes: NDArray[np.uint8], order: NDArray[np.int64], step: int, parts: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield the images of two parts that stand some steps apart in an order and differ in few bits."""
    for begin in range(0, len(order) - step, CHUNK):
        first = order[begin : min(begin + CHUNK, len(order) - step)]
        second = order[begin + step : begin + step + len(first)]
        apart = np.flatnonzero(parts[first] != parts[second])
        first, second = first[apart], second[apart]
        near = _BITS[hashes[first] ^ hashes[second]].sum(1, dtype=np.int64) <= MOST_BITS
        yield from zip(first[near].tolist(), second[near].tolist(), strict=True)


def _agree(looks: Looks, first: int, second: int) -> bool:
    """Return whether two sketches show the same, brightness and contrast left out, and are no equal files."""
    if (looks.digests[first] == looks.digests[second]).all():
        return False
    one, other = (looks.sketches[row].astype(np.float64).ravel() for row in (first, second))
    return float(np.corrcoef(one, other)[0, 1]) >= CORRELATION


def parts_of(lengths: Sequence[int]) -> NDArray[np.int64]:
    """Return the number of the part of each image, of parts of some lengths one after the other."""
    return np.repeat(np.arange(len(lengths)), lengths)
