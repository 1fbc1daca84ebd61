"""Reading Darknet ``.cfg`` files: text to sections of options, each remembering its line.

The grammar is Darknet's own: blanks, tabs and carriage returns mean nothing anywhere in a line; a line that starts with
``#`` or ``;`` is a comment; an option ends its key at the first ``=``; of two options with one key the first counts; a
number stops at the first character that is not part of it, a list at ``#``.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from crossstage.errors import ConfigError
from crossstage.reading.text import visible

MAX_BYTES = 1 << 20  # the longest published cfg is a tenth of this
MAX_SECTIONS = 5_000

_ALIASES = {
    "network": "net",
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
    "soft": "softmax",
    "lrn": "normalization",
    "silence": "empty",
}
_INTEGER = re.compile(r"[+-]?\d{1,18}")
_NUMBER = re.compile(r"[+-]?(?:nan|inf(?:inity)?|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
_BLANKS = str.maketrans("", "", " \t\r\f\v")


@dataclass(frozen=True, slots=True)
class Option:
    """The text of one option and the line it stands on."""

    text: str
    line: int


@dataclass
class Section:
    """One ``[kind]`` of a cfg and its options.

    Attributes:
        kind: The section's name in its long form: ``[conv]`` is ``convolutional``.
        path: Name of the file, for messages.
        line: Line of the header, counted from 1.
        options: The options by key; of duplicates the first.
    """

    kind: str
    path: str
    line: int
    options: dict[str, Option] = field(default_factory=dict)

    def error(self, message: str, key: str | None = None) -> ConfigError:
        """Return a ``ConfigError`` that names the file, the option's line (or the section's) and the section."""
        line = self.options[key].line if key in self.options else self.line
        return ConfigError(f"{self.path}:{line}: {visible(f'[{_cut(self.kind)}] {message}')}")

    def text(self, key: str, default: str) -> str:
        """Return an option's text, or the default if it is not given."""
        return self.options[key].text if key in self.options else default

    def integer(self, key: str, default: int, *, low: int = -(1 << 31), high: int = (1 << 31) - 1) -> int:
        """Return an option's whole number between ``low`` and ``high``, both allowed."""
        if key not in self.options:
            return default
        return self._integer(key, self.options[key].text, low, high)

    def number(self, key: str, default: float) -> float:
        """Return an option's finite number."""
        if key not in self.options:
            return default
        return self._number(key, self.options[key].text)

    def flag(self, key: str) -> bool:
        """Tell whether an option is given and not 0."""
        return self.number(key, 0.0) != 0

    def integers(self, key: str) -> list[int]:
        """Return an option's comma-separated list of whole numbers; empty if it is not given."""
        return [self._integer(key, item, -(1 << 31), (1 << 31) - 1) for item in self._items(key)]

    def numbers(self, key: str) -> list[float]:
        """Return an option's comma-separated list of finite numbers; empty if it is not given."""
        return [self._number(key, item) for item in self._items(key)]

    def _items(self, key: str) -> list[str]:
        text = self.text(key, "").split("#", 1)[0].rstrip(",")
        return text.split(",") if text else []

    def _integer(self, key: str, text: str, low: int, high: int) -> int:
        match = _INTEGER.match(text)
        if match is None:
            raise self.error(f"{key}={shorten(text)}; expected a whole number", key)
        if not low <= (value := int(match.group())) <= high:
            raise self.error(f"{key}={shorten(text)}; expected {low} to {high}", key)
        return value

    def _number(self, key: str, text: str) -> float:
        match = _NUMBER.match(text)
        if match is None or not math.isfinite(value := float(match.group())):
            raise self.error(f"{key}={shorten(text)}; expected a finite number", key)
        return value


def read_cfg(path: str | Path) -> list[Section]:
    """Read a cfg into its sections, ``[net]`` first.

    Args:
        path: A file of at most 1 MiB and 5,000 layers.

    Raises:
        ConfigError: The file cannot be read, is too long, holds binary data, or does not begin with ``[net]``.
    """
    return parse_cfg(_read(Path(path)), str(path))


def parse_cfg(text: str, path: str = "<cfg>") -> list[Section]:
    """Parse the text of a cfg, see :func:`read_cfg`; ``path`` is for messages."""
    sections: list[Section] = []
    ignored: list[tuple[int, str]] = []
    for number, line in enumerate(text.translate(_BLANKS).split("\n"), start=1):
        if not line or line[0] in "#;":
            continue
        if _CONTROL.search(line):
            raise ConfigError(f"{path}:{number}: binary data ({shorten(line)}); expected the text of a Darknet cfg")
        if line[0] == "[":
            sections.append(_header(line, path, number, first=not sections))
            if len(sections) > MAX_SECTIONS + 1:
                raise ConfigError(f"{path}:{number}: more than {MAX_SECTIONS:,} layers")
        elif not sections:
            raise ConfigError(f"{path}:{number}: found {shorten(line)}; expected [net] before anything else")
        elif "=" not in line:
            ignored.append((number, line))
        else:
            key, value = line.split("=", 1)
            sections[-1].options.setdefault(key, Option(value, number))
    if not sections:
        raise ConfigError(f"{path}: no section; expected [net] and layers")
    if len(sections) == 1:
        raise ConfigError(f"{path}:{sections[0].line}: no layer after [net]")
    if ignored:
        others = f", and {len(ignored) - 1:,} more such lines" if len(ignored) > 1 else ""
        number, line = ignored[0]
        warnings.warn(f"{path}:{number}: ignored {shorten(line)}, which is not key=value{others}", stacklevel=2)
    return sections


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path!s}: cannot be read: {reason}") from None
    if len(data) > MAX_BYTES:
        line = data.count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: the file is longer than {MAX_BYTES:,} bytes, which end in this line")
    return data.removeprefix(b"\xef\xbb\xbf").decode("latin-1")


def _header(line: str, path: str, number: int, *, first: bool) -> Section:
    if not line.endswith("]"):
        raise ConfigError(f"{path}:{number}: found {shorten(line)}; expected a section such as [convolutional]")
    kind = _ALIASES.get(line[1:-1], line[1:-1])
    if first and kind != "net":
        raise ConfigError(f"{path}:{number}: the first section is {shorten(line)}; expected [net]")
    return Section(kind, path, number)


def shorten(text: str) -> str:
    """Return text of a file for a message: quoted, escaped and no longer than a line."""
    return repr(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
