"""What a server takes upon itself at most, so that no number or kind of requests exhausts its machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import HTTPException

from crossstage.errors import ConfigError

HELD_BODIES = 8  # of the largest kind that may be held at once; of usual photos hundreds fit into the same memory
RETRY_AFTER = {"Retry-After": "1"}  # seconds


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        body: Bytes of a request's body.
        queue: Images that are in the house at once, from the first byte of their request to their answer.
        batch: Images of one request.
        seconds: How long a body may take to arrive, and how long an answer may take from then on.
        connections: Connections that are open at once.

    Raises:
        ConfigError: A bound is out of range.
    """

    body: int = 32 << 20
    queue: int = 64
    batch: int = 32
    seconds: float = 30.0
    connections: int = 1024

    def __post_init__(self) -> None:
        for name in ("body", "queue", "batch", "connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}; expected at least 1")
        if not 0 < self.seconds < 86_400:
            raise ConfigError(f"timeout={self.seconds}; expected seconds, above 0 and below a day")


class Room:
    """What there is place for; used from one thread, the event loop's.

    Args:
        most: How much fits.
        what: What is held, for messages.
    """

    def __init__(self, most: int, what: str) -> None:
        self.most, self._what = most, what
        self.held = 0

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Hold so many.

        Raises:
            HTTPException: There is no place for them now; the client is told to come again.
        """
        if self.held + count > self.most:
            raise HTTPException(503, f"the server is busy: no room for more {self._what}; try again", RETRY_AFTER)
        self.held += count
        try:
            yield
        finally:
            self.held -= count
