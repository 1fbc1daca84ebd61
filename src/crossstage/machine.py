"""The machine that runs, for messages, reports and caches."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


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
