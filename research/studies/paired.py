"""What paired runs say: the mean difference, its interval, and a verdict that follows from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.stats import t

Verdict = Literal["supported", "contradicted", "undecided"]


@dataclass(frozen=True)
class Paired:
    """Differences of runs that share their seed, such as AP of one neck less AP of another.

    Attributes:
        mean: Their mean.
        low: Lower end of its 95% interval by Student's t; minus infinity for a single pair.
        high: Upper end.
        pairs: How many there are.
    """

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def verdict(self) -> Verdict:
        """What the interval says of the claim that the differences are positive."""
        if self.low > 0:
            return "supported"
        return "contradicted" if self.high < 0 else "undecided"

    def __str__(self) -> str:
        if self.pairs < 2:
            return f"{self.mean:+.1f} (one pair)"
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


def paired(differences: Sequence[float]) -> Paired:
    """Return mean and 95% interval of some differences, at least one."""
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return Paired(mean, -math.inf, math.inf, count)
    half = float(t.ppf(0.975, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    return Paired(mean, mean - half, mean + half, count)
