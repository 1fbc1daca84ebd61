"""The trainings of research/studies/gradients.py: small networks whose gradients are compared before and after."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage import Partial, create_model
from crossstage.analysis import gradient_similarity
from crossstage.data.find import find_data
from crossstage.data.loading import ValImages
from crossstage.data.records import ClassificationData
from crossstage.files import write_text
from crossstage.machine import cores
from crossstage.nn.partial import SplitKind
from crossstage.structures import Preprocessing

SIDE = 64  # of the images, in pixels
LEARNED, MEASURED = 200, 50  # images of each class
TOGETHER = 125  # images of a batch that is measured
EPOCHS, BATCH, RATE = 4, 32, 0.05
VARIANTS = ("plain", "first", "last", "both")


@dataclass(frozen=True)
class Family:
    """Networks that differ in nothing but how their stages are made partial.

    Attributes:
        title: What to call them.
        model: The row that they come from.
        split: How the parts are taken.
        shown: What they are.
        settings: Other fields of the row.
    """

    title: str
    model: str
    split: SplitKind
    shown: str
    settings: dict[str, Any] = field(default_factory=dict, hash=False)

    def build(self, variant: str) -> nn.Module:
        """A network for ten classes."""
        partial = None if variant == "plain" else Partial(0.5, variant, self.split)  # pyright: ignore[reportArgumentType]
        return create_model(self.model, 10, partial=partial, **self.settings)


FAMILIES = (
    Family(
        "PeleeNet",
        "csppeleenet",
        "project",
        "half of PeleeNet's growth and stem, its depths of 3, 4, 8 and 6, the split by 1x1 convolutions; as in the "
        "released networks, `partial` also decides which 1x1 convolutions the stem has",
        {"depths": (3, 4, 8, 6), "growth": 16, "stem": 16, "dropout": 0.0},
    ),
    Family(
        "DenseNet",
        "cspdensenet121",
        "slice",
        "DenseNet-BC with depths of 4, 6, 8 and 6, growth 16 and a stem of 32, the split by a slice",
        {"depths": (4, 6, 8, 6), "growth": 16, "stem": 32},
    ),
)


def run_all(data: Path, out: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """The results of all trainings; those that are in ``out`` already are read."""
    wanted = [(family, variant, seed) for seed in seeds for family in FAMILIES for variant in VARIANTS]
    files = {key: out / f"{key[0].model}_{key[1]}_s{key[2]}.json" for key in wanted}
    missing = [key for key in wanted if not files[key].is_file()]
    context = multiprocessing.get_context("spawn")
    # Networks as small as these run best with a thread for each.
    with ProcessPoolExecutor(cores(), context, torch.set_num_threads, (1,)) as pool:
        futures = {key: pool.submit(run, str(data), *key, files[key]) for key in missing}
        for (family, variant, seed), future in futures.items():
            future.result()
            print(f"{family.title} {variant}, seed {seed}: done", flush=True)
    return [json.loads(files[key].read_text()) for key in wanted]


def run(data: str, family: Family, variant: str, seed: int, file: Path) -> None:
    """Train one network and write how alike its gradients are before and after, and its accuracy."""
    learned, measured = images(data, "train", LEARNED), images(data, "val", MEASURED)
    torch.manual_seed(seed)
    model = family.build(variant).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    before = similarities(model, measured)
    train(model, *learned, seed)
    result = {
        "family": family.title,
        "variant": variant,
        "seed": seed,
        "before": before,
        "after": similarities(model, measured),
        "top1": accuracy(model, *measured),
    }
    write_text(file, json.dumps(result))


@cache
def images(data: str, part: str, each: int) -> tuple[Tensor, Tensor]:
    """The first images of each class, ``(N, 3, SIDE, SIDE)`` about zero, and their labels."""
    dataset = find_data(data).read(part)
    assert isinstance(dataset, ClassificationData)
    labels = torch.from_numpy(dataset.labels)
    chosen = torch.cat([(labels == label).nonzero()[:each, 0] for label in range(len(dataset.class_names))])
    scored = ValImages(dataset, Preprocessing((SIDE, SIDE), "stretch"))
    images = torch.stack([scored[int(index)][0] for index in chosen])
    return ((images - 0.45) / 0.25).contiguous(memory_format=torch.channels_last), labels[chosen]


def train(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> None:
    """SGD with a learning rate that falls as a cosine, and images flipped at random."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    model.train()
    for _ in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: steps // EPOCHS * BATCH].split(BATCH):
            batch = images[chosen]
            flipped = torch.rand(BATCH, generator=generator) < 0.5
            batch[flipped] = batch[flipped].flip(3)
            optimizer.zero_grad()
            F.cross_entropy(model(batch), labels[chosen]).backward()
            optimizer.step()
            schedule.step()


def similarities(model: nn.Module, measured: tuple[Tensor, Tensor]) -> list[dict[str, Any]]:
    """How alike the gradients of each stage are, in training mode, on batches of all classes."""
    images, labels = measured
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    batches = [(images[chosen], labels[chosen]) for chosen in order.split(TOGETHER)]
    found = gradient_similarity(deepcopy(model).train(), batches)
    return [
        {"names": stage.names, "cka": stage.cka.tolist(), "overlap": stage.overlap.tolist()} for stage in found.values()
    ]


@torch.inference_mode()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 in percent."""
    model.eval()
    found = torch.cat([model(batch).argmax(1) for batch in images.split(TOGETHER)])
    return 100 * (found == labels).float().mean().item()
