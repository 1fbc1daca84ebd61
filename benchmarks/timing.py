"""Timing in turns, forth and back, so that a noisy machine is noisy for all runs and none always comes first."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def medians(runs: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 3) -> dict[str, float]:
    """Median milliseconds of each run."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + warm_up):
        turns = list(runs.items())
        for name, run in turns if number % 2 else reversed(turns):
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warm_up:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> str:
    """The processor, its threads and torch's version, for the head of a table."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}"
