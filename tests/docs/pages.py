"""Markdown pages as tests read them: fenced blocks, commands, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\S+)?[ ]*(.*)$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The page's file.
        line: The line of its first line of text, counted from 1.
        language: The first word behind the fence.
        notes: The other words behind the fence: ``name=value`` as it stands, others with an empty value.
        text: What stands between the fences.
    """

    page: Path
    line: int
    language: str
    notes: dict[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def compiled(self):
        """Return the code of a Python block, whose traceback names the page and its lines."""
        return compile("\n" * (self.line - 1) + self.text, str(self.page), "exec")

    def commands(self) -> list[list[str]]:
        """Return the commands of a block, without prompts, comments and output."""
        lines = self.text.splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def pages() -> list[Path]:
    """Return every page of the repository, but for what tools, runs and old versions leave behind."""
    folders = ("docs", "examples", "research", "src")
    return sorted([*ROOT.glob("*.md"), *(page for folder in folders for page in (ROOT / folder).rglob("*.md"))])


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened, lines = (number + 1, fence[1] or "", fence[2]), []
        elif opened is not None and line == "```":
            parted = (word.partition("=") for word in opened[2].split())
            notes = {name: value for name, _, value in parted}
            found.append(Block(page, opened[0], opened[1], notes, "\n".join(lines) + "\n"))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"{page}: a fence is not closed"
    return found


def links(page: Path) -> Iterator[str]:
    """Return the targets of a page's links, but for those to other sites."""
    for target in _LINK.findall(_prose(page)):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """Return what a link may name behind ``#``: headings, in lower case, with hyphens for spaces."""
    headings = re.findall(r"^#+[ ]+(.*)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _prose(page: Path) -> str:
    """Return a page's text without fenced and indented code and without code spans."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!\[)`[^`\n]*`(?!\])", "", text)
