"""Class names as sources write them, made text that every table, plot, header and terminal can hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from crossstage.errors import DataError
from crossstage.reading.text import read_lines, shown, visible

LONGEST = 1000  # characters
SHOWN = 8
LONGEST_LABEL = 40  # characters


def class_name(value: object) -> str:
    """Return a class's name as text: without the space around it, with control characters and the like as escapes.

    Args:
        value: A text, or a whole number, as some tools name classes.

    Raises:
        DataError: It is empty, too long or of another kind; the message is that of the fault.
    """
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text.strip() or len(text) > LONGEST:
        raise DataError(f"name {shown(value)}; expected a text of up to {LONGEST} characters")
    return visible(text.strip())


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read a text file with a class name in each line; blank lines at the end do not count.

    Raises:
        DataError: The file cannot be read or holds no name, or a line before the last name is blank, which would shift
            the numbers of the classes behind it.
    """
    lines = [line.strip() for line in read_lines(path, expected="a class name in each line")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: empty; expected a class name in each line")
    names = []
    for number, line in enumerate(lines, start=1):
        try:
            names.append(class_name(line))
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None
    return tuple(names)


def odd_names(names: Sequence[str]) -> list[str]:
    """Return what is odd about the names of a dataset: that several classes have one, or ones that look alike."""
    told = []
    by_name, alike = defaultdict[str, list[int]](list), defaultdict[str, set[str]](set)
    for class_id, name in enumerate(names):
        by_name[name].append(class_id)
        alike[name.casefold()].add(name)
    for name, ids in by_name.items():
        if len(ids) > 1:
            told.append(f"classes {', '.join(map(str, ids[:SHOWN]))} are all called {shown(name)}; they stay apart")
    for group in alike.values():
        if len(group) > 1:
            listed = ", ".join(shown(name) for name in sorted(group)[:SHOWN])
            told.append(f"the names of classes {listed} differ in the case of letters alone; they stay apart")
    if escaped := [name for name in names if "\\x" in name or "\\u" in name]:
        told.append(f"names with characters that no terminal should get: {', '.join(escaped[:SHOWN])}")
    return told


def distinct(names: Sequence[str]) -> list[str]:
    """Return names of which each stands once: the second class of a name gets a number behind it."""
    seen: dict[str, int] = defaultdict(int)
    made = []
    for name in names:
        seen[name] += 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return made


def as_label(name: str, limit: int = LONGEST_LABEL) -> str:
    """Return a class name as a plot shows it: no formula, no control character, not too long, and not left out.

    Matplotlib reads what stands between dollars as a formula, and leaves labels out that begin with an underscore.
    """
    text = visible(name)
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return (" " + text if text.startswith("_") else text).replace("$", r"\$")
