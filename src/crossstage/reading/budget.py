"""Memory that the readers of a process share: who needs more than is left waits until others are done."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from crossstage.errors import DataError


class Budget:
    """Bytes that threads take for a while, and give back.

    Args:
        total: Bytes that all threads may hold together.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._reset()
        if hasattr(os, "register_at_fork"):  # a child has none of the threads that hold something, or the lock
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._free = self.total
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, needed: int, name: str) -> Iterator[None]:
        """Hold some bytes; wait until they are free. A thread that holds some must not ask for more.

        Args:
            needed: How many.
            name: Whom an error is about.

        Raises:
            DataError: There never are as many.
        """
        if needed > self.total:
            raise DataError(
                f"{name}: reading it would take {needed / 1e6:,.0f} MB of memory; expected at most "
                f"{self.total / 1e6:,.0f} MB"
            )
        with self._changed:
            self._changed.wait_for(lambda: self._free >= needed)
            self._free -= needed
        try:
            yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()
