"""A console that prints tables whole, on whatever it writes to, and names of strangers without effect."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment, Segments
from rich.table import Table

from crossstage.reading.text import visible

UNLIMITED = 100_000  # characters: more than any line takes


class WholeConsole(Console):
    """A console that drops no column of a table and cuts no word of it.

    Where the output is no terminal, lines are as long as they need to be. On a terminal, a table that is wider is
    folded between words; where that is not enough, it is printed as wide as it is, and goes on in the next line.

    Brackets in a text are part of it, and control characters, which files and classes can have in their names, are
    shown as :func:`~crossstage.reading.text.visible` shows them; only line ends act.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    @property
    def size(self) -> ConsoleDimensions:  # pyright: ignore[reportIncompatibleMethodOverride] (nobody sets it)
        """Width and height in characters; the width is unlimited where the output is no terminal."""
        found = super().size
        return found if self.is_terminal or self._width else ConsoleDimensions(UNLIMITED, found.height)

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print as rich does, but tables whole and without spaces at the ends of their lines."""
        if len(objects) != 1 or not isinstance(objects[0], Table) or settings:
            super().print(*objects, **settings)
            return
        lines = self._lines(objects[0], self.width)
        whole = self._lines(objects[0], UNLIMITED)
        shown = lines if _words(lines) == _words(whole) else whole
        super().print(Segments([segment for line in shown for segment in line]), end="", crop=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, but no control characters of a text."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or text.isprintable() else Segment(_harmless(text), style)

    def on_broken_pipe(self) -> None:
        """Leave it to the command line how to end, rather than to rich."""
        raise BrokenPipeError

    def _lines(self, table: Table, width: int) -> list[list[Segment]]:
        rendered = self.render_lines(table, self.options.update(width=width, max_width=width), pad=False)
        return [[*_stripped(line), Segment.line()] for line in rendered]


def _harmless(text: str) -> str:
    return "\n".join(map(visible, text.split("\n")))


def _stripped(line: list[Segment]) -> list[Segment]:
    """Return a line without spaces at its end."""
    while line and not line[-1].text.strip():
        line = line[:-1]
    return [*line[:-1], line[-1]._replace(text=line[-1].text.rstrip())] if line else []


def _words(lines: list[list[Segment]]) -> list[str]:
    """Return the words of some lines, by alphabet: those of a column stay in no order when it is folded."""
    return sorted(" ".join("".join(segment.text for segment in line) for line in lines).split())
