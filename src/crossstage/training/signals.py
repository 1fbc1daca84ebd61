"""Ctrl-C and kill: a request to stop after the step that is under way."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType

from crossstage.errors import CrossStageError

IMPATIENCE = 1.0  # seconds; one press of Ctrl-C can reach a process twice, through its terminal and its parent


class Interrupted(CrossStageError):  # noqa: N818 (no error: it was asked for)
    """A signal asked a training to stop, which it did after saving its state.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells have it."""
        return 128 + self.signal


class StopRequests:
    """While entered, SIGINT and SIGTERM set :attr:`received`; an impatient second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received and number == signal.SIGINT and time.monotonic() - self._since > IMPATIENCE:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._since = number, time.monotonic()
