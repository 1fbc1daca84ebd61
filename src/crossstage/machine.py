"""The machine that runs, for messages, reports and caches; and how processes on it end."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

HANGUP = getattr(signal, "SIGHUP", None)  # of a terminal that is closed; Windows has none
STOPPING = tuple(number for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number is not None)
IMPATIENCE = 1.0  # seconds; one press of Ctrl-C can reach a process twice, through its terminal and its parent
_SIGKILL, _PR_SET_PDEATHSIG = 9, 1
_WATCHED_EVERY = 0.5  # seconds


def processor() -> str:
    """Return the processor's name, such as "AMD EPYC 9B14"."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def has_bf16() -> bool:
    """Tell whether the processor computes in bfloat16; True where the system does not say, which Linux does."""
    info = Path("/proc/cpuinfo")
    return not info.is_file() or not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(info.read_text().split())


def cache_folder() -> Path:
    """Return the folder for files that can be made again: ``$CROSSSTAGE_CACHE``, or one in the user's cache."""
    if chosen := os.environ.get("CROSSSTAGE_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "crossstage" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "crossstage"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossstage"


def end_with_parent(parent: int | None = None) -> None:
    """Let this process be killed when the one that started it ends, however that ends.

    On Linux the kernel does so; elsewhere a thread looks every half second whether the parent is still there.

    Args:
        parent: The parent's process id, as far as it is known from before: a parent that ended before the call ends
            this process at once.
    """
    before = os.getppid() if parent is None else parent
    if not _killed_by_kernel():
        threading.Thread(target=_watch, args=(before,), name="crossstage-parent", daemon=True).start()
    if os.getppid() != before:
        os._exit(128 + _SIGKILL)


def _killed_by_kernel() -> bool:
    if sys.platform != "linux":
        return False
    try:
        return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0) == 0
    except (OSError, AttributeError):  # another C library
        return False


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCHED_EVERY)
    os._exit(128 + _SIGKILL)


class StopRequests:
    """While entered, SIGINT, SIGTERM and SIGHUP set :attr:`received`; an impatient second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if number != HANGUP or signal.getsignal(number) != signal.SIG_IGN:  # which nohup has it
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
