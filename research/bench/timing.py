"""Medians in turns, and the machine they were taken on."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import torch

from crossstage.deploy.benchmark.timing import in_turns
from crossstage.machine import processor


def medians(runs: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 3) -> dict[str, float]:
    """Median milliseconds of each run."""
    return {name: statistics.median(times) for name, times in in_turns(runs, rounds, warm_up=warm_up).items()}


def machine() -> str:
    """The processor, its threads and torch's version, for the head of a table."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
