"""What goes wrong in the middle of a training, as one line that says what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from crossstage.errors import CrossStageError, TrainingError
from crossstage.training.options import RunOptions

_IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.")
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory")
_ONE_VALUE = "Expected more than 1 value per channel when training"
_OURS = {kind.__name__ for kind in CrossStageError.__subclasses__()}


@contextmanager
def in_one_line(options: RunOptions) -> Iterator[None]:
    """Turn what a training ends by, and can be helped, into an error of one line; what is a fault of ours stays.

    Args:
        options: The options of the training, which the line says how to change.

    Raises:
        TrainingError: Memory ran out, batch norm got a single value, or a process that prepares images failed.
    """
    try:
        yield
    except CrossStageError as error:
        if _IN_WORKER.search(str(error)) is None:
            raise
        raise TrainingError(_last_line(error)) from None
    except (MemoryError, RuntimeError, OSError, ValueError) as error:
        if (text := _told(error, options)) is None:
            raise
        raise TrainingError(text) from None


def out_of_memory(options: RunOptions) -> str:
    """Return what to do where memory ran out."""
    ways = []
    if options.batch > 1:
        smaller = max(options.world * options.accumulate, options.batch // 2)
        ways.append(f"--batch {smaller}" if smaller < options.batch else f"--batch {options.batch * 2} --accumulate 4")
    ways += ["a smaller --imgsz", "fewer --workers", "--cache 0"]
    size = f"of {options.imgsz} pixels" if isinstance(options.imgsz, int) else "of this size"
    return f"memory ran out with a batch of {options.batch} images {size}; try {', '.join(ways[:-1])} or {ways[-1]}"


def one_value(options: RunOptions, share: int) -> str:
    """Return what to do where batch norm gets a single value of each channel.

    Args:
        options: The options of the training.
        share: Images of a pass of one process.
    """
    least = 2 * options.world * options.accumulate
    passes = "" if share == options.batch else f", {share} in a pass"
    return (
        f"batch is {options.batch}{passes}, and batch norm needs more than one value of a channel, which an image this "
        f"small does not give; expected --batch {least} or more, or a larger --imgsz"
    )


def _told(error: BaseException, options: RunOptions) -> str | None:
    """Return the line about an error; None for one that is not known."""
    text = str(error)
    memory = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    if memory or any(sign in text for sign in _OUT_OF_MEMORY):
        return out_of_memory(options)
    if _ONE_VALUE in text:
        return one_value(options, max(1, options.batch // options.world // options.accumulate))
    if "DataLoader worker" in text and _IN_WORKER.search(text) is None:
        return (
            "a process that prepares images was ended from outside, most often because memory ran out; try fewer "
            "--workers or --cache 0"
        )
    if (found := _IN_WORKER.search(text)) and (found[1] in _OURS or isinstance(error, OSError)):
        return _last_line(error)
    return None


def _last_line(error: BaseException) -> str:
    """Return the message of an error in a helper process, without its traceback and its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1])
