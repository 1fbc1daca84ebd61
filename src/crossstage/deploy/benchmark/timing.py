"""Timing in turns, forth and back, so that a noisy machine is noisy for all runs and none always comes first."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

BURST = 3
"""Passes of a turn that a benchmark computes, the last of which counts."""

PAUSE = 0.02
"""Seconds before each turn of a benchmark."""

Name = TypeVar("Name", bound=Hashable)


def in_turns(
    runs: Mapping[Name, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 3,
    seconds: float = float("inf"),
    burst: int = 1,
    pause: float = 0.0,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[Name, list[float]]:
    """Return the milliseconds of each run in each round.

    Args:
        runs: What to time, by name.
        rounds: Number of rounds that count.
        warm_up: Number of rounds before them.
        seconds: Duration after which no further round begins; at least one counts.
        burst: Passes of a turn, the last of which counts: those before bring caches and threads back to it.
        pause: Seconds before each turn: threads of one runtime spin for a while and would slow down the next.
        progress: Called with the number of rounds that are done, those before the ones that count included.
    """
    times: dict[Name, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for number in range(rounds + warm_up):
        if number > warm_up and time.perf_counter() > end:
            break
        turns = list(runs.items())
        for name, run in turns if number % 2 else reversed(turns):
            time.sleep(pause)
            for _ in range(burst - 1):
                run()
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warm_up:
                times[name].append((time.perf_counter() - start) * 1e3)
        progress(number + 1)
    return times
