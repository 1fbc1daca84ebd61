"""Do what a page says, in its order: run its Python and its commands in the current folder.

    python -m tests.docs.follow PAGE

The page's files are in place already; programs that stand beside it are not run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossstage.cli import main
from tests.docs.pages import Block, blocks

PROGRAMS = {"file", "program", "no-run"}


def follow(page: Path, changed: Mapping[str, str] | None = None) -> None:
    """Run a page's blocks of Python and its commands of crossstage.

    Args:
        page: The page.
        changed: Other values for options of commands, by the option's name.
    """
    shared: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if PROGRAMS & block.notes.keys():
            continue
        if block.language == "python":
            exec(block.compiled(), shared)
        elif block.language == "console":
            _run(block, changed or {})


def _run(block: Block, changed: Mapping[str, str]) -> None:
    expected = int(block.notes.get("exit", 0))
    for words in block.commands():
        if words[0] == "crossstage":
            given = [changed.get(before, word) for before, word in zip(words, words[1:], strict=False)]
            code = main(given)
            assert code == expected, f"{block}: {' '.join(words)}: exit code {code}; expected {expected}"


if __name__ == "__main__":
    follow(Path(sys.argv[1]))
