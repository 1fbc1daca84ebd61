"""Small networks trained alike on one device, as steps that a GPU replays: the training behind ablation.py and osa.py.

The images lie on the device and are drawn, shifted and mirrored there, so that a training step needs nothing from
outside: on a GPU it is recorded once as a CUDA graph and replayed, with one network's step beside another's on streams
of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage import CrossStageError, create_model
from crossstage.data.find import find_data
from crossstage.data.records import ClassificationData
from crossstage.inference.images import load_image
from research.bench.workers import Link, reason

PAD = 4  # pixels by which an image may be shifted


@dataclass(frozen=True)
class Network:
    """One of the networks compared.

    Attributes:
        label: What it is called in tables.
        name: Our name of it.
        settings: What differs from our network's row.
    """

    label: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, classes: int, device: str | torch.device = "cpu") -> nn.Module:
        """The network as initialised."""
        with torch.device(device):
            model = create_model(self.name, num_classes=classes, **self.settings)
        assert isinstance(model, nn.Module)
        return model


@dataclass(frozen=True)
class Recipe:
    """How all of a study's networks are trained.

    Attributes:
        enlarge: Factor by which the images are enlarged, for networks whose strides need it.
        batch: Images of a step.
        peak_lr: Learning rate at the end of the warm-up; it rises and falls linearly.
        warm_up: Share of the steps in which it rises.
    """

    enlarge: int = 1
    batch: int = 256
    peak_lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    warm_up: float = 0.2


@dataclass(frozen=True)
class Part:
    """Images ``(N, H, W, 3)`` uint8 and labels ``(N,)`` on one device."""

    images: Tensor
    labels: Tensor

    def padded(self) -> Part:
        """With a black frame, within which images are shifted."""
        return Part(F.pad(self.images, (0, 0, PAD, PAD, PAD, PAD)), self.labels)


Arrays = tuple[np.ndarray, np.ndarray]  # images and labels, as they travel between processes


def read_part(path: Path, split: str, limit: int | None) -> tuple[Arrays, tuple[str, ...]]:
    """Decode the first ``limit`` images of a part of a dataset; also its class names."""
    data = find_data(path).read(split)
    assert isinstance(data, ClassificationData)
    count = min(limit or len(data.labels), len(data.labels))
    return (
        np.stack([load_image(data.images[index]) for index in range(count)]),
        data.labels[:count],
    ), data.class_names


class Training:
    """A network's training step and test, as functions without arguments.

    Args:
        network: What is trained.
        train: Images to learn from, padded, at least a batch of them.
        test: Images to measure on.
        classes: Number of classes.
        recipe: How it is trained.
    """

    def __init__(self, network: Network, train: Part, test: Part, classes: int, recipe: Recipe) -> None:
        self.network, self.train, self.test, self.classes, self.recipe = network, train, test, classes, recipe
        self.device = device = train.labels.device
        self.side = train.images.shape[1] - 2 * PAD
        self.steps = len(train.labels) // recipe.batch
        self.test_batch = max(n for n in range(1, min(1000, len(test.labels)) + 1) if len(test.labels) % n == 0)
        pixels = train.images[:5000, PAD:-PAD, PAD:-PAD].double() / 255
        self.mean, self.std = pixels.mean((0, 1, 2)).float(), pixels.std((0, 1, 2)).float()

        to: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
        self.model = network.build(classes).to(**to)
        self.lr = torch.zeros((), device=device)
        self.optimiser = torch.optim.SGD(
            self.model.parameters(),
            lr=self.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
            fused=True,  # reads the learning rate where it lies
        )
        # What an epoch is made of; replays read it at these places.
        self.number = torch.zeros(1, dtype=torch.long, device=device)
        self.order = torch.arange(len(train.labels), device=device)
        self.shifts = torch.zeros(2, len(train.labels), dtype=torch.long, device=device)
        self.mirrored = torch.zeros(len(train.labels), dtype=torch.bool, device=device)
        self.rates = torch.zeros(self.steps, device=device)
        self.loss = torch.zeros((), device=device)
        self.correct = torch.zeros((), dtype=torch.long, device=device)
        self.stream = torch.cuda.Stream() if device.type == "cuda" else None
        self.train_step: Callable[[], None] = self._train_step
        self.test_step: Callable[[], None] = self._test_step

    def record(self) -> str:
        """Make graphs of the two functions; returns why there are none, or nothing."""
        if self.stream is None:
            return ""
        steps = (self._train_step, self._test_step)
        torch.cuda.synchronize()  # what they read was written on another stream
        with torch.cuda.stream(self.stream):
            for step in steps * 3:
                self.number.zero_()
                step()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graphs: list[torch.cuda.CUDAGraph] = []
        try:
            for step in steps:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self.stream):
                    step()
                graphs.append(graph)
        except RuntimeError as error:
            torch.cuda.synchronize()
            return reason(error)
        self.train_step, self.test_step = (graph.replay for graph in graphs)
        return ""

    def begin(self, seed: int) -> None:
        """Draw new weights, in place."""
        torch.manual_seed(seed)
        self.model.load_state_dict(self.network.build(self.classes).state_dict())
        for state in self.optimiser.state.values():
            state["momentum_buffer"].zero_()

    def begin_epoch(self, seed: int, epoch: int, epochs: int) -> None:
        """Draw an epoch's order, shifts and mirrorings, a function of seed and epoch alone, and set its rates."""
        random = torch.Generator().manual_seed(1000 * seed + epoch)
        count, steps = len(self.train.labels), self.steps
        self.order.copy_(torch.randperm(count, generator=random))
        self.shifts.copy_(torch.randint(0, 2 * PAD + 1, (2, count), generator=random))
        self.mirrored.copy_(torch.rand(count, generator=random) < 0.5)
        progress = (epoch * steps + torch.arange(steps) + 1) / (epochs * steps + 1)
        rising, falling = progress / self.recipe.warm_up, (1 - progress) / (1 - self.recipe.warm_up)
        self.rates.copy_(self.recipe.peak_lr * torch.minimum(rising, falling))
        self.number.zero_()
        self.loss.zero_()

    def begin_test(self) -> None:
        """Start to count."""
        self.number.zero_()
        self.correct.zero_()

    def _prepared(self, images: Tensor) -> Tensor:
        """``(B, H, W, 3)`` uint8 to ``(B, 3, H', W')`` in channels-last order."""
        images = ((images.float() / 255 - self.mean) / self.std).permute(0, 3, 1, 2)
        if self.recipe.enlarge > 1:
            images = F.interpolate(images, scale_factor=self.recipe.enlarge, mode="bilinear")
        return images.contiguous(memory_format=torch.channels_last)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.stream is not None):
            return self.model(images).float()

    def _train_step(self) -> None:
        batch = self.recipe.batch
        places = self.number * batch + torch.arange(batch, device=self.device)
        chosen = self.order[places]
        along = torch.arange(self.side, device=self.device)
        rows = self.shifts[0, places, None] + along
        columns = self.shifts[1, places, None] + torch.where(self.mirrored[places, None], self.side - 1 - along, along)
        images = self._prepared(self.train.images[chosen[:, None, None], rows[:, :, None], columns[:, None, :]])
        self.lr.copy_(self.rates[self.number].squeeze(0))
        self.model.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss = F.cross_entropy(
            self._logits(images), self.train.labels[chosen], label_smoothing=self.recipe.label_smoothing
        )
        loss.backward()
        self.optimiser.step()
        self.loss.add_(loss.detach())
        self.number.add_(1)

    @torch.no_grad()
    def _test_step(self) -> None:
        places = self.number * self.test_batch + torch.arange(self.test_batch, device=self.device)
        self.model.eval()
        guesses = self._logits(self._prepared(self.test.images[places])).argmax(1)
        self.correct.add_((guesses == self.test.labels[places]).sum())
        self.number.add_(1)


