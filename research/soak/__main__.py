"""Runs all parts of the soak and writes one page: ``python -m research.soak --minutes 10 > docs/results/soak.md``."""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from research.soak import faults, fuzz, kills, steady
from research.soak.ground import Row
from research.soak.readers import READERS

# How much of each part an hour holds, and about how many minutes of it that takes on two cores.
FUZZ_INPUTS = 60_000
PREDICTIONS = 20_000
TRAINING_KILLS = 60
EXPORT_KILLS = 25
PREDICTION_KILLS = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, print the page, and return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="about how long all of it takes")
    parser.add_argument("--seed", type=int, default=0, help="what harm and moments are drawn from")
    given = parser.parse_args(arguments)
    share, rows = given.minutes / 60, []
    start = time.perf_counter()
    for part in _parts(share, given.seed):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(part(Path(folder)))
        print(f"{rows[-1].part}: {rows[-1].tried}, {len(rows[-1].failures)} failed", file=sys.stderr, flush=True)
    print(_page(rows, given.minutes, given.seed, time.perf_counter() - start))
    return 1 if any(row.failures for row in rows) else 0


def _parts(share: float, seed: int) -> list[Callable[[Path], Row]]:
    def many(count: float, least: int = 1) -> int:
        return max(least, round(count * share))

    return [
        *(lambda _, name=name: _fuzzed(name, many(FUZZ_INPUTS / len(READERS), 5), seed) for name in READERS),
        lambda folder: kills.kill_trainings(folder, many(TRAINING_KILLS), seed),
        lambda folder: kills.kill_exports(folder, many(EXPORT_KILLS), seed),
        lambda folder: kills.kill_predictions(folder, many(PREDICTION_KILLS), seed),
        lambda folder: kills.stop_predictions(folder, many(PREDICTION_KILLS), seed),
        lambda folder: steady.predict_many(folder, many(PREDICTIONS, 2 * steady.WARM)),
        lambda folder: faults.lose_ranks(folder, many(6, 3)),
        faults.fill_disks,
        lambda folder: faults.run_together(folder, many(10)),
    ]


def _fuzzed(name: str, count: int, seed: int) -> Row:
    count = max(1, round(count * READERS[name].share))
    outcome = fuzz.try_reader(name, range(seed, seed + count))
    counts = outcome.counts
    failures = [f"{name}, seed {number}: {what}" for number, what in outcome.failures]
    return Row(f"harmed input: {name}", count, failures, f"{counts['read']} read, {counts['refused']} refused")


def _page(rows: Sequence[Row], minutes: float, seed: int, seconds: float) -> str:
    harmed = sum(row.tried for row in rows if row.part.startswith("harmed"))
    lines = [
        "# Soak",
        "",
        f"`python -m research.soak --minutes {minutes:g} --seed {seed}`, {datetime.date.today()}, "
        f"{seconds / 60:.0f} minutes, {platform.machine()} {platform.system()}, Python {platform.python_version()}. "
        f"{harmed} harmed inputs in all: a reader may read what is harmed, or refuse it in one of our errors, in "
        "bounded memory and time.",
        "",
        "| part | tried | failed | |",
        "|---|---|---|---|",
        *(f"| {row.part} | {row.tried} | {len(row.failures)} | {row.figures} |" for row in rows),
    ]
    failures = [failure for row in rows for failure in row.failures]
    return "\n".join([*lines, *(["", "## Failures", "", *(f"- {one}" for one in failures)] if failures else [])])


if __name__ == "__main__":
    sys.exit(main())
