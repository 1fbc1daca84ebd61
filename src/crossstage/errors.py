"""The errors a caller can act on.

Each message names the file, line or key, what was found and what was expected. The command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

from collections.abc import Iterable


class CrossStageError(Exception):
    """Base of every error that CrossStage raises on purpose."""


class ConfigError(CrossStageError):
    """A model, option or network description that cannot be built."""


class DataError(CrossStageError):
    """An image, video, label file or dataset that cannot be used as it is."""


class WeightsError(CrossStageError):
    """A weights file that is damaged or does not fit the network."""


class TrainingError(CrossStageError):
    """A training that cannot begin or go on."""


class ExportError(CrossStageError):
    """A network that a format cannot hold, or a file that a runtime cannot run."""


def one_of(name: object, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name or value: all that there are, and which may have been meant.

    Args:
        name: What was given.
        known: What would have been right.
    """
    names = list(known)
    return f"expected one of {', '.join(names)}{did_you_mean(str(name), names)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the known names that are written most alike, or nothing.

    Args:
        name: What was given.
        known: Names that would have been right.
    """
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""
