"""What is wrong with data: one fault, and what a reader found besides."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from crossstage.errors import DataError
from crossstage.reading.text import visible

SHOWN_FAULTS = 10
KIND_LENGTH = 500  # characters of a fault's text that tell its kind
_VARYING = re.compile(r"""'[^']*'|"[^"]*"|\[[^]]*]|\S*/\S*|[-+]?\d[\d.,e+-]*""")

Data = TypeVar("Data")
OnBadLabel = Literal["refuse", "skip"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or odd.

    Attributes:
        file: The file that it stands in.
        line: The line that it stands in, counted from 1; None if it is no matter of a line.
        text: What was found and what was expected.
        broken: Whether the label or image cannot be used as it is; False for what is valid and unusual.
    """

    file: Path
    line: int | None
    text: str
    broken: bool = True

    def __str__(self) -> str:
        return visible(f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}")


def fault_in(file: Path, error: DataError) -> Fault:
    """Return the fault that an error about a file tells: with its line, if the message names one, and without the path.

    Args:
        file: The file.
        error: What reading it raised.
    """
    path, mark, rest = str(error).partition(f"{visible(file)}:")
    if path or not mark:
        return Fault(file, None, str(error))
    line, mark, text = rest.partition(": ")
    return Fault(file, int(line), text) if mark and line.isdecimal() else Fault(file, None, rest.strip())


@dataclass(frozen=True)
class Reading(Generic[Data]):
    """What a reader made of a part of a dataset.

    Attributes:
        data: The images and labels that are sound; None if none is.
        faults: Everything that is wrong or odd.
        skipped: How many labels ``data`` lacks because of a fault.
    """

    data: Data | None
    faults: tuple[Fault, ...] = ()
    skipped: int = 0

    def usable(self, on_bad_label: OnBadLabel = "refuse", tolerated: Callable[[Fault], bool] = lambda _: False) -> Data:
        """Return what is sound, provided that all is, or that faults may be skipped.

        Args:
            on_bad_label: Whether broken labels are skipped or refused.
            tolerated: Tells which faults are skipped in any case.

        Raises:
            DataError: Something is broken, or nothing is sound; the message lists the first faults.
        """
        broken = [fault for fault in self.faults if fault.broken]
        refused = [fault for fault in broken if not tolerated(fault)] if on_bad_label == "refuse" else []
        if self.data is None or refused:
            raise DataError(listing(refused or broken))
        return self.data


def listing(faults: Sequence[Fault]) -> str:
    """Return a message of several lines with the first of some faults, under their file's name if they share it."""
    files = list(dict.fromkeys(fault.file for fault in faults))
    shown = faults[:SHOWN_FAULTS]
    lines = [f"line {f.line}: {f.text}" if f.line else f.text for f in shown] if len(files) == 1 else map(str, shown)
    where = str(files[0]) if len(files) == 1 else f"{len(files)} files"
    more = f"\n  ... and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
    listed = "\n".join(f"  {visible(line)}" for line in lines)
    return f"{visible(where)}: {len(faults)} fault{'s' * (len(faults) != 1)}\n{listed}{more}"


def grouped(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Return faults by their kind, in the order in which the kinds first occur: alike but for names and numbers."""
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(_VARYING.sub("#", fault.text[:KIND_LENGTH]), []).append(fault)
    return list(kinds.values())
