"""The verb that finds better values for a training: tune."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError, not_installed

if TYPE_CHECKING:
    from crossstage.training import TrainOptions


def declare(parser: Parser) -> None:
    """Declare the arguments of tune."""
    parser.option("data", 'The dataset, see "crossstage data check --help".', required=True)
    parser.several(
        "model", "Where to start, as for train; of several, the best is found. By default the plan's.", commas=False
    )
    parser.several("imgsz", "Sides of the input in pixels to choose from; by default around the plan's.", int)
    parser.option("max_gflops", "Networks that cost more for an image, in GFLOPs as of profile, are left out.", float)
    parser.option("trials", "Trainings in all, those of earlier calls included.", int, 20)
    parser.option(
        "minutes",
        "Time for all trials, measurements included, an equal part for each; it chooses their epochs unless --epochs "
        "says them.",
        float,
    )
    parser.option("epochs", "Epochs of each training; by default the plan's.", int)
    parser.option("batch", "Images in an optimisation step; by default the plan's.", int)
    parser.option("config", "A YAML file or recipe with other options of all trainings, as for train.")
    parser.option("seed", "Decides which values are tried, and all that is random in the trainings.", int, 0)
    parser.option("name", "Folder of the study, in --out; by default the name of the data.")
    parser.option("out", "Where studies lie. The same command goes on where it was interrupted.", default="runs/tune")


def run(given: Namespace) -> int:
    """Try values, and print and write how they compare."""
    from crossstage.training import Interrupted
    from crossstage.training.facts import read_data
    from crossstage.tuning import space_of, tune
    from crossstage.tuning.results import print_results, save_results

    if given.trials < 1 or (given.minutes is not None and not given.minutes > 0):
        raise ConfigError(f"trials={given.trials}, minutes={given.minutes}; expected at least 1, and more than 0")
    if find_spec("optuna") is None:
        raise not_installed("optuna", "tune")  # before the data are read
    base = _base(given)
    folder = Path(given.out) / (given.name or _name(given.data))
    out = console(stderr=True, quiet=given.quiet)

    def tell(line: str) -> None:
        out.print(line, markup=False, highlight=False, soft_wrap=True)

    data = read_data(base, progress=not given.quiet)
    space = space_of(base, data, models=given.model or (), sizes=given.imgsz or (), max_gflops=given.max_gflops)
    networks = ", ".join(network.name for network in space.networks)
    tell(f"{folder}: {given.trials} trials of {networks}")
    try:
        done = tune(space, folder, trials=given.trials, minutes=given.minutes, seed=given.seed, say=tell)
    except Interrupted as error:
        print(f"{error}; the same command goes on with the study", file=sys.stderr)
        return error.exit_code
    written = save_results(done)
    print_results(done, console())
    say(f"{folder}: {', '.join(written)}")
    return 0


def _base(given: Namespace) -> TrainOptions:
    """Return the options that all trainings have."""
    from crossstage.training import TrainOptions
    from crossstage.training.options import completed
    from crossstage.training.recipe_files import load_recipe

    content = completed(load_recipe(given.config)) if given.config else {}
    own = {"data": given.data, "seed": given.seed, "epochs": given.epochs, "batch": given.batch}
    base = TrainOptions.from_mapping({**content, **{k: v for k, v in own.items() if v is not None}}, "tune")
    if given.minutes is not None and base.epochs is None:
        base = replace(base, minutes=given.minutes / given.trials)
    return base


def _name(data: str) -> str:
    return re.sub(r"[^\w.]+", "_", Path(data.split(",", maxsplit=1)[0]).stem) or "study"


VERB = Verb("Find the learning rate, augmentation, input size and model that suit your images best.", declare, run)
