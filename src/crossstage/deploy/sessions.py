"""Runtimes that run exported files: which are installed, and one started as a function from a batch to its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.deploy.backends import BACKENDS, runtimes
from crossstage.deploy.backends.base import Arithmetic
from crossstage.errors import ConfigError, ExportError, first_line, one_of
from crossstage.machine import cores, has_bf16

if TYPE_CHECKING:
    from crossstage.deploy.backends.base import Runtime, Session


def installed(path: Path | None = None, precision: Arithmetic = "fp32") -> list[str]:
    """Return the names of the installed runtimes that have a precision, and that read a file if one is given."""
    return [
        name
        for name, runtime in runtimes().items()
        if BACKENDS[name].installed
        and (path is None or path.suffix in runtime.reads)
        and precision in runtime.precisions
    ]


def start(
    path: Path,
    runtime: str,
    outputs: Sequence[str],
    *,
    threads: int | None = None,
    precision: Arithmetic = "fp32",
    streams: int = 1,
) -> Session:
    """Load an exported file into a runtime.

    Args:
        path: The file that holds the graph.
        runtime: The name of the backend that runs it.
        outputs: Names of the outputs, in the order of the session's results.
        threads: Number of threads that all passes together use; None leaves it to the runtime.
        precision: What it computes in, if the processor has it. What a file stores as int8 stays int8.
        streams: Number of threads that will call the session at once.

    Raises:
        ConfigError: The runtime is unknown or not installed, does not read such a file or has no such precision, or the
            processor has not.
        ExportError: The runtime cannot load the file.
    """
    reader = installed_runtime(runtime)
    if path.suffix not in reader.reads:
        raise ConfigError(f"{runtime} does not read {path}; expected {' or '.join(reader.reads)}")
    if precision not in reader.precisions:
        able = [name for name, other in BACKENDS.items() if other.prepare]
        able += [name for name, other in runtimes().items() if precision in other.precisions]
        raise ConfigError(f"{runtime} has no {precision} arithmetic on a CPU; {' and '.join(able)} have")
    check_precision(precision)
    if streams > 1:
        threads = max(1, (threads or cores()) // streams)
    try:
        return reader.start(path, list(outputs), threads, precision, streams)
    except Exception as error:  # each runtime has errors of its own, without a common base
        raise ExportError(f"{path}: {runtime} cannot load it: {first_line(error)}") from error


def installed_runtime(name: str) -> Runtime:
    """Return a runtime that is installed.

    Raises:
        ConfigError: It is unknown or not installed; the message says how it is.
    """
    backend = BACKENDS.get(name)
    if backend is None or backend.runtime is None:
        raise ConfigError(f"{name} runs no files; {one_of(name, runtimes())}")
    if not backend.installed:
        raise ConfigError(f"{name} is not installed; try: pip install '{backend.install}'")
    return backend.runtime


def check_precision(precision: Arithmetic) -> None:
    """Refuse arithmetic that the processor does not have, and would imitate slowly.

    Raises:
        ConfigError: It has no bfloat16.
    """
    if precision == "bf16" and not has_bf16():
        raise ConfigError("precision bf16: this processor has no bfloat16 arithmetic; expected fp32")
