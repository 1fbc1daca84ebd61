"""Trainings that are compared: each a process of its own, timed, its outcome a file."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

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
