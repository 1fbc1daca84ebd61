"""Accuracy for an exploration's networks: each is trained, and trainings that have ended are not run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from crossstage.csp.explore.exploration import Exploration
from crossstage.csp.explore.rows import ExplorationRow
from crossstage.data.find import find_data
from crossstage.errors import ConfigError, TrainingError
from crossstage.training import TrainOptions, TrainResult, options_of, result_of, resume, train


def classes_in(training: TrainOptions) -> int:
    """Return the number of classes that the data of a training has.

    Args:
        training: The training's options.

    Raises:
        DataError: It cannot be read.
    """
    source = find_data(training.data, training.format)
    return len(source.read("train", training.on_bad_label).class_names)


def with_accuracy(
    found: Exploration,
    training: TrainOptions,
    *,
    each: Callable[[Exploration], object] = lambda _: None,
    quiet: bool = False,
) -> Exploration:
    """Train every network of an exploration and add its best score.

    Each training is a run as :func:`crossstage.train` leaves it, in a folder of ``training.out`` that is called as its
    row. Where there is one with the same options already, it is taken as it is if it has ended, else gone on with: so
    the same call after an interruption repeats nothing. Of a training whose loss diverges, the row holds the message.

    Args:
        found: The exploration, as :func:`explore` returned it.
        training: The options of every training; model, partial, input size and name are each row's.
        each: Function that is called with the exploration after each training.
        quiet: Whether trainings show no progress.

    Raises:
        ConfigError: An option does not fit, or a folder holds a training with other options.
        DataError: The data cannot be read.
        Interrupted: SIGINT or SIGTERM stopped it; its state is saved.
    """
    description = f"{training.data}, {training.epochs} epochs, batch {training.batch}, seed {training.seed}"
    found = replace(found, training=description)
    planned = [_planned(found, row, training) for row in found.rows]
    for options in filter(None, planned):
        _check(options)
    for index, options in enumerate(planned):
        if options is not None:
            rows = [*found.rows]
            rows[index] = _trained(rows[index], options, quiet)
            found = replace(found, rows=tuple(rows))
            each(found)
    return found


def _planned(found: Exploration, row: ExplorationRow, training: TrainOptions) -> TrainOptions | None:
    """Return the options of a row's training; None for a network that cannot be built."""
    if row.costs is None:
        return None
    return replace(training, model=found.backbone, partial=row.partial, imgsz=found.size, name=row.slug)


def _folder(options: TrainOptions) -> Path:
    return Path(options.out) / (options.name or "")


def _check(options: TrainOptions) -> None:
    """Refuse a folder that holds another training.

    Raises:
        ConfigError: The folder's options differ.
    """
    folder = _folder(options)
    if not folder.is_dir():
        return
    own, there = vars(options), vars(options_of(folder))
    stated = [name for name in own if own[name] is not None]  # what is left open is planned, and stands in the folder
    if differing := [name for name in stated if own[name] != there[name]]:
        name = differing[0]
        raise ConfigError(
            f"{folder} holds a training with {name}={there[name]}; expected {own[name]}, or another folder for this one"
        )


def _trained(row: ExplorationRow, options: TrainOptions, quiet: bool) -> ExplorationRow:
    try:
        return replace(row, accuracy=_result(options, quiet).best)
    except TrainingError as error:
        return replace(row, missing={**row.missing, "accuracy": str(error)})


def _result(options: TrainOptions, quiet: bool) -> TrainResult:
    folder = _folder(options)
    if not folder.is_dir():
        return train(options, quiet=quiet)
    return result_of(folder) or resume(folder, quiet=quiet)
