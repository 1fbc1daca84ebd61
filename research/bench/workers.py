"""Processes that share one device: started together, given tasks one by one, ended at a deadline."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, Protocol


class Link(Protocol):
    """A worker's end of its pipe."""

    def send(self, obj: Any, /) -> None:
        """Tell something."""
        ...

    def recv(self) -> Any:
        """Wait for a message."""
        ...


@dataclass(frozen=True)
class Failure:
    """Why a worker cannot go on."""

    why: str


@dataclass
class Worker:
    """A process and our end of its pipe.

    Attributes:
        name: What it is called in messages.
        failure: Why it ended before its time; empty as long as it works.
    """

    name: str
    process: BaseProcess
    pipe: Connection
    failure: str = ""

    def tell(self, message: Any) -> None:
        """Send a message; a process that has ended does not hear it."""
        try:
            self.pipe.send(message)
        except OSError:
            self.failure = self.failure or "its process ended"


def start(name: str, target: Callable[..., None], *arguments: Any) -> Worker:
    """Run ``target(link, *arguments)`` in a new process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_guarded, args=(target, theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return Worker(name, process, ours)


def heard(workers: Sequence[Worker], deadline: float) -> Iterator[tuple[Worker, Any]]:
    """Messages as they come, until the caller has enough, the workers have all ended, or the deadline has passed.

    Args:
        workers: Whom to listen to, but for those that have failed; who is taken out meanwhile is no longer heard.
        deadline: In seconds of :func:`time.monotonic`.
    """
    while listening := [worker for worker in workers if not worker.failure]:
        ready = wait([worker.pipe for worker in listening], max(0.0, deadline - monotonic()))
        if not ready:
            return
        for worker in listening:
            if worker.pipe not in ready:
                continue
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join(1)
                message = Failure(f"its process ended with code {worker.process.exitcode}")
            if isinstance(message, Failure):
                worker.failure = message.why
            yield worker, message


def end(workers: Sequence[Worker]) -> None:
    """End the processes, whatever they do."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join(5)


def _guarded(target: Callable[..., None], link: Link, *arguments: Any) -> None:
    try:
        target(link, *arguments)
    except Exception as error:  # whatever it is, the others go on and it is reported
        traceback.print_exc()
        link.send(Failure(reason(error)))


def reason(error: Exception) -> str:
    """The first line of an error's message, for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
