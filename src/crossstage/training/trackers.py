"""Experiment trackers: where a run's figures go besides its own files, through Lightning's loggers.

TensorBoard's files lie in the run's folder. MLflow writes to ``$MLFLOW_TRACKING_URI``, or to ``mlflow.db`` beside the
runs, which ``mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`` shows. Weights & Biases is told of a run where
``$WANDB_MODE`` says so or somebody has logged in; otherwise it writes into the run's folder, and ``wandb sync`` sends
it. ``csv`` is ``metrics.csv``, which every run has.

No tracker can harm a training: one that fails, or does not answer, is told of once and left out from there on.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import netrc
import os
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from crossstage.errors import DataError, first_line, not_installed
from crossstage.files import write_text
from crossstage.training.options import LoggerKind, RunOptions

PROJECT = "crossstage"  # the experiment of MLflow and the project of W&B, unless their own variables name another
KNOWN_RUNS = "trackers.json"
PATIENCE = 60.0  # seconds that a tracker may take; the first call imports it, and may make a database
EXTRAS = {"mlflow": "mlflow", "wandb": "wandb"}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "WANDB_ERROR_REPORTING": "false",
}
"""Variables of the trackers' own, unless they are set: nothing goes where nobody sent it, nothing waits for minutes."""


def settings_of(options: RunOptions) -> dict[str, Any]:
    """Return options as names and plain values, those of groups with the group's name and a dot before theirs."""
    given = asdict(options)
    flat = {name: value for name, value in given.items() if not isinstance(value, dict)}
    for outer, inner in given.items():
        if isinstance(inner, dict):
            flat |= {f"{outer}.{name}": value for name, value in inner.items()}
    return flat


def check_trackers(kinds: Sequence[LoggerKind]) -> None:
    """Refuse trackers whose packages are not installed.

    Raises:
        ConfigError: One is missing.
    """
    for kind in kinds:
        if kind in EXTRAS and importlib.util.find_spec(EXTRAS[kind]) is None:
            raise not_installed(EXTRAS[kind], kind)


class RunTracker(ABC):
    """One tracker's record of a run; each method may raise whatever its service does.

    Args:
        logger: Lightning's logger.
        run: The id by which the tracker knows the run, if it has such a thing.
    """

    def __init__(self, logger: Any, run: str | None = None) -> None:
        self.logger, self.run = logger, run

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, run: str | None) -> RunTracker:
        """Begin a record of the run in a folder, or go on with the one that has an id."""

    def describe(self, settings: Mapping[str, Any]) -> None:
        """Log what describes the run."""
        self.logger.log_hyperparams(dict(settings))

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        """Log the figures of an epoch."""
        self.logger.log_metrics(dict(values), step=epoch)

    @abstractmethod
    def show(self, path: Path, epoch: int) -> None:
        """Log a sheet of sample images."""

    def close(self, status: str) -> None:
        """Finish: "success", "failed" or "killed"."""
        self.logger.finalize(status)


class TensorBoard(RunTracker):
    """Files in the folder ``tensorboard`` of the run."""

    @classmethod
    def open(cls, folder: Path, run: str | None) -> RunTracker:
        """Open a new file; those of a run that goes on lie beside it."""
        del run
        from lightning.fabric.loggers.tensorboard import TensorBoardLogger

        logger = TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)
        _ = logger.experiment  # opens its file
        return cls(logger)

    def describe(self, settings: Mapping[str, Any]) -> None:
        """Log a table."""
        rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
        self.logger.experiment.add_text("plan", f"| option | value |\n| --- | --- |\n{rows}")

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        """Log the figures of an epoch, and put them on the disk."""
        super().figures(values, epoch)
        self.logger.experiment.flush()

    def show(self, path: Path, epoch: int) -> None:
        """Log a sheet of sample images."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.logger.experiment.add_image("samples", pixels, epoch, dataformats="HWC")


class MLflow(RunTracker):
    """A run of MLflow's, on a server or in a database."""

    @classmethod
    def open(cls, folder: Path, run: str | None) -> RunTracker:
        """Make a run in MLflow's store, or take one up."""
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # it tells that it makes an experiment
        from lightning.pytorch.loggers import MLFlowLogger

        out = folder.absolute().parent
        given = os.environ.get("MLFLOW_TRACKING_URI")
        logger = MLFlowLogger(
            experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
            run_name=folder.name,
            tracking_uri=given or f"sqlite:///{out / 'mlflow.db'}",
            artifact_location=None if given else (out / "mlartifacts").as_uri(),
            run_id=run,
        )
        if run:
            logger.experiment.update_run(run, status="RUNNING")
        return cls(logger, logger.run_id)

    def show(self, path: Path, epoch: int) -> None:
        """Log a sheet of sample images; its name tells the epoch."""
        del epoch
        self.logger.experiment.log_artifact(self.run, str(path), "samples")

    def close(self, status: str) -> None:
        """Finish; MLflow has a word of its own for what was interrupted."""
        super().close({"killed": "KILLED"}.get(status, status))


