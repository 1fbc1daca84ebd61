"""Prepared images of many clients, run one pass after the other: those that wait together share a pass."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from crossstage.inference.pipeline import Prepared, side_threads
from crossstage.ops.nms import NMS
from crossstage.serving.served import Answer, Served


@dataclass(frozen=True, eq=False)
class Job:
    """An image that waits to be run.

    Attributes:
        served: By what.
        prepared: The image.
        settings: How boxes become detections.
        answer: Holds what was found, or why nothing was.
    """

    served: Served
    prepared: Prepared
    settings: NMS | None
    answer: Future[Answer] = field(default_factory=Future)

    def shares_pass(self, other: Job) -> bool:
        """Return whether two images can be run at once, with the same answers as apart."""
        return self.served is other.served and self.settings == other.settings


class Engine:
    """Threads that run jobs in the order of their coming.

    No job waits for others to come: while a pass is computed those that arrive gather, and the next pass takes them
    together, up to the number that the model was opened for.

    Args:
        streams: Passes that are computed side by side, at least 1, which share torch's threads.
    """

    def __init__(self, streams: int) -> None:
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = side_threads(streams, max(1, torch.get_num_threads() // streams))
        self._runs = [self._threads.submit(self._run) for _ in range(streams)]

    def submit(self, job: Job) -> Future[Answer]:
        """Put a job at the end of the queue, and return what will hold its answer; cancelled it is passed over."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Run what waits, and end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._threads.shutdown()

    def _run(self) -> None:
        while group := self._next():
            first = group[0]
            try:
                found = first.served.run([job.prepared for job in group], first.settings)
            except BaseException as error:  # it is raised where the answer is awaited, whatever a runtime raises
                for job in group:
                    job.answer.set_exception(error)
            else:
                for job, entry in zip(group, found, strict=True):
                    job.answer.set_result(entry)

    def _next(self) -> list[Job]:
        """Wait for jobs, and take those that share a pass with the oldest; none at the end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if not self._jobs:
                    return []
                if group := self._gathered():
                    return group

    def _gathered(self) -> list[Job]:
        """Take the oldest job and those that go with it, without any that nobody waits for."""
        first = self._jobs[0]
        wanted = [job for job in self._jobs if job.shares_pass(first)][: first.served.opened.batch]
        for job in wanted:
            self._jobs.remove(job)
        return [job for job in wanted if job.answer.set_running_or_notify_cancel()]
