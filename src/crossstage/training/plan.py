"""The plan of a training: what is left open follows from the data and the start, and is told with its reasons.

A plan is a table of options, each with its value and why, made before anything is trained and stored with the run.
What a person or a recipe says is never changed. How weights are trained is one of four recipes beside this file, by the
task and whether it starts at random; sizes and lengths are computed here, from
:class:`~crossstage.training.facts.DataFacts`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from crossstage.data.anchors import judge, scaled_sizes
from crossstage.data.augment import Augmentation
from crossstage.data.records import DetectionData
from crossstage.errors import DataError
from crossstage.models.detector import Detector
from crossstage.models.heads.base import Head
from crossstage.structures import Preprocessing
from crossstage.training.batch import StepMemory
from crossstage.training.facts import TrainingData, facts_of
from crossstage.training.options import METHOD, OPEN, RunOptions, TrainOptions, changed
from crossstage.training.recipe_files import load_recipe
from crossstage.weights.ref import parse
from crossstage.weights.resolving import resolve
from crossstage.weights.starting import STARTED


class Start(NamedTuple):
    """Where a training starts if nothing is said: a model, and for one that starts at random its backbone's weights."""

    model: str
    backbone: str | None = None


class Length(NamedTuple):
    """How long to train: ``share / sqrt(images)`` epochs, at least and at most so many."""

    share: float
    least: int
    most: int


STARTS: Mapping[str, Start] = {
    "detect": Start("cspdarknet53_tiny_pafpn_slim_rtmdet", "cspdarknet53_tiny_yolo.coco"),
    "classify": Start("efficientnet_lite0.in1k"),
}
METHODS: Mapping[tuple[str, str], tuple[str, Length]] = {
    ("detect", "random"): ("scratch", Length(1200, 40, 300)),
    ("detect", "backbone"): ("scratch", Length(600, 15, 150)),
    ("detect", "weights"): ("finetune", Length(600, 12, 100)),
    ("classify", "random"): ("classify_scratch", Length(3000, 40, 200)),
    ("classify", "weights"): ("classify_finetune", Length(600, 8, 40)),
}
"""The recipe and the length of a training, by the task and what it starts with."""

PLAIN_LR = {
    ("sgd", "detect"): 0.002,
    ("sgd", "classify"): 0.1,
    ("adamw", "detect"): 0.001,
    ("adamw", "classify"): 0.001,
}
"""The learning rate of an optimiser that a person chose without one."""

USUAL_BATCH = {"detect": 16, "classify": 32}
MOST_BATCH = 4  # times as many where memory decides; more would change how a training goes
FEWEST_STEPS = 8  # of an epoch, for which the batch is made smaller
SMALLEST_BATCH = 4  # batch norm wants several images
SMALLEST_BOX = 8.0  # pixels of the input, which a small box should have
LARGEST_SIDE = 640  # of an input that small boxes make larger
ENLARGED = {"detect": 1.5, "classify": 4.0}  # most that small images are; classifiers know larger things
ENLARGED_AT_RANDOM = 1.5  # the same for classifiers that know nothing yet
STRIDE = 32
BURN_IN, LONGEST_BURN_IN = 0.05, 1000  # share of the training, and steps
WINDOW = 0.05  # of the training that weights are averaged over
FASTEST_NORM = 0.1  # momentum of batch norms, as torch's own
PLAIN_END = 0.1  # of the epochs are without mosaic
VAL_SHARE, VAL_COST = 0.15, 0.35  # most time for measurements, and an image's cost for one that is trained on
FEWEST_VALS = 10
BESIDES = 5.0  # seconds, for plots and files
JUDGED = 2000  # images whose boxes are laid over the anchors
SIMILAR = 0.5  # mean IoU of boxes with their anchors below which the anchors are fitted anew


@dataclass(frozen=True)
class Pace:
    """How fast a machine is.

    Attributes:
        step: Seconds of a training step.
        val: Seconds of a measurement on all val images.
    """

    step: float
    val: float


