"""Files from the net: fetched whole, verified before use, kept in the cache and verified again when they are used."""

from __future__ import annotations

import hashlib
import http.client
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from crossstage.errors import DataError, WeightsError
from crossstage.files import whole_file
from crossstage.machine import cache_folder

_CHUNK = 1 << 18
_TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class Download:
    """A file of the net that never changes.

    A cached file is replaced if it is damaged.

    Attributes:
        url: Where it is, by http or https.
        sha256: Its hash.
        size: Its length in bytes.
        file_name: Its name in the cache.
    """

    url: str
    sha256: str
    size: int
    file_name: str

    @property
    def path(self) -> Path:
        """Where the file is kept: the folder ``weights`` of :func:`~crossstage.machine.cache_folder`."""
        return cache_folder() / "weights" / self.file_name

    def is_kept(self) -> bool:
        """Return whether the cache holds the file whole and undamaged."""
        return self.path.is_file() and self.path.stat().st_size == self.size and _sha256(self.path) == self.sha256

    def fetched(self) -> Path:
        """Return the path of the file, which is fetched if the cache does not hold it undamaged.

        Two processes that fetch it at once each fetch all of it; whichever ends last replaces an equal file.

        Raises:
            WeightsError: It cannot be fetched or kept, or is not the file that is expected. The message says how to
                put it there by hand.
        """
        try:
            if self.is_kept():
                return self.path
            with whole_file(self.path) as temporary:
                self._receive(temporary)
        except (DataError, OSError) as error:
            raise self._error(str(error)) from None
        return self.path

    def _receive(self, path: Path) -> None:
        """Write the file, and verify it.

        Raises:
            WeightsError: It is not what is expected, or the server cannot be reached or breaks off.
        """
        try:
            with _opener().open(self.url, timeout=_TIMEOUT) as answer, path.open("wb") as file:
                digest, length = self._copy(answer, file)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a URL without a host
            raise self._error(f"{type(error).__name__}: {error}") from None
        if length != self.size:
            given = f"{length:,} bytes" if length < self.size else "more bytes"
            raise self._error(f"the server gave {given}; expected {self.size:,}")
        if digest != self.sha256:
            raise self._error(f"the server gave another file, of sha256 {digest}")

    def _copy(self, answer: IO[bytes], file: IO[bytes]) -> tuple[str, int]:
        """Copy at most one chunk more than is expected; return the hash and the number of bytes."""
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        digest, length = hashlib.sha256(), 0
        with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(self.file_name, total=self.size)
            while length <= self.size and (chunk := answer.read(_CHUNK)):
                file.write(chunk)
                digest.update(chunk)
                length += len(chunk)
                bar.update(task, completed=length)
        return digest.hexdigest(), length

    def _error(self, why: str) -> WeightsError:
        instead = ", in place of the damaged file there" if self.path.exists() else ""
        return WeightsError(
            f"{self.file_name} cannot be fetched: {why}. To go on without the net, fetch {self.url} elsewhere "
            f"({self.size:,} bytes, sha256 {self.sha256}) and put it at {self.path}{instead}"
        )


def _opener() -> urllib.request.OpenerDirector:
    """Return what opens http and https, by the proxies of the environment, and nothing else, nor when redirected."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "crossstage")]
    return opener


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
