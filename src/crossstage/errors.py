"""The errors a caller can act on.

Each message names the file, line or key, what was found and what was expected. The command line prints it
without a traceback and exits with 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What a terminal obeys or turns round, but for tabs and line ends, which are ours: messages quote files, and libraries.
ACTING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_ACTING = re.compile(f"[{ACTING}]")
_LONG = re.compile(r"[^\s/\\]{256,}")  # longer than any name that a file system takes


class CrossStageError(Exception):
    """Base of every error that CrossStage raises on purpose.

    Its message does nothing to a terminal, and quotes of an endless name no more than its ends.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(_quotable(one) if isinstance(one, str) else one for one in arguments))


def _quotable(text: str) -> str:
    text = _ACTING.sub(lambda found: repr(found[0])[1:-1], text)
    return _LONG.sub(lambda found: f"{found[0][:120]}...{found[0][-40:]}", text)


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


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end; what handles Ctrl-C handles this.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.signal = number


def not_installed(package: str, extra: str) -> ConfigError:
    """Return the error that a package which only some tasks need is not there, to be raised.

    Args:
        package: Its name.
        extra: The extra of ours that brings it.
    """
    return ConfigError(f"{package} is not installed; try: pip install 'crossstage[{extra}]'")


def first_line(error: BaseException, longest: int = 300) -> str:
    """Return the first line of an error's message, or its class's name if it has no message.

    Args:
        error: The error, of whatever library.
        longest: Characters after which it is cut.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:longest]


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
    from difflib import SequenceMatcher, get_close_matches

    close = get_close_matches(name, list(known), n=3)
    alike = [SequenceMatcher(None, one, name).ratio() for one in close]
    close = [one for one, likeness in zip(close, alike, strict=True) if likeness > alike[0] - 0.15]
    return f"; did you mean {' or '.join(close)}?" if close else ""
