"""The verb that compares cross stage partial variants of a network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crossstage.cli.console import console
from crossstage.cli.console import table as make_table

if TYPE_CHECKING:
    from crossstage.explore import Exploration


def explore(
    *,
    backbone: str,
    gamma: Sequence[float] = (0.25, 0.5, 0.75),
    fusion: Sequence[Literal["none", "first", "last", "both"]] = ("first", "last", "both"),
    split: Sequence[Literal["project", "slice"]] = ("project",),
    imgsz: int | None = None,
    runtime: Sequence[str] = ("torch",),
    rounds: int = 30,
    threads: int | None = None,
    train: str | None = None,
    epochs: int = 10,
    batch: int = 64,
    seed: int = 0,
    out: str | None = None,
) -> int:
    """Compare the cross stage partial variants of a network: costs, latency and accuracy, with their Pareto fronts.

    Args:
        backbone: A classifier of "crossstage models", or a detector, whose backbone is varied.
        gamma: Shares of the channels that are carried past the blocks.
        fusion: Where the parts are fused.
        split: How they are taken.
        imgsz: Side of the input in pixels; by default the published one.
        runtime: What runs the networks to time them.
        rounds: Timed passes of each.
        threads: For each runtime; by default all cores.
        train: Data to train each network on, see "crossstage data check --help"; by default none is trained.
        epochs: Of each training.
        batch: Pictures in an optimisation step.
        seed: Of each training.
        out: Folder for explore.json, explore.csv, explore.png, and a folder for each training; by default
            runs/explore and the network's name. The same command goes on where it was interrupted.
    """
    from rich.progress import Progress

    from crossstage import explore as room
    from crossstage.training import Interrupted, TrainOptions

    folder = Path(out or f"runs/explore/{backbone}")
    training = None
    if train is not None:
        training = TrainOptions(backbone, train, epochs=epochs, batch=batch, seed=seed, out=str(folder), sample_every=0)
    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(backbone)
        found = room.explore(
            backbone,
            gammas=gamma,
            fusions=fusion,
            splits=split,
            num_classes=room.classes_in(training) if training else None,
            imgsz=imgsz,
            runtimes=[name for entry in runtime for name in entry.split(",")],
            rounds=rounds,
            threads=threads,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    _save(found, folder)
    if training:
        try:
            found = room.with_accuracy(found, training, each=lambda known: _save(known, folder))
        except Interrupted as error:
            print(f"{error}, or with the rest of {folder} by the same command", file=sys.stderr)
            return error.exit_code
    _print(found)
    written = f"{folder}: explore.json, explore.csv, explore.png"
    console().print(written, highlight=False, markup=False, soft_wrap=True)
    return 0


def _save(found: Exploration, folder: Path) -> None:
    for suffix in ("json", "csv", "png"):
        found.save(folder / f"explore.{suffix}")


def _print(found: Exploration) -> None:
    """A table with each value and its change from the plain network's, a mark on the front, and what is missing."""
    measures = found.measures
    first, second = found.trade_offs[0]
    on_front = found.front(first, second)
    table = make_table("", "", *(measure.title for measure in measures), numbers=len(measures))
    for row in found.rows:
        cells = []
        for measure in measures:
            value, ratio = measure.of(row), found.ratio(row, measure)
            told = "-" if value is None else f"{value:.{measure.decimals}f}"
            cells.append(told if ratio is None or row is found.rows[0] else f"{told} {ratio - 1:+4.0%}")
        table.add_row("*" if row in on_front else "", row.name, *cells)
    told = [f"* no other network is better in both {first.title} and {second.title}"]
    told += [f"{row.name}: no {what}: {why}" for row in found.rows for what, why in row.missing.items()]
    told.append(
        f"{found.backbone} at {found.size} x {found.size}, {found.classes} classes, one picture at a time; "
        f"traffic and memory of float32; {found.machine}, {found.threads} threads"
    )
    if found.training:
        told.append(f"trained on {found.training}")
    console().print(table)
    console().print("\n".join(told), markup=False, highlight=False, soft_wrap=True)
