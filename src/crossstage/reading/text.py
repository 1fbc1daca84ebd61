"""Text files of any tool on any system, read within bounds; and text of strangers, shown so that it does no harm."""

from __future__ import annotations

import codecs
import os
import re
import reprlib
import stat
from pathlib import Path

from crossstage.errors import ACTING, CrossStageError, DataError

MAX_LIST_BYTES = 64 << 20  # lists of paths and files of labels: some 500,000 lines
# A longer mark comes before one that it begins with.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_ENDS = re.compile(r"\r\n?|\n")
# Controls, which a terminal obeys; marks that turn the direction of text; Unicode's line ends; halves of pairs.
_HARMFUL = re.compile(f"[\t\n{ACTING}]")


def read_text(
    path: Path, error: type[CrossStageError] = DataError, *, expected: str, max_bytes: int = MAX_LIST_BYTES
) -> str:
    """Read a text file: UTF-8, or what its byte order mark says (UTF-8, UTF-16 or UTF-32).

    Args:
        path: The file; symbolic links are followed.
        error: The type of the error that is raised if the file cannot be used.
        expected: What the file should hold, for messages.
        max_bytes: How long the file may be.

    Returns:
        The text without its mark, with line ends as they are.

    Raises:
        CrossStageError: Of the given type: there is no such file, it is a folder or a device, longer than it may be, or
            its bytes are no text of its encoding; the message names line and byte.
    """
    data = _content(path, error, expected, max_bytes)
    mark, encoding = next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    data = data[len(mark) :]
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as found:
        before = data[: found.start].decode(encoding, errors="replace")
        line = len(_LINE_ENDS.findall(before)) + 1
        byte = len(mark) + found.start + 1
        raise error(
            f"{visible(path)}:{line}: byte {byte} (0x{data[found.start]:02x}) is no {encoding[:6].upper()}; "
            f"expected {expected}, in UTF-8"
        ) from None


def read_lines(
    path: Path, error: type[CrossStageError] = DataError, *, expected: str, max_bytes: int = MAX_LIST_BYTES
) -> list[str]:
    r"""Read the lines of a text file, which end with ``\n``, ``\r\n`` or ``\r``.

    Args:
        path: The file.
        error: The type of the error that is raised if the file cannot be used.
        expected: What the file should hold, for messages.
        max_bytes: How long the file may be.

    Returns:
        The lines without their ends, of which the last may lack its own.

    Raises:
        CrossStageError: As :func:`read_text`; or the file holds binary data, whose line is named.
    """
    lines = _LINE_ENDS.split(read_text(path, error, expected=expected, max_bytes=max_bytes))
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise error(f"{visible(path)}:{number}: binary data; expected {expected}")
    return lines


def visible(value: object) -> str:
    r"""Return text in which nothing acts on a terminal: control characters and the like stand as ``\x1b``.

    Args:
        value: A text or a path; of others, what ``str`` makes of them.
    """
    return _HARMFUL.sub(lambda found: repr(found[0])[1:-1], str(value))


def shown(value: object, limit: int = 80) -> str:
    """Return a value for a message: as Python writes it, cut, and without effect on a terminal.

    Args:
        value: Anything, also what is nested, refers to itself or is very large.
        limit: About how many characters are shown.
    """
    writer = reprlib.Repr()
    writer.maxlevel, writer.maxstring, writer.maxother, writer.maxlong = 3, limit, limit, min(limit, 40)
    try:
        text = visible(writer.repr(value))
    except Exception as error:  # what a stranger's type writes of itself is its own code
        text = f"<{type(value).__name__}: {type(error).__name__}>"
    return text if len(text) <= limit + 2 else f"{text[: limit - 3]}..."


def _content(path: Path, error: type[CrossStageError], expected: str, max_bytes: int) -> bytes:
    """Return the bytes of a file of bounded length; what is no regular file is refused unopened, since it may block."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "folder" if stat.S_ISDIR(mode) else "device, pipe or socket"
            raise error(f"{visible(path)}: is a {what}; expected a file with {expected}")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as refused:  # ValueError: a name with a NUL
        reason = getattr(refused, "strerror", None) or refused
        raise error(f"{shortened(path)}: cannot be read: {reason}; expected {expected}") from None
    if len(data) > max_bytes:
        raise error(f"{visible(path)}: longer than {max_bytes:,} bytes; expected {expected}")
    return data


def shortened(path: str | os.PathLike[str], limit: int = 200) -> str:
    """Return a path for a message, cut in its middle where it is longer than any that can be."""
    text = visible(os.fspath(path))
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 2 :]}"
