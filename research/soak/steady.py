"""Many predictions in one process: memory, open files and threads stay what they were."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np

from research.soak.ground import Row, small_data, small_model

WARM = 500  # predictions after which nothing may grow
MEGABYTES = 20.0  # of growth that is none: allocators keep what they freed


def predict_many(folder: Path, count: int) -> Row:
    """Predict from files, arrays and folders, one after the other."""
    import torch

    from crossstage.weights.loading import load

    row = Row("predictions in one process")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = load(small_model(folder / "model.safetensors"))
    images = sorted((small_data(folder / "data").parent / "images" / "val").iterdir())
    random = np.random.default_rng(0)
    before, highest = _state(), _state()
    while row.tried < count:
        array = random.integers(0, 255, (*random.integers(20, 120, 2), 3), dtype=np.uint8)
        for source in (images[row.tried % len(images)], array):
            model.predict(source)
            row.tried += 1
        if row.tried == WARM:
            before = highest = _state()
        elif row.tried > WARM and row.tried % 100 == 0:
            highest = tuple(map(max, highest, _state()))
    torch.set_num_threads(threads)
    for name, was, is_, more in zip(("MB", "open files", "threads"), before, highest, (MEGABYTES, 0, 0), strict=True):
        row.expect(is_ <= was + more, f"{name} grow from {was:.0f} to {is_:.0f}")
    memory, files, running = zip(before, highest, strict=True)
    row.figures = (
        f"{memory[0]:.0f} MB after {WARM}, at most {memory[1]:.0f} MB afterwards; open files {files[0]} and "
        f"{files[1]}, threads {running[0]} and {running[1]}"
    )
    return row


def _state() -> tuple[float, int, int]:
    """Return the memory that is held in MB, the number of open files and that of threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(list(Path("/proc/self/fd").iterdir())),
        threading.active_count(),
    )
