"""The command line in processes that are forked from one which has imported what it needs: most of a start is that."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["crossstage.training.run"])


class Command:
    """A command that runs.

    Args:
        words: What a person types after ``crossstage``.
        output: The file that takes what it prints.
    """

    def __init__(self, words: Sequence[str], output: Path) -> None:
        self._output = output
        self._process = FORKS.Process(target=_run, args=(list(words), output))
        self._process.start()

    def poll(self) -> int | None:
        """Return its exit code, below 0 the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        self._process.join()
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def printed(self) -> str:
        """Return what it has printed so far, on stdout and stderr."""
        return self._output.read_text() if self._output.exists() else ""


def _run(words: list[str], output: Path) -> None:
    import torch

    from crossstage.cli import main

    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    torch.set_num_threads(1)
    sys.exit(main(words))
