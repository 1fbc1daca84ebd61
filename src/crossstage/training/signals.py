"""Ctrl-C and kill: a request to stop after the step that is under way."""

from __future__ import annotations

from crossstage.errors import CrossStageError


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
