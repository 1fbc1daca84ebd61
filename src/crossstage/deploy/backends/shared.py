"""What several backends need: sessions that take turns, exporters that keep quiet, headers in zip archives."""

from __future__ import annotations

import contextlib
import logging
import queue
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.deploy.backends.base import KEY, MAX_HEADER_BYTES

if TYPE_CHECKING:
    from crossstage.deploy.backends.base import Floats, Session


def take_turns(sessions: Sequence[Session]) -> Session:
    """Return one session made of several that each take a call at a time."""
    if len(sessions) == 1:
        return sessions[0]
    idle: queue.SimpleQueue[Session] = queue.SimpleQueue()
    for session in sessions:
        idle.put(session)

    def run(images: Floats) -> list[Floats]:
        session = idle.get()
        try:
            return session(images)
        finally:
            idle.put(session)

    return run


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Suppress loggers and warnings of exporters, which are about their own machinery."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def header_in_zip(path: Path) -> str | None:
    """Return the header of an archive that PyTorch wrote, from its extra files; None if it has none.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no such archive, or the header is too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = (name for name in archive.namelist() if name.endswith(f"extra/{KEY}"))
            if (name := next(names, None)) is None:
                return None
            with archive.open(name) as file:
                content = file.read(MAX_HEADER_BYTES + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(str(error)) from None
    if len(content) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of more than {MAX_HEADER_BYTES:,} bytes")
    return content.decode()
