"""A page on some runs of one dataset, side by side, from what they left behind.

    python -m research.pages.results NAME "TITLE" LABEL=RUN [LABEL=RUN ...] > docs/results/NAME.md

copies their curves and figures to docs/results/NAME/, and with --samples their sample predictions, where the images'
licence allows it.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path

from crossstage.data.augment import Augmentation
from crossstage.training import TrainOptions
from crossstage.training.options import METHOD
from research.bench.timing import machine
from research.places import RESULTS

KEPT = ("curves.png", "confusion.png", "pr_curve.png", "metrics.csv", "per_class.csv")


def planned(run: Path) -> set[str]:
    """The options of a run that nobody gave; none for runs of version 0.1.0."""
    table = run / "plan.json"
    return {row["option"] for row in json.loads(table.read_text())} if table.is_file() else set()


def command(options: TrainOptions, left_open: Collection[str] = ()) -> str:
    """The command line of a run: what was given and differs from the defaults of 0.1.0."""
    path = Path(options.data)
    data = f"{path.parent.name}/coco" if path.name == "coco" else path.name
    words = ["crossstage train", f"--model {options.model}", f"--data {data}"]
    usual = {**METHOD, "epochs": 100, "batch": 16, "val_every": 1}
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name == "loss":
            words += [f"--loss.{name.replace('_', '-')} {given}" for name, given in value.items()]
        elif field.name == "augment":
            given = [part.name for part in fields(value) if f"augment.{part.name}" not in left_open]
            changed = [name for name in given if getattr(value, name) != getattr(Augmentation(), name)]
            words += [f"--{field.name}.{name.replace('_', '-')} {getattr(value, name)}" for name in changed]
        elif field.name == "plain_loss":
            words += [f"--plain-loss.{name.replace('_', '-')} {given}" for name, given in value.items()]
        elif field.name not in ("model", "data", *left_open) and value != usual.get(field.name, field.default):
            words.append(f"--{field.name.replace('_', '-')} {value}")
    return " ".join(words)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def best_row(run: Path) -> dict[str, str]:
    history = rows(run / "metrics.csv")
    return max(history, key=lambda row: float(row.get("AP") or row.get("top1") or 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("title")
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    chosen = parser.parse_args()
    runs = {label: Path(run) for label, _, run in (entry.partition("=") for entry in chosen.runs)}
    print(f"# {chosen.title}\n\nOne seed each; {machine()}.\n")
    first = best_row(next(iter(runs.values())))
    names = [name for name in first if name.startswith(("AP", "top"))]
    print("| | best epoch | " + " | ".join(names) + " |\n" + "|---" * (2 + len(names)) + "|")
    for label, run in runs.items():
        best = best_row(run)
        epochs = TrainOptions.from_yaml(run / "config.yaml").epochs
        figures = " | ".join(f"{100 * float(best[name]):.1f}" for name in names)
        print(f"| {label} | {best['epoch']} of {epochs} | {figures} |")
    print("\nBy class, best weights:\n")
    tables = {label: rows(run / "per_class.csv") for label, run in runs.items()}
    kept = [name for name in next(iter(tables.values()))[0] if name in ("AP", "AP50", "recall", "precision")]
    heads = [f"{name}, {label}" for label in runs for name in kept]
    print("| class | " + " | ".join(heads) + " |\n" + "|---" * (1 + len(heads)) + "|")
    for number, row in enumerate(next(iter(tables.values()))):
        print(f"| {row['class']} | " + " | ".join(t[number][n] or "–" for t in tables.values() for n in kept) + " |")
    for label, run in runs.items():
        target = RESULTS / chosen.name / run.name
        target.mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            if (run / file).is_file():
                shutil.copy(run / file, target / file)
        if chosen.samples:
            shutil.copy(run / "samples" / "best.jpg", target / "samples.jpg")
        card = (run / "README.md").read_text()
        trained = card[card.index("Trained in ") :].split("\n\n")[0].replace("\n", " ")
        place = f"{chosen.name}/{run.name}"
        print(
            f"\n## {label}\n\n    {command(TrainOptions.from_yaml(run / 'config.yaml'), planned(run))}\n\n{trained}\n"
        )
        print(f"![Losses, scores and learning rate by epoch]({place}/curves.png)\n")
        print(f"![What is taken for what]({place}/confusion.png)\n")
        print(
            f"[Figures by epoch]({place}/metrics.csv)" + f", [sample predictions]({place}/samples.jpg)" * chosen.samples
        )


if __name__ == "__main__":
    main()
