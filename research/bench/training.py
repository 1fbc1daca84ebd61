"""Training: our loop against a bare PyTorch loop, the input pipeline alone, and a classifier against timm's.

    python -m research.bench.training DATA [--rounds N] [--steps N] [--workers N]

DATA is a detection dataset, such as groceries25 or BCCD. The tiny detector at 416, batch 16, mosaic in every image;
the loops take turns on the same batches, which lie in memory. "as usually written" is the bare loop with torch's
default memory order, in a process whose memory allocator is left as it is. cspdarknet53 at 224, batch 8, is trained in
a bare loop for both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor, nn

from crossstage import create_model
from crossstage.data.augment import Augmentation
from crossstage.data.find import find_data
from crossstage.data.loading import Batch, train_loader
from crossstage.data.records import DetectionData
from crossstage.machine import StopRequests
from crossstage.models.composed import ComposedDetector
from crossstage.training.checkpoint import Progress
from crossstage.training.loop import Loop
from crossstage.training.memory import keep_freed_memory
from crossstage.training.options import RunOptions
from crossstage.training.reporting import Reporter
from crossstage.training.schedule import MovingAverage, build_optimizer
from crossstage.training.tasks import DetectionTask
from crossstage.weights.starting import start_model
from research.bench.timing import machine, medians

MODEL, SIZE, BATCH, LR = "cspdarknet53_tiny_yolo.coco", 416, 16, 1e-5
CLASSIFIER, CLASSIFIER_SIZE, CLASSIFIER_BATCH = "cspdarknet53", 224, 8
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Repeated:
    """The same batches, as a loader and as their order."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches
        self.steps = len(batches)
        self.epoch = self.first_step = 0

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def detector(dataset: DetectionData) -> ComposedDetector:
    model = start_model(MODEL, dataset.class_names, imgsz=SIZE).model
    assert isinstance(model, ComposedDetector)
    return model.to(DEVICE)


def loader_of(dataset: DetectionData, workers: int) -> Any:
    preprocessing = start_model(MODEL, ("one",), imgsz=SIZE).spec.preprocessing
    assert preprocessing
    augmentation = Augmentation(mosaic=1.0)
    return train_loader(dataset, preprocessing, augmentation, batch=BATCH, seed=0, epochs=1, workers=workers)[0]


def batches_of(dataset: DetectionData, steps: int) -> list[Batch]:
    found = []
    for batch in loader_of(dataset, 0):
        found.append(batch)
        if len(found) == steps:
            break
    return found


def our_loop(dataset: DetectionData, batches: list[Batch], data: str) -> Callable[[], object]:
    """An epoch of the training loop, with its moving average, clipping and checks."""
    options = RunOptions.plain(MODEL, data, imgsz=SIZE, batch=BATCH, lr=LR, burn_in=0, schedule="constant")
    fabric = Fabric(accelerator="auto", devices=1)
    model = detector(dataset).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    average = MovingAverage(model, options.ema)
    wrapped, optimizer = fabric.setup(model, build_optimizer(model, options))
    repeated: Any = Repeated([_on_device(batch) for batch in batches])
    progress = Progress()
    loop = Loop(
        fabric,
        model=wrapped,
        optimizer=optimizer,
        average=average,
        task=DetectionTask(model, dataset, dataset, options),
        batches=repeated,
        order=repeated,
        val=repeated,
        options=options,
        progress=progress,
        reporter=Reporter(1, silent=True),
        save=lambda: None,
        finished=lambda *_: None,
    )
    stop = StopRequests()

    def epoch() -> None:
        progress.batches = 0
        loop._train(stop)  # pyright: ignore[reportPrivateUsage]

    return epoch


def bare_loop(dataset: DetectionData, batches: list[Batch], memory_format: torch.memory_format) -> Callable[[], object]:
    """The same network and loss, as anyone would write it."""
    model = detector(dataset).to(memory_format=memory_format).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    placed = [_on_device(batch) for batch in batches]

    def epoch() -> None:
        for batch in placed:
            images = batch.images.contiguous(memory_format=memory_format)
            assert not isinstance(batch.targets, Tensor)
            sum(model.loss(images, batch.targets).values(), torch.zeros(())).backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def classifier_step(model: nn.Module) -> Callable[[], object]:
    model = model.to(DEVICE, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    shape = (CLASSIFIER_BATCH, 3, CLASSIFIER_SIZE, CLASSIFIER_SIZE)
    images = torch.rand(shape, device=DEVICE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(1000, (CLASSIFIER_BATCH,), device=DEVICE)

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def pipeline_rate(dataset: DetectionData, workers: int, rounds: int) -> float:
    """Images per second that come out of the loader, its first batches left out; median of some passes."""
    rates = []
    loader = loader_of(dataset, workers)
    for _ in range(rounds):
        images, began = 0, 0.0
        for number, batch in enumerate(loader):
            if number == workers:
                began = time.perf_counter()
            elif number > workers:
                images += len(batch.names)
        rates.append(images / (time.perf_counter() - began))
    return statistics.median(rates)


def _on_device(batch: Batch) -> Batch:
    targets = batch.targets
    assert not isinstance(targets, Tensor)
    moved = {name: part.to(DEVICE) for name, part in targets._asdict().items() if part is not None}
    return batch._replace(images=batch.images.to(DEVICE), targets=targets._replace(**moved))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2, help="in a round")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--usual", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    dataset = find_data(chosen.data).read("train")
    assert isinstance(dataset, DetectionData)
    batches, images = batches_of(dataset, chosen.steps), BATCH * chosen.steps
    if chosen.usual:
        run = bare_loop(dataset, batches, torch.contiguous_format)
        print(json.dumps(images / medians({"": run}, chosen.rounds, warm_up=1)[""] * 1e3))
        return
    command = [sys.executable, "-m", "research.bench.training", *sys.argv[1:], "--usual"]
    usual = float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    keep_freed_memory()
    runs = {
        "our loop": our_loop(dataset, batches, chosen.data),
        "bare loop": bare_loop(dataset, batches, torch.channels_last),
    }
    rates = {name: images / ms * 1e3 for name, ms in medians(runs, chosen.rounds, warm_up=1).items()}
    pipeline = pipeline_rate(dataset, chosen.workers, 3)
    mine, theirs = create_model(CLASSIFIER, num_classes=1000), timm.create_model(CLASSIFIER)
    steps = {"ours": classifier_step(mine), "timm's": classifier_step(theirs)}
    classifiers = medians(steps, chosen.rounds, warm_up=1)
    print(f"{machine()}; {chosen.rounds} rounds\n")
    print(f"| {MODEL} at {SIZE}, batch {BATCH} | images/s | our loop over it |\n|---|---|---|")
    ours = rates["our loop"]
    for name, rate in (*rates.items(), ("bare loop as usually written", usual)):
        print(f"| {name} | {rate:.2f} | {ours / rate:.3f} |")
    print(f"| input pipeline, {chosen.workers} workers, mosaic | {pipeline:.1f} | {ours / pipeline:.3f} |")
    print(f"\nloop overhead {100 * (rates['bare loop'] / ours - 1):.1f} %; pipeline over step {pipeline / ours:.2f}\n")
    print(f"| {CLASSIFIER} at {CLASSIFIER_SIZE}, batch {CLASSIFIER_BATCH} | images/s |\n|---|---|")
    for name, ms in classifiers.items():
        print(f"| {name} | {CLASSIFIER_BATCH / ms * 1e3:.2f} |")


if __name__ == "__main__":
    main()
