"""Peers: other libraries, and their trained networks that are the same as rows of our tables.

``PEERS`` (by ``<library>:<name>``) and ``LIBRARIES`` are gathered from the files of this room: a file that defines
entries adds them by lying here.
"""

from __future__ import annotations

from crossstage.discovery import gathered
from crossstage.weights.peers.base import Library, Twin

LIBRARIES: dict[str, Library] = gathered(__name__, "LIBRARIES")
"""Other libraries by name."""

PEERS: dict[str, Twin] = gathered(__name__, "PEERS")
"""Networks of other libraries that have a twin here, by ``<library>:<name>``."""


def peers() -> list[str]:
    """List the networks of others whose weights load, as ``timm:<name>`` and ``torchvision:<name>``, sorted."""
    return sorted(PEERS)


def twin_of(name: str, library: str) -> str | None:
    """Return a library's name of one of our networks; None if it has none that is the same.

    Args:
        name: Our name, without a tag.
        library: One of ``LIBRARIES``.
    """
    prefix = f"{library}:"
    twins = (
        peer.removeprefix(prefix) for peer, twin in PEERS.items() if twin.model == name and peer.startswith(prefix)
    )
    return next(twins, None)


__all__ = ["LIBRARIES", "PEERS", "Library", "Twin", "peers", "twin_of"]
