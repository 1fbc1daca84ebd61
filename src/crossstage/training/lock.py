"""The folder of a run: made by one process alone, and locked as long as that trains in it.

The lock is the kernel's, on the folder itself: it goes with the process that holds it, however that ends, and leaves
nothing behind. Where there are no such locks, as on Windows and on some network drives, a run goes without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossstage.errors import TrainingError

PATIENCE = 3.0  # seconds: helpers of a process that was killed may hold its lock a little longer


class FolderLock:
    """Nobody else trains in a folder while this is held.

    Args:
        folder: The folder, which is there.
        patience: Seconds to wait for another process.

    Raises:
        TrainingError: Another process holds it, or the folder is gone.
    """

    def __init__(self, folder: Path, patience: float = PATIENCE) -> None:
        self.folder, self._descriptor = folder, -1
        end = time.monotonic() + patience
        while not self._taken():
            if time.monotonic() >= end:
                raise TrainingError(f"{folder} is in use: another process trains in it; expected it to end first")
            time.sleep(0.05)

    def _taken(self) -> bool:
        try:
            import fcntl

            descriptor = os.open(self.folder, os.O_RDONLY)
        except ImportError:  # Windows
            return True
        except OSError as error:
            raise TrainingError(f"{self.folder}: cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:  # a file system without locks
            os.close(descriptor)
            return True
        self._descriptor = descriptor
        return True

    @property
    def is_of_its_name(self) -> bool:
        """Whether the folder that is locked is still the one of that name."""
        if self._descriptor < 0:
            return self.folder.is_dir()
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.folder.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Let others train there."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder.

    Raises:
        TrainingError: Another process holds it.
    """
    lock = FolderLock(folder)
    try:
        yield
    finally:
        lock.release()


def claimed(folder: Path) -> FolderLock | None:
    """Make a folder, or take an empty one, and lock it; None if another run has it, or anything lies in it.

    Of several processes that want one folder at the same moment, one gets it.

    Raises:
        TrainingError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(folder, patience=0)
    except OSError as error:
        if os.path.lexists(folder) and not os.path.isdir(folder):  # noqa: PTH112 (a name may be too long to ask of)
            return None
        raise TrainingError(f"{folder}: cannot be made: {error.strerror or error}") from None
    except TrainingError:
        if not folder.is_dir():
            raise
        return None
    if lock.is_of_its_name and not any(folder.iterdir()):
        return lock
    lock.release()
    return None
