"""The backends: what each writes, how it runs, and the package that it needs.

``BACKENDS`` is gathered from the files of this room: a file that defines ``BACKENDS`` adds its record by lying here.
Importing it loads neither torch nor any backend's package. :mod:`crossstage.deploy.backends.base` tells how to add one.
"""

from __future__ import annotations

from crossstage.deploy.backends.base import Backend, FileFormat, Runtime
from crossstage.discovery import gathered

BACKENDS: dict[str, Backend] = gathered(__name__, "BACKENDS")
"""The records by name. A program of its own may add one."""


def ordered() -> dict[str, Backend]:
    """Return all backends by name, those with the lowest preference number first."""
    return dict(sorted(BACKENDS.items(), key=lambda entry: entry[1].preference))


def formats() -> dict[str, FileFormat]:
    """Return the formats that models are exported to, by their backend's name."""
    return {name: backend.format for name, backend in ordered().items() if backend.format}


def runtimes() -> dict[str, Runtime]:
    """Return the runtimes that run exported files, by their backend's name."""
    return {name: backend.runtime for name, backend in ordered().items() if backend.runtime}


def runtime_names() -> list[str]:
    """Return the names of all that runs models, as they are or exported: the choices of ``--runtime`` but for auto."""
    return [name for name, backend in ordered().items() if backend.runtime or backend.prepare]