class WeightsAndBiases(RunTracker):
    """A run of W&B's, on its server or in the folder ``wandb`` of the run."""

    @classmethod
    def open(cls, folder: Path, run: str | None) -> RunTracker:
        """Begin a run, or one with the same id, which W&B joins to the earlier one."""
        import wandb
        from lightning.pytorch.loggers import WandbLogger

        run = run or uuid.uuid4().hex[:12]
        offline = is_offline()
        mode: Any = "offline" if offline else os.environ.get("WANDB_MODE", "online")
        logger = WandbLogger(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            save_dir=folder,
            id=run,
            resume=None if offline else "allow",
            settings=wandb.Settings(mode=mode, console="off", silent=True, init_timeout=PATIENCE / 2),
        )
        _ = logger.experiment  # opens the run
        return cls(logger, run)

    def show(self, path: Path, epoch: int) -> None:
        """Log a sheet of sample images."""
        self.logger.log_image("samples", [str(path)], step=epoch)

    def close(self, status: str) -> None:
        """Finish, and send what has not been sent."""
        self.logger.experiment.finish(exit_code=0 if status == "success" else 1)


KINDS: Mapping[LoggerKind, type[RunTracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WeightsAndBiases}


class Trackers:
    """The trackers of one run.

    Args:
        kinds: Which; what each is has been said above.
        folder: The run's folder.
        settings: The plan, and what else describes the run, by name.
        going_on: Continue the records that the trackers have of this run.
        say: Tells the user a line.
    """

    def __init__(
        self,
        kinds: Sequence[LoggerKind],
        folder: Path,
        *,
        settings: Mapping[str, Any],
        going_on: bool,
        say: Callable[[str], None],
    ) -> None:
        self.say = say
        self.trackers: dict[LoggerKind, RunTracker] = {}
        self.known = _known(folder) if going_on else {}
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        for kind in dict.fromkeys(kinds):
            if kind in KINDS:
                self._safely(kind, partial(self._open, kind, folder, settings))
        if self.known:
            with suppress(DataError):  # to go on then begins another record
                write_text(folder / KNOWN_RUNS, json.dumps(self.known, indent=1) + "\n")
        if "wandb" in self.trackers and is_offline():
            say(f"W&B writes to {folder / 'wandb'}; `wandb sync` sends it, `wandb login` or WANDB_MODE=online at once")

    def figures(self, row: Mapping[str, float]) -> None:
        """Log the figures of an epoch, which are called as in ``metrics.csv``."""
        values = {name: value for name, value in row.items() if name != "epoch"}
        self._all(lambda tracker: tracker.figures(values, int(row["epoch"])))

    def show(self, path: Path, epoch: int) -> None:
        """Log a sheet of sample images, if it was written."""
        if path.is_file():
            self._all(lambda tracker: tracker.show(path, epoch))

    def close(self, status: Literal["success", "failed", "killed"]) -> None:
        """Finish; a training that was killed may go on."""
        self._all(lambda tracker: tracker.close(status))
        self.trackers = {}

    def _open(self, kind: LoggerKind, folder: Path, settings: Mapping[str, Any]) -> None:
        tracker = KINDS[kind].open(folder, self.known.get(kind))
        if kind not in self.known:  # a run that goes on has its settings, which some trackers never change
            tracker.describe(settings)
        if tracker.run:
            self.known[kind] = tracker.run
        self.trackers[kind] = tracker

    def _all(self, act: Callable[[RunTracker], None]) -> None:
        for kind, tracker in list(self.trackers.items()):
            self._safely(kind, partial(act, tracker))

    def _safely(self, kind: LoggerKind, act: Callable[[], None]) -> None:
        """Let a tracker do something beside this thread, for so long as our patience lasts; drop one that fails."""
        raised: list[BaseException] = []

        def work() -> None:
            try:
                act()
            except BaseException as error:  # each client raises what it likes, W&B even to end the program
                raised.append(error)

        thread = threading.Thread(target=work, name=f"crossstage-{kind}", daemon=True)
        thread.start()
        thread.join(PATIENCE)
        if thread.is_alive() or raised:
            self.trackers.pop(kind, None)
            reason = first_line(raised[0]) if raised else f"it has not answered for {PATIENCE:g} s"
            self.say(f"logger {kind}: {reason}; the training goes on without it, all figures are in metrics.csv")


def _known(folder: Path) -> dict[str, str]:
    """Return the ids that trackers have for a run; none where nobody can tell."""
    try:
        content = json.loads((folder / KNOWN_RUNS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def is_offline() -> bool:
    """Tell whether W&B is to send nothing: it is told so, or nobody here has an account that it could send to."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode in ("offline", "dryrun")
    if os.environ.get("WANDB_API_KEY"):
        return False
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is None
    except (OSError, netrc.NetrcParseError):
        return True
