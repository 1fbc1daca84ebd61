"""How sure a classifier has to be: accuracy and coverage by confidence.

Who leaves doubtful images to a person keeps those whose likeliest class has more than some probability. The share that
is kept is the coverage; the more is asked, the more accurate the rest, and the fewer there are.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossstage.files import whole_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WANTED = 0.9, 0.95, 0.99
GRID = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Coverage:
    """The confidence from which on a classifier is as accurate as is wanted.

    Attributes:
        wanted: The accuracy that is wanted, from 0 to 1.
        threshold: Images whose likeliest class has more than this probability are so accurate; None if no part is.
        coverage: The share of the images that are kept.
        accuracy: The share of these that are right.
    """

    wanted: float
    threshold: float | None
    coverage: float
    accuracy: float | None


def coverages(likeliest: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Coverage, ...]:
    """Return the lowest thresholds that reach the accuracies 0.9, 0.95 and 0.99.

    Args:
        likeliest: ``(n,)`` probability of each image's likeliest class.
        right: ``(n,)`` whether that is its class.
    """
    order = np.argsort(-likeliest, kind="stable")
    scores, found = likeliest[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(np.diff(scores) < 0, np.ones(min(1, len(scores)), bool)))
    accuracy = found[last] / (last + 1)
    result = []
    for wanted in WANTED:
        reached = np.flatnonzero(accuracy >= wanted)
        if not len(reached):
            result.append(Coverage(wanted, None, 0.0, None))
            continue
        index = int(last[reached[-1]])
        below = float(scores[index + 1]) if index + 1 < len(scores) else 0.0
        result.append(Coverage(wanted, below, (index + 1) / len(scores), float(accuracy[reached[-1]])))
    return tuple(result)


def coverage_curve(
    likeliest: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coverage and accuracy at the thresholds 0, 0.01, ... 1; accuracy is NaN where nothing is kept.

    Args:
        likeliest: ``(n,)`` probability of each image's likeliest class.
        right: ``(n,)`` whether that is its class.
    """
    kept = likeliest[None] > GRID[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        return kept.mean(1), (kept & right[None]).sum(1) / kept.sum(1)


def save_coverage(coverage: NDArray[np.float64], accuracy: NDArray[np.float64], path: Path) -> None:
    """Write a curve as a table; what is not defined is empty.

    Raises:
        DataError: The file cannot be written.
    """
    with whole_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["conf", "coverage", "accuracy"])
        for values in zip(GRID, coverage, accuracy, strict=True):
            writer.writerow(["" if np.isnan(each) else f"{each:.6g}" for each in values])


def plot_coverage(coverage: NDArray[np.float64], accuracy: NDArray[np.float64], found: Sequence[Coverage]) -> Figure:
    """Draw coverage and accuracy by confidence.

    Args:
        coverage: See :func:`coverage_curve`.
        accuracy: See there.
        found: The suggested thresholds, which are marked.
    """
    from crossstage.evaluation.plots import figure_of

    figure, axes = figure_of(6.4, 4.8)
    axes.plot(GRID, accuracy, color="#009E73", linewidth=2, label="accuracy of what is kept")
    axes.plot(GRID, coverage, color="#0072B2", linewidth=2, label="share that is kept")
    for each in found:
        if each.threshold:
            axes.axvline(each.threshold, color="grey", linewidth=1, linestyle="--")
    axes.set(xlabel="confidence", title="accuracy and coverage by confidence", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize="small", loc="lower left")
    axes.grid(alpha=0.3)
    return figure