def advance(trainings: Sequence[Training], what: Callable[[Training], object], times: int = 1) -> None:
    """Do something with every training, each on its own stream, so many times in turns."""
    for _ in range(times):
        for training in trainings:
            with torch.cuda.stream(training.stream):  # pyright: ignore[reportArgumentType] (None changes nothing)
                what(training)


def train_seed(trainings: Sequence[Training], seed: int, epochs: int, deadline: float) -> Iterator[dict[str, Any]]:
    """Train all from new weights, and tell of each.

    Args:
        trainings: At least one; all of the same data and recipe.
        seed: Of weights and images.
        epochs: Passes over the training images.
        deadline: No epoch begins after it, in seconds of :func:`time.monotonic`.

    Yields:
        Label, seed, accuracy on the test images and mean loss after each epoch, and seconds until the last of all.
    """
    began = monotonic()
    shown = {t.network.label: {"label": t.network.label, "seed": seed, "accuracy": [], "loss": []} for t in trainings}

    def note(training: Training) -> None:
        entry = shown[training.network.label]
        entry["accuracy"].append(training.correct.item() / len(training.test.labels))
        entry["loss"].append(training.loss.item() / training.steps)

    first = trainings[0]
    advance(trainings, lambda training: training.begin(seed))
    for epoch in range(epochs):
        if monotonic() > deadline:
            break
        advance(trainings, lambda training, epoch=epoch: training.begin_epoch(seed, epoch, epochs))
        advance(trainings, lambda training: training.train_step(), first.steps)
        advance(trainings, Training.begin_test)
        advance(trainings, lambda training: training.test_step(), len(first.test.labels) // first.test_batch)
        advance(trainings, note)
    for training in trainings:
        yield shown[training.network.label] | {"seconds": monotonic() - began}


def work(
    link: Link,
    networks: Sequence[Network],
    recipe: Recipe,
    device: str,
    also: Callable[[nn.Module], Mapping[str, Any]] | None,
) -> None:
    """A process that trains some networks side by side, on request.

    It is sent training images, test images and the number of classes, and tells of each network that it is built;
    then a number of steps to be measured; then epochs, seeds and deadline, and tells of each run.
    """
    if device == "cpu":
        torch.set_num_threads(1)
    *arrays, classes = link.recv()
    train, test = (Part(*(torch.from_numpy(array).to(device) for array in part)) for part in arrays)
    train = train.padded()
    trainings: list[Training] = []
    for network in networks:
        try:
            training = Training(network, train, test, classes, recipe)
            unrecorded = training.record()
        except (RuntimeError, CrossStageError) as error:
            link.send({"failed": network.label, "why": reason(error)})
            continue
        trainings.append(training)
        link.send({"built": network.label, "unrecorded": unrecorded})
    if not trainings:
        raise RuntimeError("none of its networks could be built")
    link.send("ready")
    steps = link.recv()
    advance(trainings, lambda training: training.begin_epoch(0, 0, 1))
    advance(trainings, lambda training: training.train_step(), steps)
    advance(trainings, lambda training: training.loss.item())
    link.send("measured")
    epochs, seeds, deadline = link.recv()
    for seed in seeds:
        for training, entry in zip(trainings, train_seed(trainings, seed, epochs, deadline), strict=True):
            link.send({**entry, **(also(training.model) if also else {})})
    link.send("done")
