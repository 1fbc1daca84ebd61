"""Do what pages say, in their order: run their Python and their consoles' commands in the current folder.

    python -m tests.docs.follow PAGE... [--OPTION=VALUE ...]

An option stands for another value of each command's option of that name.

The pages' files are in place already; programs that stand beside it are not run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from crossstage.cli import main
from tests.docs.pages import Block, blocks

PROGRAMS = {"file", "program", "no-run"}


def follow(page: Path, changed: Mapping[str, str] | None = None) -> None:
    """Run a page's blocks of Python and the commands of its consoles.

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
    for program, *words in block.commands():
        if program == "crossstage":
            given = [changed.get(before, word) for before, word in pairwise(["", *words])]
            code = main(given)
        else:
            assert program == "python", f"{block}: {program}"
            code = subprocess.run([sys.executable, *words], check=False).returncode
        assert code == expected, f"{block}: {' '.join(words)}: exit code {code}; expected {expected}"


if __name__ == "__main__":
    others = dict(word.split("=", 1) for word in sys.argv[1:] if word.startswith("--"))
    for argument in sys.argv[1:]:
        if not argument.startswith("--"):
            follow(Path(argument), others)
