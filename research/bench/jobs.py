"""Trainings that are compared: each a process of its own, timed, its outcome a file."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crossstage.files import write_text
from research.bench.timing import machine
from research.places import ROOT


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A process that has ended.

    Attributes:
        seconds: Wall time from its start to its end.
        cpu_seconds: Time on processors, of it and its workers.
        machine: Where it ran.
        finished: When, as an ISO date and time.
        command: What was run.
    """

    seconds: float
    cpu_seconds: float
    machine: str
    finished: str
    command: str


def path_of(raw: Path, job: str, data: str, seed: int) -> Path:
    """Return where the outcome of a training lies, in the folder of raw results."""
    return raw / f"{data}_{job}_s{seed}.json"


def parser_of(doc: str | None, work: str, sets: Sequence[str], jobs: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command that compares trainings.

    Args:
        doc: The module's docstring.
        work: Where sets and runs go by default.
        sets: The names of the sets that are taken by default.
        jobs: The names of all jobs.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path, nargs="?", help="the folder of small real sets")
    parser.add_argument("--work", type=Path, default=Path(work), help="where sets and runs go")
    parser.add_argument("--sets", nargs="+", default=list(sets), help="names, or <name>@<images>.<draw>")
    parser.add_argument("--jobs", nargs="+", default=list(jobs), choices=list(jobs))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--page", action="store_true", help="print the page of what is there")
    return parser


def complete(
    raw: Path,
    chosen: argparse.Namespace,
    run: Callable[[str, str, int, argparse.Namespace], Any],
    told: Callable[[Any], str],
) -> None:
    """Run what is missing, the jobs in turns within a seed, and keep each outcome as it comes.

    Args:
        raw: The folder of raw results.
        chosen: What :func:`parser_of` read.
        run: Trains: job, set, seed and ``chosen`` to an outcome, a dataclass.
        told: What is printed of an outcome.
    """
    chosen.work = chosen.work.resolve()
    for seed in chosen.seeds:
        for data in chosen.sets:
            for job in chosen.jobs:
                path = path_of(raw, job, data, seed)
                if not path.exists():
                    outcome = run(job, data, seed, chosen)
                    write_text(path, json.dumps(asdict(outcome), indent=1) + "\n")
                    print(f"{data} {job} seed {seed}: {told(outcome)}", flush=True)


def timed(words: Sequence[str], log: Path) -> Timed:
    """Run a command to its end; what it prints goes to a file, beside which its other files lie.

    Raises:
        CalledProcessError: It failed.
    """
    began, before = time.monotonic(), _cpu()
    with log.open("w") as file:
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        subprocess.run(words, check=True, stdout=file, stderr=subprocess.STDOUT, env=environment)
    return Timed(
        seconds=time.monotonic() - began,
        cpu_seconds=_cpu() - before,
        machine=machine(),
        finished=datetime.now(UTC).isoformat(timespec="minutes"),
        command=" ".join(word.replace(str(log.parent), "runs").replace(f"{ROOT}/", "") for word in words[1:]),
    )


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
