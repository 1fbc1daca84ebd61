"""Several processes on one machine: one for each device, watched by torch's elastic agent.

The agent ends all processes when one dies. Several machines are started from outside, by torchrun or SLURM.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.errors import ConfigError, TrainingError
from crossstage.machine import STOPPING
from crossstage.training.options import TrainOptions
from crossstage.training.signals import Interrupted

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

RANK_TIMEOUT = "CROSSSTAGE_RANK_TIMEOUT"
"""The environment variable for the seconds that processes wait for one that does not answer."""

USUAL_TIMEOUT = 600.0  # seconds; the first process measures a whole dataset while the others wait
USER_ERROR = 2
LOST_PEER = 3  # exit code of a process whose partner went away
UNANSWERED = 4  # exit code of a process whose partner did not answer in time, and which the agent then ends


def rank_timeout() -> timedelta:
    """Return how long processes that train together wait for one that does not answer, before all end.

    Raises:
        ConfigError: The environment variable is no number of seconds.
    """
    given = os.environ.get(RANK_TIMEOUT, "")
    try:
        seconds = float(given) if given else USUAL_TIMEOUT
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 1e6:
        raise ConfigError(f"${RANK_TIMEOUT} is {given!r}; expected seconds, from 1 to a million")
    return timedelta(seconds=seconds)


def is_launched() -> bool:
    """Return whether this process is one of several that torchrun or SLURM started."""
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ or {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()
    slurm = "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    return torchrun or slurm


def launch(options: TrainOptions, folder: Path, *, going_on: bool, quiet: bool = False) -> None:
    """Train in ``options.devices`` processes and wait for them.

    Raises:
        TrainingError: One of them died or failed; the others were ended.
        Interrupted: SIGINT, SIGTERM or SIGHUP, which all of them got.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its tracebacks tell less than we do
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=options.devices,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=folder.name,
        max_restarts=0,
        monitor_interval=0.5,
    )
    try:
        module = "crossstage.training.worker"
        words = [options.to_yaml(), str(folder), str(int(going_on)), str(int(quiet)), str(os.getpid())]
        elastic_launch(config, sys.executable)("-u", "-m", module, *words)
    except SignalException as error:
        raise _interrupted(int(error.sigval)) from None
    except ChildFailedError as error:
        raise _failure(error.failures, folder) from None


def _failure(failures: Mapping[int, ProcessFailure], folder: Path) -> TrainingError | Interrupted:
    """Return the error of processes that failed: that of the first, not of those that it took along."""
    rank = min(failures, key=lambda rank: (_consequence(failures[rank].exitcode), failures[rank].timestamp))
    code, message = failures[rank].exitcode, failures[rank].message
    if code > 128 and code - 128 in STOPPING:
        return _interrupted(code - 128)
    if code == USER_ERROR:
        return TrainingError(message)
    if code == UNANSWERED:
        how = f"waited for another one that did not answer for {rank_timeout().total_seconds():g} s (${RANK_TIMEOUT})"
    else:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
    then = f"the others were ended. Go on with: crossstage train --resume {folder}"
    return TrainingError(f"process {rank} {how}; {then}")


def _consequence(code: int) -> int:
    """Rank exit codes by how well they explain a failure."""
    known = {UNANSWERED: 0, -signal.SIGKILL: 1, USER_ERROR: 2, LOST_PEER: 4}
    return known.get(code, 3)


def _interrupted(number: int) -> Interrupted:
    return Interrupted(f"stopped by {signal.Signals(number).name}; the state is saved", number)
