"""Seeded harm done to sound input of every reader: only our errors, in one line, in bounded memory and time.

Each reader is tried in a child process, which is ended and started anew when an input takes too long or too much. A
failure is told with its seed: ``python -m research.soak.fuzz --reader coco --seed 1234 --count 1`` does it again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import random
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from research.soak.mutate import mutated
from research.soak.readers import READERS, Reader

SECONDS = 10  # of a processor that one input may take
WAIT = 120  # seconds on the clock, after which a child is ended
LONGEST = 1200  # characters of a message, of which a list of faults is the longest
ADDRESSES = 24 * 2**30  # bytes of address space of a child; torch alone maps several GiB
_ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass
class Outcome:
    """What became of a reader's inputs.

    Attributes:
        counts: How many were read, refused and failed.
        failures: What failed: the seed and what happened.
        seconds: What all took together.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)
    seconds: float = 0.0


def try_reader(name: str, seeds: range, *, seconds: float = WAIT) -> Outcome:
    """Read one harmed input for each seed, in a child process."""
    outcome = Outcome()
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    left = seeds
    while left:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_work, args=(name, left, theirs), daemon=True)
        child.start()
        theirs.close()
        left = _follow(ours, left, outcome, seconds)
        child.kill()
        child.join()
    outcome.seconds = time.perf_counter() - start
    return outcome


def _follow(ours: Connection, left: range, outcome: Outcome, seconds: float) -> range:
    """Count what a child says until it is done or has to be ended; return the seeds that are left."""
    current, allowed = left.start, 2.0 * WAIT  # the first input waits for imports
    try:
        while ours.poll(allowed):
            current, what, message = ours.recv()
            allowed = seconds
            if what == "done":
                return left[len(left) :]
            if what != "begins":
                outcome.counts[what] += 1
                if what == "failed":
                    outcome.failures.append((current, message))
        what = f"takes more than {seconds:.0f} s"
    except EOFError:
        what = "ends the process"
    outcome.counts["failed"] += 1
    outcome.failures.append((current, what))
    return range(current + 1, left.stop)


def _work(name: str, seeds: range, to: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    reader = READERS[name]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        _try_sound(reader, Path(folder) / "sound")
        for seed in seeds:
            to.send((seed, "begins", ""))
            what, message = try_once(reader, seed, Path(folder))
            to.send((seed, what, message))
        to.send((seeds.stop, "done", ""))


def _try_sound(reader: Reader, folder: Path) -> None:
    """Read what is sound once, which imports and builds what is needed; it must not be refused."""
    files = reader.make(folder)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        for file in files:
            reader.read(folder, file)


def try_once(reader: Reader, seed: int, work: Path) -> tuple[str, str]:
    """Harm an input and read it; return ``"read"``, ``"refused"`` or ``"failed"``, and what failed."""
    from crossstage.errors import CrossStageError

    chance = random.Random(f"{reader.name} {seed}")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        harmed = chance.choice(reader.make(Path(folder)))
        harmed.write_bytes(mutated(harmed.read_bytes(), chance))
        before, start = _peak(), time.process_time()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                reader.read(Path(folder), harmed)
            what, message = "read", ""
        except CrossStageError as error:
            what, message = "refused", _wrong_message(str(error))
        except BaseException as error:  # what should not come out of a reader
            what, message = "failed", f"{type(error).__name__}: {str(error)[:200]!r} {_place(error)}"
        more, seconds = _peak() - before, time.process_time() - start
    if message:
        return "failed", message
    if seconds > SECONDS:
        return "failed", f"takes {seconds:.0f} s"
    return ("failed", f"takes {more:.0f} MB") if more > reader.megabytes else (what, "")


def _wrong_message(text: str) -> str:
    """Return what is wrong with an error's message; lines are for lists of faults alone."""
    if _ACTING.search(text):
        return f"a message with characters that act on a terminal: {text[:200]!r}"
    return f"a message of {len(text)} characters: {text[:200]!r}" if len(text) > LONGEST else ""


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "crossstage" in file:
            place = f"({Path(file).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _peak() -> float:
    """Return the most memory that the process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Try readers, print a table and the failures; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", action="append", choices=tuple(READERS), help="these alone")
    parser.add_argument("--count", type=int, default=200, help="inputs of each reader")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--json", type=Path, help="where the counts are written")
    given = parser.parse_args(arguments)
    rows = {}
    print("| reader | inputs | read | refused | failed | seconds |\n|---|---|---|---|---|---|")
    for name in given.reader or READERS:
        count = max(1, round(given.count * (1 if given.reader else READERS[name].share)))
        outcome = try_reader(name, range(given.seed, given.seed + count))
        counts = [outcome.counts[what] for what in ("read", "refused", "failed")]
        rows[name] = {"inputs": sum(counts), **outcome.counts, "seconds": round(outcome.seconds, 1)}
        print(f"| {name} | {sum(counts)} | {' | '.join(map(str, counts))} | {outcome.seconds:.0f} |", flush=True)
        for seed, what in outcome.failures:
            print(f"{name}, seed {seed}: {what}", file=sys.stderr, flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any(row.get("failed") for row in rows.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
