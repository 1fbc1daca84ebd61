"""What a study leaves behind: the command that trains with the best values, a table, and plots."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import yaml

from crossstage.files import whole_text, write_text
from crossstage.training import TrainOptions
from crossstage.tuning.study import DATABASE, Tuned

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

BEST, TABLE, HISTORY, IMPORTANCES = "best.yaml", "trials.csv", "history.png", "importances.png"
SHOWN = 10  # trials of the table that is printed
ENOUGH = 5  # complete trials, below which nothing tells what mattered


def words_of(options: TrainOptions) -> list[str]:
    """Return the options of a training that differ from the default as words of its command."""
    words: list[str] = []
    for name, value in _stated(options).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            for inner, entry in value.items():
                words += [f"{option}.{inner.replace('_', '-')}", *_texts(entry)]
        elif isinstance(value, bool):
            words.append(f"{option}={str(value).lower()}")
        else:
            words += [option, *_texts(value)]
    return words


def command_of(options: TrainOptions) -> str:
    """Return the command that trains with some options."""
    return shlex.join(["crossstage", "train", *words_of(options)])


def _stated(options: TrainOptions) -> dict[str, Any]:
    """Return the options that differ from the default, but for where the run lies and what follows it."""
    default = TrainOptions()
    values = {entry.name: getattr(options, entry.name) for entry in fields(TrainOptions)}
    own = {name: value for name, value in values.items() if value != getattr(default, name)}
    return {name: _plain(value) for name, value in own.items() if name not in ("out", "name", "logger", "sample_every")}


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        value = {entry.name: getattr(value, entry.name) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items() if entry is not None}
    return list(value) if isinstance(value, tuple) else value


def _texts(value: Any) -> list[str]:
    return [
        f"{each:.6g}" if isinstance(each, float) else str(each)
        for each in (value if isinstance(value, list) else [value])
    ]


def save_results(done: Tuned) -> list[str]:
    """Write the table, the plots and the best options; return the names of the files.

    Raises:
        DataError: A file cannot be written.
    """
    from crossstage.evaluation.plots import save

    names = list(dict.fromkeys(name for trial in done.trials for name in trial.values))
    with whole_text(done.folder / TABLE) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", "score", *names, "error"])
        for trial in done.trials:
            values = [trial.values.get(name, "") for name in names]
            writer.writerow(
                [trial.folder, trial.state, "" if trial.score is None else trial.score, *values, trial.error]
            )
    written = [TABLE]
    if done.options is not None:
        write_text(done.folder / BEST, yaml.safe_dump(_stated(done.options), sort_keys=False, allow_unicode=True))
        save(plot_history(done), done.folder / HISTORY)
        written += [BEST, HISTORY]
    if shares := importances(done):
        save(plot_importances(shares), done.folder / IMPORTANCES)
        written.append(IMPORTANCES)
    return written


def importances(done: Tuned) -> dict[str, float]:
    """Return the share of each value in how the scores differ (PED-ANOVA); nothing if too few trials tell."""
    complete = [trial for trial in done.trials if trial.state == "complete"]
    if len(complete) < ENOUGH or len({trial.score for trial in complete}) < 2:
        return {}
    import optuna

    study = optuna.load_study(study_name=done.folder.name, storage=f"sqlite:///{done.folder.absolute() / DATABASE}")
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def plot_history(done: Tuned) -> Figure:
    """Draw the scores of the trials in their order, and the best so far."""
    from crossstage.evaluation.plots import figure_of

    figure, axes = figure_of(7, 4.4)
    best, line = 0.0, []
    for state, colour in (("complete", "#0072B2"), ("pruned", "#b0b0b0")):
        points = [
            (trial.number, trial.score) for trial in done.trials if trial.state == state and trial.score is not None
        ]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="", marker="o", color=colour, label=state)
    for trial in done.trials:
        if trial.state == "complete" and trial.score is not None:
            best = max(best, trial.score)
            line.append((trial.number, best))
    axes.plot(*zip(*line, strict=True), drawstyle="steps-post", color="#D55E00", label="best so far")
    axes.set(xlabel="trial", ylabel="score", title=done.folder.name)
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    return figure


def plot_importances(shares: Mapping[str, float]) -> Figure:
    """Draw how much each value mattered."""
    from crossstage.evaluation.plots import figure_of

    figure, axes = figure_of(6, 0.5 * len(shares) + 1.4)
    names = sorted(shares, key=lambda name: shares[name])
    axes.barh(names, [shares[name] for name in names], color="#0072B2")
    axes.set(xlabel="share in how the scores differ", xlim=(0, 1))
    return figure


def print_results(done: Tuned, console: Console) -> None:
    """Print the best trials as a table, best first, and the command that trains with the values of the best.

    Args:
        done: The study.
        console: Where to print.
    """
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for trial in done.trials for name in trial.values))
    table = Table("trial", "state", box=None, pad_edge=False)
    for name in ("score", *names):
        table.add_column(name if name in ("score", "network") else f"{name} x", justify="right")
    ranked = sorted(done.trials, key=lambda trial: (trial.state != "complete", -(trial.score or 0.0), trial.number))
    for trial in ranked[:SHOWN]:
        values = [trial.values.get(name, "–") for name in names]
        shown = [value if isinstance(value, str) else f"{value:.3g}" for value in values]
        table.add_row(Text(trial.folder), trial.state, "–" if trial.score is None else f"{trial.score:.4f}", *shown)
    console.print(table)
    if len(ranked) > SHOWN:
        console.print(f"and {len(ranked) - SHOWN} more in {TABLE}", highlight=False)
    if done.options is not None:
        console.print("\ntrain with the best values:", highlight=False)
        console.print(command_of(done.options), markup=False, highlight=False, soft_wrap=True)
