"""Images looked at before anything depends on them: which are sound, which can be repaired, which are none.

Every image is decoded once, on all cores. The verdict is kept in the user's cache, by the file's name, length and time
of change, so that the next training, or the next check, of the same images takes no time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import __version__ as pillow_version

from crossstage.errors import DataError
from crossstage.files import write_text
from crossstage.inference.images import image_size, load_image, verify_image
from crossstage.machine import cache_folder, cores
from crossstage.version import __version__

OnBadImage = Literal["repair", "skip", "refuse"]
"""What is done about images that are damaged: read as far as they go, left out, or refused."""

SETTLED = 2.0  # seconds: a file that changed so recently may change again without its time showing it
MAX_CACHE_BYTES = 256 << 20


@dataclass(frozen=True)
class Verdict:
    """What is known of an image.

    Attributes:
        reason: What is wrong with it; empty for a sound one.
        repairable: Whether it can be read in part.
        height: Its height in pixels, 0 if nobody knows.
        width: Its width.
    """

    reason: str = ""
    repairable: bool = False
    height: int = 0
    width: int = 0


def verdicts(images: Sequence[Path | bytes], progress: bool = False, what: str = "images") -> list[Verdict]:
    """Look at images, in their order.

    Args:
        images: Files, or their content.
        progress: Show a bar on stderr.
        what: What to call them beside the bar.
    """
    from rich.console import Console
    from rich.progress import track

    known = _Known()
    pool = ThreadPoolExecutor(cores(), "crossstage-verify")
    try:
        found = pool.map(known.look, images)
        console = Console(stderr=True)
        bar = {"console": console, "transient": True, "disable": not (progress and console.is_terminal)}
        result = list(track(found, f"looking at {what}", total=len(images), **bar))
    finally:
        pool.shutdown(cancel_futures=True)
    known.save()
    return result


class _Known:
    """The verdicts of earlier runs, and the new ones."""

    def __init__(self) -> None:
        self._home = cache_folder() / "verified"
        self._folders: dict[Path, dict[str, list[Any]]] = {}
        self._changed: set[Path] = set()

    def look(self, image: Path | bytes) -> Verdict:
        if isinstance(image, bytes):
            return _verdict(image)
        try:
            state = image.stat()
        except OSError as error:
            return Verdict(f"{image}: cannot be read: {error.strerror or error}")
        about = [state.st_size, state.st_mtime_ns]
        folder = self._folders.get(image.parent)
        if folder is None:
            folder = self._folders.setdefault(image.parent, self._read(image.parent))
        entry = folder.get(image.name)
        if entry and entry[:2] == about and (known := _as_verdict(entry[2:], image)):
            return known
        verdict = _verdict(image)
        if time.time() - state.st_mtime > SETTLED:
            reason = verdict.reason.replace(str(image), "{}", 1)
            folder[image.name] = [*about, *asdict(verdict).values()]
            folder[image.name][2] = reason
            self._changed.add(image.parent)
        return verdict

    def save(self) -> None:
        """Keep what is new; a cache that cannot be written costs time in the next run, and nothing else."""
        for folder in self._changed:
            try:
                write_text(self._file(folder), json.dumps({"by": _readers(), "images": self._folders[folder]}))
            except (DataError, ValueError):  # ValueError: a name that UTF-8 cannot hold
                continue

    def _file(self, folder: Path) -> Path:
        return self._home / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]}.json"

    def _read(self, folder: Path) -> dict[str, list[Any]]:
        file = self._file(folder)
        try:
            if file.stat().st_size > MAX_CACHE_BYTES:
                return {}
            content = json.loads(file.read_text("utf-8"))
            images = content["images"] if content["by"] == _readers() else {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError):  # whatever lies there, it is none of ours
            return {}
        return images if isinstance(images, dict) else {}


def _readers() -> str:
    """Return what the verdicts depend on besides the images."""
    return f"{__version__}, Pillow {pillow_version}"


def _as_verdict(entry: list[Any], image: Path) -> Verdict | None:
    """Return the verdict that the cache holds, if it is one."""
    kinds = (str, bool, int, int)
    if len(entry) != len(kinds) or not all(type(value) is kind for value, kind in zip(entry, kinds, strict=True)):
        return None
    reason, *others = entry
    return Verdict(reason.replace("{}", str(image), 1), *others)


def _verdict(image: Path | bytes) -> Verdict:
    reason = verify_image(image)
    if reason is None:
        height, width = image_size(image) if isinstance(image, Path) else load_image(image).shape[:2]
        return Verdict(height=height, width=width)
    try:
        height, width = load_image(image, repair=True).shape[:2]
    except DataError:
        return Verdict(reason)
    return Verdict(reason, True, height, width)


def positions_of(verdicts: Iterable[Verdict], *, on_bad_image: OnBadImage) -> Iterator[int]:
    """Yield the positions of the images that are used."""
    for position, verdict in enumerate(verdicts):
        if not verdict.reason or (verdict.repairable and on_bad_image == "repair"):
            yield position
