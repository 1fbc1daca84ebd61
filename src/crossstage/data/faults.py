"""What is wrong with data: one fault, and what a reader found besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from crossstage.errors import DataError

SHOWN_FAULTS = 10

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
        return f"{self.file}:{self.line}: {self.text}" if self.line else f"{self.file}: {self.text}"


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

    def usable(self, on_bad_label: OnBadLabel = "refuse") -> Data:
        """Return what is sound, provided that all is, or that faults may be skipped.

        Args:
            on_bad_label: Whether broken labels are skipped or refused.

        Raises:
            DataError: Something is broken, or nothing is sound; the message lists the first faults.
        """
        broken = [fault for fault in self.faults if fault.broken]
        if self.data is None or (broken and on_bad_label == "refuse"):
            raise DataError(listing(broken))
        return self.data


def listing(faults: Sequence[Fault]) -> str:
    """Return a message of several lines with the first of some faults, under their file's name if they share it."""
    files = list(dict.fromkeys(fault.file for fault in faults))
    lines = [f"line {f.line}: {f.text}" if f.line else f.text for f in faults] if len(files) == 1 else map(str, faults)
    where = str(files[0]) if len(files) == 1 else f"{len(files)} files"
    more = f"\n  ... and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
    listed = "\n".join(f"  {line}" for line in list(lines)[:SHOWN_FAULTS])
    return f"{where}: {len(faults)} fault{'s' * (len(faults) != 1)}\n{listed}{more}"