@dataclass(frozen=True)
class Choice:
    """A row of a plan.

    Attributes:
        option: Name of the option.
        value: What it is.
        why: For what reason.
    """

    option: str
    value: Any
    why: str


@dataclass(frozen=True)
class Plan:
    """Options without anything open, and why they are what they are.

    Attributes:
        options: The options of the run.
        choices: The options that were open, in the order they were chosen in.
    """

    options: RunOptions
    choices: tuple[Choice, ...]

    def lines(self) -> list[str]:
        """Return the table as lines of text."""
        rows = [(choice.option, _shown(choice.value), choice.why) for choice in self.choices]
        widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
        return [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {why}".rstrip() for name, value, why in rows]

    def to_json(self) -> str:
        """Return the table as JSON, one object for each choice."""
        return json.dumps([asdict(choice) for choice in self.choices], indent=1, ensure_ascii=False, default=str) + "\n"


def plan_training(
    options: TrainOptions, data: TrainingData, pace: Pace | None = None, memory: StepMemory | None = None
) -> Plan:
    """Choose what is open.

    Args:
        options: What is asked for.
        data: The data to train on.
        pace: How fast this machine is with this training; it chooses the epochs that fit into ``options.minutes``.
        memory: What a step takes, which chooses the batch where that is "auto".

    Raises:
        ConfigError: The model is unknown or does something else, or an option does not fit.
        WeightsError: A file cannot be read.
    """
    return _Planner(options, data, pace, memory).plan()


def as_they_stand(options: TrainOptions, task: str) -> RunOptions:
    """Return the options of a run that was planned, or of one of version 0.1.0, whose ``lr`` may be the usual one.

    Raises:
        ConfigError: Something is open.
    """
    if isinstance(options, RunOptions):
        return options
    known = {entry.name: getattr(options, entry.name) for entry in fields(TrainOptions)}
    if options.lr is None and options.optimizer:
        known["lr"] = PLAIN_LR[options.optimizer, task]
    return RunOptions(**known)


class _Planner:
    """Chooses one option after the other; each may look at those before it."""

    def __init__(self, options: TrainOptions, data: TrainingData, pace: Pace | None, memory: StepMemory | None) -> None:
        self.asked, self.data, self.pace, self.memory = options, data, pace, memory
        self.facts = facts_of(data)
        self.known = {entry.name: getattr(options, entry.name) for entry in fields(TrainOptions)}
        if options.batch == "auto":
            self.known["batch"] = None
        self.choices: list[Choice] = []

    def plan(self) -> Plan:
        self._start()
        self.network = resolve(self.known["model"]).module
        kind = "weights" if parse(self.known["model"], STARTED).kind != "model" else "random"
        kind = "backbone" if self.known["backbone"] else kind
        task = self.facts.task
        self.recipe_name, self.length = METHODS[task, "random" if (task, kind) not in METHODS else kind]
        self.kind = kind
        self._size()
        self._batch()
        self._epochs()
        self._method()
        self._lengths()
        self._anchors()
        return Plan(RunOptions(**self.known), tuple(self.choices))

    def _set(self, name: str, value: Any, why: str) -> None:
        """Choose an option that is open."""
        if self.known[name] is None:
            self.known[name] = value
            self.choices.append(Choice(name, value, why))

    def _start(self) -> None:
        if self.known["model"] is not None:
            return
        start = STARTS[self.facts.task]
        what = "objects in boxes" if self.facts.task == "detect" else "one label for each image"
        self._set("model", start.model, f"the data holds {what}; {self.facts}")
        if start.backbone:
            self._set("backbone", start.backbone, "knows images already, so that fewer of yours are needed")

    def _size(self) -> None:
        usual = getattr(self.network, "preprocessing", None) or Preprocessing(
            resolve(self.known["model"]).input_shape[1:]
        )
        divisor = int(getattr(self.network, "size_divisor", STRIDE))
        side = usual.size[0]
        if usual.size[0] != usual.size[1] or usual.resize == "shortest" or side % STRIDE or STRIDE % divisor:
            self._set("imgsz", usual.size, "the model's own")
            return
        image = self.facts.image_side
        small = self.facts.box_share * side
        factor = ENLARGED_AT_RANDOM if self.kind == "random" else ENLARGED[self.facts.task]
        largest = STRIDE * math.ceil(factor * image / STRIDE) if image else side
        if self.facts.boxes and small < SMALLEST_BOX and side < min(largest, LARGEST_SIDE):
            wanted = STRIDE * math.ceil(SMALLEST_BOX / self.facts.box_share / STRIDE)
            chosen = min(wanted, largest, LARGEST_SIDE)
            self._set(
                "imgsz", chosen, f"at {side}, the model's own, a tenth of the boxes are smaller than {small:.0f} pixels"
            )
        elif largest < side:
            self._set("imgsz", largest, f"images have {image} pixels, {factor:g} times as many are enough")
        else:
            self._set("imgsz", side, "the model's own")

    def _batch(self) -> None:
        images, batch = self.facts.images, USUAL_BATCH[self.facts.task]
        shared = self.asked.world * self.asked.accumulate
        batch *= MOST_BATCH if self.memory else 1
        while batch > SMALLEST_BATCH and images // batch < FEWEST_STEPS:
            batch //= 2
        batch = shared * max(1, -(-min(batch, images) // shared))
        while self.memory and batch > shared and not self.memory.fits(batch // shared):
            batch = shared * max(1, batch // shared // 2)
        why = f"{images // batch} steps in an epoch of {images} images"
        if self.memory:
            why += f"; a pass of {batch // shared} takes {self.memory.told(batch // shared)}"
        self._set("batch", batch, why)

    def _epochs(self) -> None:
        steps = self._steps_of_epoch()
        share, least, most = self.length
        epochs = min(most, max(least, round(share / math.sqrt(self.facts.images))))
        why = f"{share:g} / sqrt(images), {least} to {most}, for a start from {_KINDS[self.kind]}"
        if self.pace and self.asked.minutes:
            every = self._val_every(self.pace.val, steps * self.pace.step, most)
            epoch = steps * self.pace.step + self.pace.val / every
            epochs = max(1, int((self.asked.minutes * 60 - 2 * self.pace.val - BESIDES) / epoch))
            spans = f"{self.pace.step:.2f} s a step, {self.pace.val:.1f} s a measurement"
            why = f"what fits into {self.asked.minutes:g} minutes: {spans}"
        elif self.asked.minutes:
            why += f"; measured and fitted into {self.asked.minutes:g} minutes before the start"
        self._set("epochs", epochs, f"{why}; {epochs * steps} steps")

    def _steps_of_epoch(self) -> int:
        return max(1, self.facts.images // self.known["batch"])

    def _method(self) -> None:
        """Fill in a recipe."""
        recipe = load_recipe(self.recipe_name)
        why = f"recipe {self.recipe_name}"
        if self.known["lr"] is None and self.known["optimizer"] not in (None, recipe["optimizer"]):
            self._set("lr", PLAIN_LR[self.known["optimizer"], self.facts.task], f"usual for {self.known['optimizer']}")
        elif self.known["lr"] is None:
            nominal = self.known["nominal_batch"] or recipe["nominal_batch"]
            rate = recipe["lr"] * self.known["batch"] / nominal
            self.known["nominal_batch"] = None
            self._set("lr", rate, f"{why}: {recipe['lr']:g} for {nominal} images, here {self.known['batch']}")
        for name, value in recipe.items():
            if name in OPEN and name not in ("lr", "augment"):
                self._set(name, value, why)
        self._set("label_smoothing", 0.0, "detectors have their own" if self.facts.task == "detect" else why)
        self._augmentation(recipe["augment"], why)

    def _augmentation(self, of_recipe: Mapping[str, Any], why: str) -> None:
        given = self.known["augment"]
        if isinstance(given, Augmentation):
            return
        mixes = of_recipe.get("mosaic") and self.facts.task == "detect"
        plain = {"last_epochs_plain": round(PLAIN_END * self.known["epochs"])} if mixes else {}
        base = changed(Augmentation(), {**of_recipe, **plain})
        self.known["augment"] = changed(base, given or {})
        reasons = dict.fromkeys(of_recipe, why) | dict.fromkeys(
            plain, f"no mosaic in the last {PLAIN_END:.0%} of the epochs"
        )
        for name, reason in reasons.items():
            if name not in (given or {}):
                self.choices.append(Choice(f"augment.{name}", getattr(self.known["augment"], name), reason))

    def _lengths(self) -> None:
        """Choose what the number of steps decides."""
        epochs, steps = self.known["epochs"], self._steps_of_epoch()
        total = epochs * math.ceil(steps / self.asked.accumulate)
        if self.known["burn_in_epochs"] is None:
            rising = min(LONGEST_BURN_IN, round(BURN_IN * total))
            self._set("burn_in", rising, f"{BURN_IN:.0%} of {total} steps, at most {LONGEST_BURN_IN}")
        self._set("burn_in", 0, "burn_in_epochs says it")
        fsdp = self.asked.strategy == "fsdp"
        decay = 0.0 if fsdp else round(min(0.9998, max(0.9, 1 - 1 / (WINDOW * total))), 4)
        self._set(
            "ema", decay, "fsdp keeps no average" if fsdp else f"averages over the last {WINDOW:.0%} of the steps"
        )
        self._norm_momentum(total)
        if self.pace:
            cost, epoch = self.pace.val, steps * self.pace.step
        else:
            cost, epoch = VAL_COST * self.facts.val_images, float(steps * self.known["batch"])
        every = self._val_every(cost, epoch, epochs)
        why = f"measurements take at most {VAL_SHARE:.0%} of the time" if every > 1 else "measurements are cheap"
        self._set("val_every", every, why)

    def _norm_momentum(self, total: int) -> None:
        """Let the statistics of batch norms follow the weights of a short training as fast as their average does.

        A published recipe has nothing of the kind.
        """
        if all(getattr(self.asked, name) is not None for name in METHOD):
            return
        norms = (each for each in self.network.modules() if isinstance(each, nn.BatchNorm2d))
        own = min((norm.momentum for norm in norms if norm.momentum is not None), default=1.0)
        wanted = round(min(FASTEST_NORM, 1 / (WINDOW * total)), 4)
        if own < wanted:
            self._set("norm_momentum", wanted, f"the model's own, {own:g}, is slow for {total} steps")

    def _val_every(self, cost: float, epoch: float, epochs: int) -> int:
        """Return the epochs between measurements that cost so much, where an epoch of training costs so much."""
        if self.known["val_every"] is not None:
            return self.known["val_every"]
        return max(1, min(math.ceil(cost / (VAL_SHARE * epoch)), epochs // FEWEST_VALS or 1))

    def _anchors(self) -> None:
        network, head, train = self.network, getattr(self.network, "head", None), self.data.train
        if not (isinstance(network, Detector) and isinstance(head, Head) and isinstance(train, DetectionData)) or (
            not head.row.anchors
        ):
            self._set("fit_anchors", False, "the model has none")
            return
        if self.known["fit_anchors"] is not None:
            return
        size = self.known["imgsz"] or network.preprocessing.size
        try:
            some = train[:: max(1, len(train) // JUDGED)]
            sizes = scaled_sizes(some, network.preprocessing.at(size))
        except DataError:
            self._set("fit_anchors", False, "there is no box to fit them to")
            return
        enough = len({tuple(pair) for pair in sizes.tolist()}) >= len(head.row.anchors)
        found = judge(sizes, np.array(head.row.anchors, np.float64)).mean_iou
        if self.kind == "weights":
            self._set(
                "fit_anchors",
                enough and found < SIMILAR,
                f"the model's overlap your boxes by {found:.0%} on the average",
            )
        else:
            why = "the head starts at random" if enough else "too few boxes of different sizes"
            self._set("fit_anchors", enough, why)


_KINDS = {"random": "random weights", "backbone": "a trained backbone", "weights": "trained weights"}


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " x ".join(map(_shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
