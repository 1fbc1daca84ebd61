"""A run's state on disk: whole or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from crossstage.errors import CrossStageError, TrainingError, first_line
from crossstage.files import whole_file
from crossstage.scratch import remove_leftovers


@dataclass
class Progress:
    """Where a training is, and how it got there.

    Attributes:
        epoch: The one that is under way, counted from 0.
        batches: Batches done in it.
        step: Optimisation steps done in all.
        best: Best score so far, and
        best_epoch: the epoch that reached it.
        skipped: Steps that were skipped because their loss was not finite.
        seconds: Spent training, interruptions left out.
        history: One row of figures for each epoch that was finished.
        parts: Sums of the running epoch's losses.
    """

    epoch: int = 0
    batches: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    skipped: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: It is none.
        """
        idle = asdict(Progress())
        if not isinstance(state, dict) or not set(state) <= set(idle):
            raise ValueError("its progress is none of a training")
        for name, value in state.items():
            kinds = (int, float) if isinstance(idle[name], float) else (type(idle[name]),)
            if type(value) not in kinds:
                raise ValueError(f"its {name} is a {type(value).__name__}")
            setattr(self, name, value)
        if min(self.epoch, self.batches, self.step, self.skipped) < 0:
            raise ValueError(f"it is in epoch {self.epoch}, after step {self.step}")


class WholeFiles(CheckpointIO):
    """Checkpoints that appear under their name when they are complete, and are read without executing anything."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the file, then rename.

        Raises:
            TrainingError: The file cannot be written; an earlier one of that name is kept.
        """
        del storage_options
        target = Path(path)
        remove_leftovers(target)
        try:
            with whole_file(target, error=TrainingError, parents=False, durable=True) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
        except (TrainingError, RuntimeError) as error:  # torch's writer raises the latter on a full disk
            reason = error if isinstance(error, TrainingError) else f"{target}: cannot be written: the disk is full"
            kept = "the last good one is kept" if target.is_file() else "there is no earlier one"
            raise TrainingError(f"{reason}; {kept}") from None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint.

        The file is an archive that has a checksum of each of its parts; all are compared.

        Raises:
            TrainingError: The file cannot be read, is damaged, or holds more than tensors and plain values.
        """
        del weights_only
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        except OSError as error:
            raise TrainingError(f"{path}: cannot be read: {error.strerror or error}") from None
        except Exception as error:  # a broken archive raises one of many kinds
            raise TrainingError(f"{path}: not a checkpoint that can be read: {first_line(error)}") from None
        if damaged:
            raise TrainingError(f"{path}: damaged: the checksum of {damaged} does not fit")
        try:
            content = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:  # a broken pickle raises one of many kinds
            raise TrainingError(f"{path}: not a checkpoint that can be read: {first_line(error)}") from None
        if not isinstance(content, dict):
            raise TrainingError(f"{path}: holds a {type(content).__name__}; expected the state of a training")
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)


@contextmanager
def of_this_run(path: Path) -> Iterator[None]:
    """Turn whatever does not fit when a state is taken up into an error of one line.

    Args:
        path: The file that the state was read from.

    Raises:
        TrainingError: The state is that of another network, or of another kind of file.
    """
    try:
        yield
    except CrossStageError:
        raise
    except Exception as error:  # Fabric, optimisers and modules each have errors of their own for what does not fit
        what = first_line(error)
        raise TrainingError(f"{path}: not the state of this training: {type(error).__name__}: {what}") from None
