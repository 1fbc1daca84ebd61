"""Signals that ask a command to end: they end it as Ctrl-C does, so that what is finished is kept, and no debris."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from crossstage.errors import Stopped

ENDING = ("SIGTERM", "SIGHUP")
"""Signals of a scheduler and of a terminal that is closed; systems that lack one have no such thing."""


@contextmanager
def ending_signals() -> Iterator[None]:
    """While entered, signals that ask to end raise :class:`~crossstage.errors.Stopped`.

    One that is ignored, as by ``nohup``, stays so.
    """
    before: dict[int, object] = {}
    if threading.current_thread() is threading.main_thread():
        for name in ENDING:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(number)
