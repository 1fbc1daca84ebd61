"""The two ways into a training: a new run, and one that goes on."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from crossstage.errors import ConfigError, TrainingError
from crossstage.files import write_text
from crossstage.scratch import remove_leftovers
from crossstage.training.batch import StepMemory
from crossstage.training.checkpoint import Progress, WholeFiles, of_this_run
from crossstage.training.facts import TrainingData, read_data
from crossstage.training.launch import is_launched, launch
from crossstage.training.lock import FolderLock, claimed, locked
from crossstage.training.options import RunOptions, TrainOptions
from crossstage.training.plan import Plan, plan_training
from crossstage.training.run import CONFIG, PLAN, STATE, TrainResult, Watch, pace_of, run_training, step_memory_of
from crossstage.training.signals import Interrupted
from crossstage.training.trackers import KNOWN_RUNS, check_trackers
from crossstage.weights.ref import parse

Options = TypeVar("Options", bound=TrainOptions)

KEPT_CHANGES = ("epochs", "patience", "data")
"""Changes of a run that goes on which are its own from then on."""


def train(options: TrainOptions, *, quiet: bool = False, watch: Watch | None = None) -> TrainResult:
    """Train a detector or a classifier on images.

    Every image is looked at before the first step, see ``options.on_bad_image``. While a run is trained, no other
    process trains in its folder.

    What the options leave open is planned first, see :func:`plan_of`. The run's folder gets ``config.yaml``,
    ``plan.json``, ``best.safetensors`` and ``last.safetensors``, ``metrics.csv``, plots, sample
    predictions, TensorBoard's files and a model card; :func:`crossstage.load` takes the folder.

    Args:
        options: The options of the training.
        quiet: Print the result alone, no progress.
        watch: Is called with the figures of each epoch, in this process alone, that is, not with several devices;
            what it raises ends the training.

    Raises:
        ConfigError: An option, or a model's setting, does not fit.
        DataError: The data cannot be read, or has broken labels or images that are not to be skipped.
        TrainingError: The run's folder is there already, a loss is not finite, a checkpoint cannot be written, or a
            process died.
        Interrupted: SIGINT or SIGTERM stopped it; the state is saved and :func:`resume` goes on.

    Example:
        >>> result = train(TrainOptions(model="cspdarknet53_tiny_yolo.coco", data="my_images", epochs=50))
        >>> result.best
        0.61
    """
    check_trackers(options.logger)
    first = _is_first()
    data = read_data(options, progress=first and not quiet)
    plan = _paced_plan(options, data)
    if not first:
        return _run(
            plan.options, Path(options.out) / (options.name or ""), data=data, going_on=False, quiet=quiet, watch=watch
        )
    folder, lock = _new_folder(plan.options)
    try:
        write_text(folder / CONFIG, _anywhere(plan.options).to_yaml())
        write_text(folder / PLAN, plan.to_json())
        _say_plan(plan, quiet=quiet)
        return _run(plan.options, folder, data=data, going_on=False, quiet=quiet, watch=watch)
    except BaseException:
        if not (folder / STATE).exists():
            _forget(folder)
        raise
    finally:
        lock.release()


def _is_first() -> bool:
    """Tell whether this process is the first of all that were started from outside, or no such process."""
    return not is_launched() or int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


def plan_of(options: TrainOptions) -> Plan:
    """Return the plan of a training without starting it: what is left open, chosen from the data, with reasons.

    The epochs that fit into ``options.minutes`` are measured when it is started.

    Raises:
        CrossStageError: See :func:`train`.
    """
    return _plan(options, read_data(options))[0]


def resume(run: str | Path, *, quiet: bool = False, watch: Watch | None = None, **changes: Any) -> TrainResult:
    """Go on with a run from its last complete state; from its start if it was stopped before its first checkpoint.

    A run that is over trains on if ``epochs`` is more than it had: its learning rate is then what a training of that
    length has at this point, so it rises before it falls again; burn-in is not repeated.

    Args:
        run: The run's folder.
        quiet: Print the result alone, no progress.
        watch: See :func:`train`.
        **changes: Options that may differ from the run's: how long it trains (``epochs``, ``patience``), where it
            computes (``devices``, ``nodes``, ``strategy``, ``accelerator``, ``workers``, ``threads``, ``cache``), what
            follows it (``logger``), and where the data lies now (``data``), which is known again by the names and
            sizes of its images and by its labels.

    Raises:
        TrainingError: The folder is no run's, another process trains in it, or the data is not the run's; and see
            :func:`train`.
    """
    folder = Path(run)
    before = options_of(folder)
    options = replace(before, **changes)
    check_trackers(options.logger)
    if is_launched() and not _is_first():
        return _run(options, folder, going_on=(folder / STATE).is_file(), quiet=quiet, watch=watch)
    with locked(folder):
        remove_leftovers(folder / STATE)
        kept = {name: changes[name] for name in KEPT_CHANGES if name in changes}
        if kept:
            _check_length(folder, options)
            write_text(folder / CONFIG, _anywhere(replace(before, **kept)).to_yaml())
        return _run(options, folder, going_on=(folder / STATE).is_file(), quiet=quiet, watch=watch)


def _check_length(folder: Path, options: TrainOptions) -> None:
    """Refuse a length that a run has passed.

    Raises:
        TrainingError: It has more epochs.
    """
    done = _progress(folder).epoch if (folder / STATE).is_file() else 0
    if options.epochs is not None and options.epochs < done:
        raise TrainingError(f"{folder} has {done} epochs already; expected more than epochs={options.epochs}")


def result_of(run: str | Path) -> TrainResult | None:
    """Read from a run's folder how it ended; None if it has epochs left.

    Raises:
        TrainingError: The folder is no run's, or its checkpoint cannot be read.
    """
    folder = Path(run)
    options = options_of(folder)
    if not (folder / STATE).is_file():
        return None
    progress = _progress(folder)
    assert options.epochs is not None
    return _result(folder, progress) if progress.epoch >= options.epochs else None


def options_of(run: str | Path) -> TrainOptions:
    """Read the options of a run.

    Raises:
        TrainingError: The folder is no run's.
    """
    config = Path(run) / CONFIG
    if not config.is_file():
        raise TrainingError(f"{run}: no {CONFIG}; expected the folder of a training")
    return TrainOptions.from_yaml(config)


def _paced_plan(options: TrainOptions, data: TrainingData) -> Plan:
    """Return the plan of a training whose length fits the time there is, if one was given."""
    plan, memory = _plan(options, data)
    if options.minutes is None or options.epochs is not None:
        return plan
    if is_launched():
        raise ConfigError("minutes is for a training that is started here; torchrun and SLURM want epochs")
    began = time.monotonic()
    pace = pace_of(plan.options, data)
    left = options.minutes - (time.monotonic() - began) / 60
    paced = plan_training(replace(options, minutes=max(left, 0.01)), data, pace, memory)
    return replace(paced, options=replace(paced.options, minutes=options.minutes))


def _plan(options: TrainOptions, data: TrainingData) -> tuple[Plan, StepMemory | None]:
    """Return the plan of a training, and what was measured for it: what a step takes, if that chooses the batch."""
    if options.batch != "auto":
        return plan_training(options, data), None
    if is_launched():
        raise ConfigError("batch auto is for a training that is started here; torchrun and SLURM want a number")
    few = options.world * options.accumulate
    memory = step_memory_of(plan_training(replace(options, batch=few), data).options, data)
    return plan_training(options, data, memory=memory), memory


def _say_plan(plan: Plan, *, quiet: bool) -> None:
    for line in plan.lines() if not quiet else ():
        print(line, file=sys.stderr)


def _run(
    options: TrainOptions,
    folder: Path,
    *,
    data: TrainingData | None = None,
    going_on: bool,
    quiet: bool,
    watch: Watch | None,
) -> TrainResult:
    try:
        if options.devices > 1 and not is_launched():
            launch(options, folder, going_on=going_on, quiet=quiet)
            return _result(folder, _progress(folder))
        return run_training(options, folder, data=data, going_on=going_on, quiet=quiet, watch=watch)
    except Interrupted as error:
        raise Interrupted(f"{error}; go on with: crossstage train --resume {folder}", error.signal) from None


def _progress(folder: Path) -> Progress:
    progress, path = Progress(), folder / STATE
    content = WholeFiles().load_checkpoint(path)
    with of_this_run(path):
        progress.load_state_dict(content["progress"])
    return progress


def _anywhere(options: Options) -> Options:
    """Return options whose files are named by their whole paths, so that the run goes on from any folder."""
    files = {name: parse(text) for name in ("model", "backbone") if (text := getattr(options, name))}
    whole = {name: str(ref.path.absolute()) for name, ref in files.items() if ref.path and ref.kind != "function"}
    data = str(options.data)
    parts = [data] if Path(data).exists() else data.split(",")
    return replace(options, **whole, data=",".join(str(Path(part).absolute()) for part in parts))


def _result(folder: Path, progress: Progress) -> TrainResult:
    return TrainResult(folder, progress.best, progress.best_epoch + 1, progress.history)


def _forget(folder: Path) -> None:
    """Remove the folder of a run that never got to a checkpoint, if nothing but its beginnings is in it."""
    if {path.name for path in folder.iterdir()} - {CONFIG, PLAN, KNOWN_RUNS, "tensorboard"}:
        return
    for path in (folder / CONFIG, folder / PLAN, folder / KNOWN_RUNS, *(folder / "tensorboard").glob("*")):
        path.unlink(missing_ok=True)
    for path in (folder / "tensorboard", folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _new_folder(options: RunOptions) -> tuple[Path, FolderLock]:
    """Make a folder for a run, which no other process has, and lock it.

    Raises:
        TrainingError: The one that was named is there already, or none can be made.
    """
    out = Path(options.out)
    if options.name:
        folder = out / options.name
        if lock := claimed(folder):
            return folder, lock
        raise TrainingError(
            f"{folder} exists; choose another name with --name, or go on with it: crossstage train --resume {folder}"
        )
    stem = f"{_short_name(options.model)}-{_short_name(options.data)}"
    for number in range(1, 10_000):
        folder = out / (stem if number == 1 else f"{stem}-{number}")
        if not folder.exists() and (lock := claimed(folder)):
            return folder, lock
    raise TrainingError(f"{out / stem}: there are thousands of runs of this name; choose another one with --name")


def _short_name(text: str) -> str:
    name = (
        Path(text.split(",", maxsplit=1)[0])
        .name.removesuffix(".safetensors")
        .removesuffix(".json")
        .removesuffix(".yaml")
    )
    return re.sub(r"[^\w.]+", "_", name) or "run"
