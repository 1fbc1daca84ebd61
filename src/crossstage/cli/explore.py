"""The verb that compares cross stage partial variants of a network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crossstage.cli.console import console


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
        batch: Images in an optimisation step.
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
    found.save_all(folder)
    if training:
        try:
            found = room.with_accuracy(found, training, each=lambda known: known.save_all(folder))
        except Interrupted as error:
            print(f"{error}, or with the rest of {folder} by the same command", file=sys.stderr)
            return error.exit_code
    room.print_exploration(found, console())
    written = f"{folder}: explore.json, explore.csv, explore.png"
    console().print(written, highlight=False, markup=False, soft_wrap=True)
    return 0
