"""What a person sees while a training runs: a bar with the losses, and a line for each epoch."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

REFRESH_SECONDS = 0.25


class Reporter:
    """Console of the first process; one that says nothing for the others.

    Args:
        epochs: Number of epochs of the training.
        silent: Print nothing at all.
        quiet: Print the result alone, no bars and no other lines.
    """

    def __init__(self, epochs: int, *, silent: bool = False, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet or silent, highlight=False)
        self.results = Console(stderr=True, quiet=silent, highlight=False)
        self.epochs = epochs
        self.bar: Progress | None = None
        self.last = 0.0

    def say(self, text: str) -> None:
        """Print a line of text."""
        self.console.print(text, markup=False, soft_wrap=True)

    def say_result(self, text: str) -> None:
        """Print a line of the result."""
        self.results.print(text, markup=False, soft_wrap=True)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Start a bar."""
        self.end()
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        ]
        self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        self.bar.add_task(what, total=total, completed=done, note="")
        if self.console.is_terminal:
            self.bar.start()

    def advance(self, note: str = "") -> None:
        """Move the bar one step further, with a note beside it."""
        if self.bar is None or not self.console.is_terminal:
            return
        task = self.bar.tasks[0].id
        if time.monotonic() - self.last > REFRESH_SECONDS:
            self.last = time.monotonic()
            self.bar.update(task, note=note)
        self.bar.advance(task)

    def end(self) -> None:
        """Remove the bar."""
        if self.bar is not None and self.console.is_terminal:
            self.bar.stop()
        self.bar = None

    def row(self, epoch: int, figures: Mapping[str, float], *, best: bool) -> None:
        """Print the line of a finished epoch."""
        self.end()
        shown = {name.replace("images_per_second", "images/s"): value for name, value in figures.items()}
        text = "  ".join(f"{name} {_short(name, value)}" for name, value in shown.items() if name != "epoch")
        self.say(f"epoch {epoch + 1:>3}/{self.epochs}  {text}{'  best' if best else ''}")


def loss_note(parts: Mapping[str, float], rate: float, images_per_second: float) -> str:
    """Return the note beside the bar."""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in parts.items())
    return f"{losses}  lr {rate:.2g}  {images_per_second:.1f} images/s"


def _short(name: str, value: float) -> str:
    if name == "lr":
        return f"{value:.2g}"
    return f"{value:.1f}" if name in ("images/s", "seconds") else f"{value:.4f}"
