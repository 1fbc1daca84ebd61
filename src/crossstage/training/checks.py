"""What is refused before a training begins or goes on, so that nobody waits for it to fail."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from crossstage.errors import ConfigError, TrainingError
from crossstage.models.registry import Model
from crossstage.training.checkpoint import Progress
from crossstage.training.facts import TrainingData
from crossstage.training.failures import one_value
from crossstage.training.options import RunOptions
from crossstage.training.schedule import freeze_batch_norm
from crossstage.training.tasks import Task
from crossstage.weights.starting import Started


def check_batch_norm(model: Model, task: Task, options: RunOptions, share: int) -> None:
    """Refuse passes that give batch norm a single value of each channel.

    Args:
        model: The model, which is left as it is.
        task: The task, which says how large its inputs are.
        options: The options of the training.
        share: Images of a pass of one process.

    Raises:
        ConfigError: It is so.
    """
    if share > 1:
        return
    sides = task.preprocessing.size
    small = sides if task.preprocessing.resize == "shortest" else task.least_size(sides)
    network = copy.deepcopy(model).to("meta").train()
    freeze_batch_norm(network)
    try:
        with torch.no_grad():
            network(torch.empty(share, task.preprocessing.channels, *small, device="meta"))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise ConfigError(one_value(options, share)) from None
    except (RuntimeError, NotImplementedError):  # an operation that needs values; the first step will tell
        return


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse the state of an optimiser that is not that of its parameters.

    Raises:
        ValueError: It is of other shapes.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                shapes = tuple(value.shape), tuple(parameter.shape)
                raise ValueError(f"the optimiser's {name} has the shape {shapes[0]}; expected {shapes[1]}")


def check_goes_on(
    folder: Path, progress: Progress, known: Sequence[str] | None, data: TrainingData, options: RunOptions
) -> None:
    """Refuse to go on with a run on other data, or beyond its end.

    Args:
        folder: The run's folder.
        progress: Where it is.
        known: Hashes of the data that it was trained on; None for a run of an earlier version, which has none.
        data: The data to go on with.
        options: The options of the run.

    Raises:
        TrainingError: The data is another one, or the run has more epochs than it is to have.
    """
    if progress.epoch > options.epochs:
        raise TrainingError(f"{folder} has {progress.epoch} epochs; expected more than epochs={options.epochs}")
    if not isinstance(known, (list, tuple)) or len(known) != len(data.digests):
        return
    pairs = zip(("train", "val"), known, data.digests, strict=True)
    if parts := [name for name, old, new in pairs if old != new]:
        raise TrainingError(
            f"{options.data}: its {' and '.join(parts)} images or labels are not those that {folder} was trained on, "
            f"by their names and sizes; expected the same, or a new training with --model {folder}"
        )


def check_size(started: Started) -> None:
    """Refuse an input whose sides are no multiples of what the model halves them by.

    Raises:
        ConfigError: It is such an input.
    """
    preprocessing = started.spec.preprocessing
    stride = getattr(started.model, "size_divisor", 1)
    if preprocessing is None or preprocessing.resize == "shortest":  # which pads to what fits
        return
    if any(side % stride for side in preprocessing.size):
        height, width = preprocessing.size
        shown = f"{height}" if height == width else f"{height} {width}"
        raise ConfigError(f"imgsz is {shown}; expected {'a multiple' if height == width else 'multiples'} of {stride}")
