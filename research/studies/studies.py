"""A study from the command line: plan the epochs to fill the time, gather the runs, compare them over the seeds.

All networks are trained with the first seed, then with the next, so that what is complete at the deadline can be
compared.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import fmean, variance
from time import monotonic
from typing import Any

import torch
from torch import nn

from crossstage.errors import DataError
from crossstage.files import write_text
from research.bench.timing import machine
from research.bench.workers import Failure, Worker, end, heard, start
from research.places import CLAIMS
from research.studies.study import Network, Recipe, read_part, work

MEASURED_STEPS = {"cuda": 150, "cpu": 1}  # from which the seconds of an epoch are foretold
FILLED = 0.88  # share of the time left that the epochs are planned to fill
GRACE = 8.0  # seconds that are kept at the end for the last epoch and the results


@dataclass(frozen=True)
class Study:
    """What is compared, and how.

    Attributes:
        name: Of its script and its page.
        networks: What is compared, the first of which is the others' measure.
        recipe: How all are trained.
        workers: Processes on a GPU.
        also: What else to tell of a trained network.
    """

    name: str
    networks: Sequence[Network]
    recipe: Recipe
    workers: int
    also: Callable[[nn.Module], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Summary:
    """A network's accuracy over the seeds, in percent.

    Attributes:
        mean: Of the last epoch.
        deviation: Standard deviation over the seeds; NaN for a single one.
        seeds: How many runs are complete.
    """

    mean: float
    deviation: float
    seeds: int


def run(study: Study, chosen: argparse.Namespace) -> dict[str, Any]:
    """Train within the time and write what is known after every run; see :func:`main` for the options."""
    began = monotonic()
    deadline = began + chosen.seconds - GRACE
    device = "cuda" if torch.cuda.is_available() else "cpu"
    count = study.workers if device == "cuda" else 1
    shares = [study.networks[index::count] for index in range(count)]
    workers = [start(f"worker {i}", work, share, study.recipe, device, study.also) for i, share in enumerate(shares)]
    results: dict[str, Any] = {
        "study": study.name,
        "machine": machine(),
        "date": date.today().isoformat(),
        "recipe": asdict(study.recipe),
        "failures": {},
        "runs": [],
    }

    def tell(text: str) -> None:
        print(f"{monotonic() - began:6.1f} s  {text}", flush=True)

    def await_all(word: str, until: float) -> None:
        """Listen until every worker that lives has said the word."""
        waiting = [worker for worker in workers if not worker.failure]
        for worker, message in heard(waiting, until):
            if isinstance(message, dict):
                _note(results, message, tell)
                write_text(chosen.out, json.dumps(results, indent=1) + "\n")
            elif isinstance(message, Failure):
                results["failures"][worker.name] = message.why
                tell(f"{worker.name} failed: {message.why}")
            if message == word or isinstance(message, Failure):
                waiting.remove(worker)
            if not waiting:
                return
        tell(f"no {word!r} of {', '.join(worker.name for worker in waiting)}")

    try:
        train, names = read_part(chosen.data, "train", chosen.images)
        test, _ = read_part(chosen.data, "test", chosen.images)
        learned, scored = len(train[1]), len(test[1])
        tell(f"{learned} images to learn from, {scored} to measure on")
        _tell_all(workers, (train, test, len(names)))
        await_all("ready", deadline)
        steps = learned // study.recipe.batch
        if not steps:
            raise DataError(f"{chosen.data}: {learned} images; expected at least a batch of {study.recipe.batch}")
        epochs = chosen.epochs
        measured = min(MEASURED_STEPS[device], steps) if epochs is None else 0
        since = monotonic()
        _tell_all(workers, measured)
        await_all("measured", deadline)
        if epochs is None:
            epoch_seconds = (monotonic() - since) * steps / measured * (1 + scored / learned / 3)
            epochs = max(1, int(FILLED * (deadline - monotonic()) / (epoch_seconds * chosen.seeds)))
        tell(f"{epochs} epochs, {chosen.seeds} seeds")
        results |= {"epochs": epochs, "seeds": chosen.seeds, "images": learned}
        _tell_all(workers, (epochs, range(chosen.seeds), deadline))
        await_all("done", deadline + GRACE - 1)
    finally:
        end(workers)
    results["seconds"] = monotonic() - began
    write_text(chosen.out, json.dumps(results, indent=1) + "\n")
    return results


def _tell_all(workers: Sequence[Worker], message: Any) -> None:
    for worker in workers:
        worker.tell(message)


def _note(results: dict[str, Any], message: dict[str, Any], tell: Callable[[str], None]) -> None:
    if "failed" in message:
        results["failures"][message["failed"]] = message["why"]
        tell(f"{message['failed']} failed: {message['why']}")
    elif "built" in message:
        tell(
            f"{message['built']} is ready"
            + (f", not recorded: {message['unrecorded']}" if message["unrecorded"] else "")
        )
    else:
        results["runs"].append(message)
        last = f"{100 * message['accuracy'][-1]:.2f} %" if message["accuracy"] else "nothing"
        tell(f"{message['label']}, seed {message['seed']}: {last} after {len(message['accuracy'])} epochs")


def summaries(results: Mapping[str, Any]) -> dict[str, Summary]:
    """Of each network that has a complete run."""
    found: dict[str, list[float]] = {}
    for entry in results["runs"]:
        if len(entry["accuracy"]) == results["epochs"]:
            found.setdefault(entry["label"], []).append(100 * entry["accuracy"][-1])
    return {
        label: Summary(fmean(scores), math.sqrt(variance(scores)) if len(scores) > 1 else math.nan, len(scores))
        for label, scores in found.items()
    }


def noise(found: Mapping[str, Summary]) -> float:
    """Standard deviation over seeds, pooled over the networks, in percentage points; NaN with one seed."""
    several = [summary for summary in found.values() if summary.seeds > 1]
    freedom = sum(summary.seeds - 1 for summary in several)
    if not freedom:
        return math.nan
    return math.sqrt(sum((summary.seeds - 1) * summary.deviation**2 for summary in several) / freedom)


def standard_error(one: Summary, other: Summary, spread: float) -> float:
    """Of the difference of two means, from the pooled spread."""
    return spread * math.sqrt(1 / one.seeds + 1 / other.seeds)


def spread_told(spread: float) -> str:
    """What "beyond the spread" means, in sentences."""
    return (
        f"Over seeds a network's accuracy varies by {spread:.2f} points (standard deviation, pooled over "
        "the networks). A difference is beyond the spread if it exceeds two standard errors of a difference of means."
    )


def conditions(results: Mapping[str, Any]) -> str:
    """What was trained, how long and where, in sentences."""
    recipe = results["recipe"]
    complete = sum(summary.seeds for summary in summaries(results).values())
    failed = "".join(f" {label} is missing: {why}." for label, why in results["failures"].items())
    enlarged = f", enlarged {recipe['enlarge']} times" if recipe["enlarge"] > 1 else ""
    return (
        f"{results['epochs']} epochs over {results['images']:,} images of CIFAR-10{enlarged}, {results['seeds']} "
        f"seeds; {results['machine']}, {results['date']}, {results['seconds']:.0f} s in all; {complete} runs are "
        f"complete. This is a short schedule. SGD with Nesterov momentum {recipe['momentum']}, weight decay "
        f"{recipe['weight_decay']}, batch {recipe['batch']}; the rate rises linearly to {recipe['peak_lr']} in the "
        f"first {recipe['warm_up']:.0%} of the steps and falls linearly to 0; label smoothing "
        f"{recipe['label_smoothing']}; images are shifted by up to 4 pixels and mirrored. Runs of one seed see the "
        f"same images in the same order.{failed}"
    )


def main(study: Study, report: Callable[[dict[str, Any], Path], None], argv: Sequence[str] | None = None) -> None:
    """The command line of a study.

    Args:
        study: What is compared.
        report: Prints a page on results; is given the folder of the documents too, for what goes beside it.
        argv: Words of the command line; None takes the program's.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run", help="train, and write results")
    running.add_argument("--data", type=Path, required=True, help="CIFAR-10, or the like, with parts train and test")
    running.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    running.add_argument(
        "--seconds", type=float, default=3600.0, help="for everything; the epochs are planned to fill it"
    )
    running.add_argument("--seeds", type=int, default=3)
    running.add_argument("--epochs", type=int, help="instead of what fills the time")
    running.add_argument("--images", type=int, help="of each part, instead of all")
    reporting = verbs.add_parser("report", help="print a page on results")
    reporting.add_argument("results", type=Path)
    reporting.add_argument("--docs", type=Path, default=CLAIMS)
    chosen = parser.parse_args(argv)
    results = run(study, chosen) if chosen.verb == "run" else json.loads(chosen.results.read_text())
    if chosen.verb == "report":
        write_text(chosen.docs / f"{study.name}.json", json.dumps(results, indent=1) + "\n")
        report(results, chosen.docs)
        return
    for label, summary in summaries(results).items():
        print(f"{label:28} {summary.mean:6.2f} +- {summary.deviation:.2f} %, {summary.seeds} seeds")
