"""What the parts of the soak have in common: small data, a small model, commands in processes, and what is told."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

SETTINGS = {  # YOLOv4-tiny's, narrow
    **{"stem": ((8, 2), (8, 2)), "widths": (8, 8, 8), "last": 16, "neck_channels": (12, 16), "narrow": 8, "size": 64},
}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["crossstage.training.run"])


@dataclass
class Row:
    """What a part of the soak found.

    Attributes:
        part: What was tried.
        tried: How many times.
        failures: What went wrong, each with what does it again.
        figures: What was measured.
    """

    part: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    figures: str = ""

    def expect(self, holds: bool, what: str) -> None:
        """Record a failure, unless something holds."""
        if not holds:
            self.failures.append(what)


class Command:
    """A command that runs in a process forked from one which has imported what it needs.

    Args:
        words: What a person types after ``crossstage``.
        output: The file that takes what it prints.
        environment: Variables that it has beside others.
    """

    def __init__(self, words: Sequence[str], output: Path, environment: Mapping[str, str] | None = None) -> None:
        self._output = output
        arguments = ([str(word) for word in words], output, dict(environment or {}))
        self._process = FORKS.Process(target=_run, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return its exit code, below 0 the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, and return its exit code; None if it has not ended in time."""
        self._process.join(seconds)
        return self.poll()

    def send(self, number: int) -> None:
        """Send it a signal."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def printed(self) -> str:
        """Return what it has printed so far, on stdout and stderr."""
        return self._output.read_text() if self._output.exists() else ""

    def last_line(self) -> str:
        """Return the last line of that, after a traceback with the place in our code that it leads to."""
        *before, last = self.printed().strip().splitlines() or [""]
        places = [line.strip() for line in before if line.startswith("  File ") and "crossstage" in line]
        return f"{last[:300]} ({places[-1]})" if places else last[:300]


def _run(words: list[str], output: Path, environment: dict[str, str]) -> None:
    import torch

    from crossstage.cli import main

    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    torch.set_num_threads(1)
    os.environ.update(environment)
    sys.exit(main(words))


def small_data(folder: Path, count: int = 12, side: int = 64) -> Path:
    """Write a dataset of bright squares in YOLO's layout, and return its YAML file."""
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = random.integers(60, 120, (side, side, 3), dtype=np.uint8)
            left, top, size = (int(value) for value in random.integers(4, side // 2 - 4, 3))
            pixels[top : top + size, left : left + size] = (220, 40, 40)
            Image.fromarray(pixels).save(folder / "images" / part / f"{number}.png")
            shares = ((left + size / 2) / side, (top + size / 2) / side, size / side, size / side)
            text = "0 " + " ".join(f"{share:.6f}" for share in shares) + "\n"
            (folder / "labels" / part / f"{number}.txt").write_text(text)
    file = folder / "data.yaml"
    file.write_text("train: images/train\nval: images/val\nnames: [square]\n")
    return file


def small_model(file: Path) -> Path:
    """Write a detector of a few thousand weights."""
    import torch

    from crossstage.models.spec import ModelSpec
    from crossstage.structures import Preprocessing
    from crossstage.weights.loading import create_model
    from crossstage.weights.model_file import write_model

    torch.manual_seed(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    model = create_model("cspdarknet53_tiny_yolo", 1, **SETTINGS)
    spec = ModelSpec("cspdarknet53_tiny_yolo", 1, ("square",), SETTINGS, Preprocessing((64, 64), "stretch"))
    write_model(file, model.state_dict(), spec)
    return file


def training(model: Path, data: Path, out: Path, name: str, *more: str) -> list[str]:
    """Return the words that start a small training."""
    words = ["train", "--model", model, "--data", data, "--out", out, "--name", name, "--imgsz", "64", "--batch", "4"]
    words += ["--workers", "0", "--burn-in", "2", "--sample-every", "0", "--accelerator", "cpu", "--epochs", "3", *more]
    return [str(word) for word in words]


def wait_for(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds; return whether it does."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def debris(folder: Path, expected: set[str]) -> list[str]:
    """Return what lies below a folder and should not."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return sorted(found - expected)
