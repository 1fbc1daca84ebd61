"""A study: trials that are ordinary trainings, pruned by their val scores, in a database from which it goes on.

Optuna chooses the values (its TPE sampler) and which trainings are not worth their end (its median rule). Each trial
is a run in a folder of the study. Whatever ends the process, the same call goes on: trials that were under way are
queued again with their values, and their trainings continue from their checkpoints.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossstage.errors import ConfigError, TrainingError, not_installed
from crossstage.training import TrainOptions, options_of, result_of, resume, train
from crossstage.training.lock import locked
from crossstage.training.run import Watch
from crossstage.tuning.space import Space

if TYPE_CHECKING:
    import optuna

DATABASE = "study.db"
RUNGS = 10  # of a training, at which its score is compared with the others'
SEEN_FIRST = 4  # trials that end before any is pruned
WARM = 2  # rungs of each that are left alone
SPACE, FOLDER, ERROR, SECONDS = "space", "folder", "error", "seconds"  # of a study or trial, in the database
SCORES = "AP_mask", "AP", "top1"

TrainOne = Callable[[TrainOptions, Watch], float]


class Pruned(Exception):  # noqa: N818 (nothing is wrong)
    """A training that is not worth its end."""


@dataclass(frozen=True)
class Trialled:
    """A trial, as it is.

    Attributes:
        number: Its number, counted from 0.
        state: "complete", "pruned", "failed", "running" or "waiting".
        score: Its best score, or the last one before it was pruned; None if there is none.
        folder: The run's folder.
        values: The values that were tried, see :class:`~crossstage.tuning.space.Space`.
        error: Why it failed.
    """

    number: int
    state: str
    score: float | None
    folder: str
    values: Mapping[str, Any]
    error: str = ""


@dataclass(frozen=True)
class Tuned:
    """How a study stands.

    Attributes:
        folder: Its folder.
        trials: All trials, in their order.
        best: The best one that is complete; None if there is none.
        options: The options of the best one's training.
    """

    folder: Path
    trials: tuple[Trialled, ...]
    best: Trialled | None
    options: TrainOptions | None


def tune(
    space: Space,
    folder: str | Path,
    *,
    trials: int = 20,
    minutes: float | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    train_one: TrainOne | None = None,
) -> Tuned:
    """Try values until there are so many trials or the time is over; go on with a study that is there.

    Args:
        space: What trials may be; see :func:`~crossstage.tuning.space.space_of`.
        folder: The study's folder, which holds the database and the runs.
        trials: How many are to end, those of earlier calls included; a repeated one counts once.
        minutes: The most time for all trials, those of earlier calls included; no trial is begun after it.
        seed: Decides which values are tried.
        say: Tells the user a line.
        train_one: Trains; for programs that train in a way of their own.

    Raises:
        ConfigError: Optuna is not installed, or the folder holds a study of something else.
        TrainingError: Another process tunes there, or no training could be finished.
        Interrupted: A signal stopped it; the same call goes on.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    with locked(place):
        study = _study(place, space, seed)
        _queue_again(study)
        runner = _Runner(study, place, space, train_one or _train, say)
        while runner.ended < trials and (minutes is None or runner.spent < minutes * 60):
            runner.next(trials)
        done = tuned(study, place, space)
        if done.best is None and (failed := [trial for trial in done.trials if trial.error]):
            raise TrainingError(f"no trial came to its end; the last one: {failed[-1].error}")
        return done


class _Runner:
    """Takes one trial after the other."""

    def __init__(
        self, study: optuna.Study, folder: Path, space: Space, train_one: TrainOne, say: Callable[[str], None]
    ) -> None:
        self.study, self.folder, self.space, self.train_one, self.say = study, folder, space, train_one, say

    @property
    def ended(self) -> int:
        """How many trials came to an end, or to one that was not worth it, or failed by themselves."""
        states = self._states()
        ended = [trial for trial in self.study.trials if trial.state in (states.COMPLETE, states.PRUNED)]
        return len(ended) + sum(ERROR in trial.user_attrs for trial in self.study.trials)

    @property
    def spent(self) -> float:
        """Seconds that all trials took."""
        return sum(float(trial.user_attrs.get(SECONDS, 0.0)) for trial in self.study.trials)

    def next(self, of: int) -> None:
        """Take a trial."""
        states, trial = self._states(), self.study.ask()
        options, values = self.space.drawn(trial)
        name = trial.user_attrs.get(FOLDER) or f"trial_{trial.number}"
        trial.set_user_attr(FOLDER, name)
        options = replace(options, out=str(self.folder), name=name, logger=("csv",), sample_every=0)
        begun, state, score, error = time.monotonic(), states.COMPLETE, None, ""
        watch = _Watch(trial, self.folder / name)
        try:
            score = self.train_one(options, watch)
        except Pruned:
            state = states.PRUNED
        except TrainingError as failed:  # one that diverges, or for which memory is too small
            state, error = states.FAIL, str(failed)
            trial.set_user_attr(ERROR, error)
        finally:
            trial.set_user_attr(SECONDS, time.monotonic() - begun)
        self.study.tell(trial, score, state=state)
        shown = "  ".join(
            f"{key} {value if isinstance(value, str) else format(value, '.3g')}" for key, value in values.items()
        )
        how = f"{score:.4f}" if score is not None else error or f"pruned at {watch.last:.4f}"
        self.say(f"trial {self.ended}/{of}  {name}  {shown}  {how}")

    @staticmethod
    def _states() -> Any:
        from optuna.trial import TrialState

        return TrialState


class _Watch:
    """Tells a study the val scores of a training, a tenth of it at a time, and ends one that is behind the others."""

    def __init__(self, trial: optuna.Trial, folder: Path) -> None:
        self.trial, self.folder = trial, folder
        self.best, self.rung, self.epochs, self.last = 0.0, 0, 0, 0.0

    def __call__(self, figures: Mapping[str, float]) -> None:
        scores = [figures[name] for name in SCORES if name in figures]
        if not scores:
            return
        self.last, self.best = scores[0], max(self.best, scores[0])
        self.epochs = self.epochs or (options_of(self.folder).epochs or 1)
        rung = int(RUNGS * figures["epoch"] / self.epochs)
        if rung > self.rung:
            self.rung = rung
            self.trial.report(self.best, rung)
            if rung < RUNGS and self.trial.should_prune():
                raise Pruned


def _train(options: TrainOptions, watch: Watch) -> float:
    """Train, or go on with a training that was interrupted."""
    folder = Path(options.out) / (options.name or "")
    if not folder.is_dir():
        return train(options, quiet=True, watch=watch).best
    return (result_of(folder) or resume(folder, quiet=True, watch=watch)).best


def _study(folder: Path, space: Space, seed: int) -> optuna.Study:
    """Open the study in a folder, or make one whose first trial is the plan.

    Raises:
        ConfigError: Optuna is not installed, or the study is of something else.
    """
    try:
        import optuna
    except ImportError:
        raise not_installed("optuna", "tune") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder.absolute() / DATABASE}")
    pruner = optuna.pruners.MedianPruner(SEEN_FIRST, WARM)
    study = optuna.create_study(
        storage=storage, study_name=folder.name, direction="maximize", pruner=pruner, load_if_exists=True
    )
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + len(study.trials), n_startup_trials=5
    )  # never the same again
    told = {"networks": [network.name for network in space.networks], "options": space.base.to_yaml()}
    known = study.user_attrs.get(SPACE)
    if known is None:
        study.set_user_attr(SPACE, told)
        study.enqueue_trial(space.first())
    elif known != told:
        raise ConfigError(
            f"{folder} holds a study of other {_differing(known, told)}; expected the same, or another name"
        )
    return study


def _differing(known: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    if known.get("networks") != told["networks"]:
        return f"networks ({', '.join(known.get('networks', ()))})"
    lines = set(str(known.get("options")).splitlines()) - set(told["options"].splitlines())
    return f"options ({'; '.join(sorted(lines)) or 'more'})"


def _queue_again(study: optuna.Study) -> None:
    """Queue the trials that a process had under way when it ended; their trainings go on."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        values = trial.params or trial.system_attrs.get("fixed_params", {})
        kept = {name: trial.user_attrs[name] for name in (FOLDER,) if name in trial.user_attrs}
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(values, user_attrs=kept)


def tuned(study: optuna.Study, folder: Path, space: Space) -> Tuned:
    """Return how a study stands; of a trial that was queued again, the last one counts."""
    from optuna.trial import TrialState

    found: dict[str, Trialled] = {}
    for trial in study.trials:
        name = trial.user_attrs.get(FOLDER, "")
        error = trial.user_attrs.get(ERROR, "")
        if trial.state == TrialState.FAIL and not error:
            continue
        state = "failed" if trial.state == TrialState.FAIL else trial.state.name.lower()
        score = trial.value if trial.value is not None else trial.intermediate_values.get(trial.last_step or 0)
        found[name or str(trial.number)] = Trialled(trial.number, state, score, name, trial.params, error)
    complete = [trial for trial in found.values() if trial.state == "complete" and trial.score is not None]
    best = max(complete, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)
    options = space.drawn(_Fixed(best.values))[0] if best else None
    return Tuned(folder, tuple(found.values()), best, options)


class _Fixed:
    """Suggests the values of a trial."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        del low, high, log
        return self.values[name]

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        del choices
        return self.values[name]
