"""What is varied: a plan's learning rate, weight decay, strengths of augmentation, input size and model.

Rates and strengths are factors of what the plan of each network says, so that one space fits networks that want other
rates, and 1 everywhere is the plan itself, which is the first trial. Values are rounded to four digits: the command
that is told at the end says all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from crossstage.data.augment import Augmentation
from crossstage.errors import ConfigError
from crossstage.training import TrainOptions
from crossstage.training.facts import TrainingData
from crossstage.training.options import RunOptions, changed
from crossstage.training.plan import plan_training

SIZES = 0.75, 1.0, 1.25  # of the plan's input, unless sizes are given
STRIDE = 32
RATES = 0.2, 5.0
DECAYS = 0.1, 10.0
STRENGTHS = 0.0, 2.0
SMALLEST_CROP = 0.05
COLOUR: Mapping[str, float] = {"hue": 0.5, "saturation": 1.0, "brightness": 1.0}
GEOMETRY: Mapping[str, float] = {"scale": 0.9, "translate": 1.0, "degrees": 180.0, "shear": 80.0}
"""Names of strengths, and the most that each may be."""


class Suggests(Protocol):
    """What values are asked of; an Optuna trial is one."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number between two."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of some values."""
        ...


@dataclass(frozen=True)
class Network:
    """A model at an input size, and what its plan says.

    Attributes:
        name: What it is called in the study.
        plan: The plan of its training.
        gflops: What a pass costs, if that is bounded.
    """

    name: str
    plan: RunOptions
    gflops: float | None = None


@dataclass(frozen=True)
class Space:
    """What trials may be.

    Attributes:
        base: The options that all have.
        networks: The networks, that of the plan first.
        classifies: Whether they are classifiers.
    """

    base: TrainOptions
    networks: tuple[Network, ...]
    classifies: bool

    def first(self) -> dict[str, Any]:
        """Return the values that stand for the plan itself."""
        return self.drawn(_Plain())[1]

    def drawn(self, trial: Suggests) -> tuple[TrainOptions, dict[str, Any]]:
        """Ask for values; return the options of a training, and the values."""
        values: dict[str, Any] = {}

        def number(name: str, low: float, high: float, *, log: bool = False) -> float:
            values[name] = trial.suggest_float(name, low, high, log=log)
            return values[name]

        network = self.networks[0]
        if len(self.networks) > 1:
            values["network"] = trial.suggest_categorical("network", [each.name for each in self.networks])
            network = next(each for each in self.networks if each.name == values["network"])
        plan = network.plan
        changes = {
            "lr": _short(plan.lr * number("lr", *RATES, log=True)),
            "weight_decay": _short(plan.weight_decay * number("weight_decay", *DECAYS, log=True)),
        }
        strengths = self._strengths(plan.augment, number)
        given = self.base.augment
        whole = isinstance(given, Augmentation)
        augment = changed(given, strengths) if whole else {**(given or {}), **strengths}
        options = replace(
            self.base, model=plan.model, backbone=plan.backbone, imgsz=plan.imgsz, augment=augment, **changes
        )
        return options, values

    def _strengths(self, plan: Augmentation, number: Callable[..., float]) -> dict[str, float]:
        """Ask for the strengths of what the first plan changes; a strength that a plan lacks stays 0."""
        first, found = self.networks[0].plan.augment, {}
        families = [("colour", COLOUR), *([] if self.classifies else [("geometry", GEOMETRY)])]
        for name, family in families:
            if any(getattr(first, each) for each in family):
                factor = number(name, *STRENGTHS)
                known = {each: (getattr(plan, each), most) for each, most in family.items()}
                found |= {each: _short(min(most, factor * value)) for each, (value, most) in known.items() if value}
        if self.classifies and first.crop < 1:
            found["crop"] = _short(max(SMALLEST_CROP, 1 - number("geometry", *STRENGTHS) * (1 - plan.crop)))
        if first.mosaic and not self.classifies:
            found["mosaic"] = _short(min(1.0, plan.mosaic * number("mosaic", *STRENGTHS)))
        return found


class _Plain:
    """Suggests what the plan says."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        del name, low, high, log
        return 1.0

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        del name
        return choices[0]


def space_of(
    base: TrainOptions,
    data: TrainingData,
    *,
    models: Sequence[str] = (),
    sizes: Sequence[int] = (),
    max_gflops: float | None = None,
) -> Space:
    """Return what trials may be.

    Args:
        base: The options that all have.
        data: The data.
        models: Models to choose from, the first of which is the plan's; by default the plan's alone.
        sizes: Sides of the input to choose from, in pixels; by default around the plan's, unless ``base`` has one.
        max_gflops: Networks that cost more than this are left out.

    Raises:
        ConfigError: A model is unknown or does something else, an option does not fit, or no network is so cheap.
    """
    if base.batch == "auto" or base.world > 1:
        raise ConfigError("tune trains on one device, with one batch; expected a number for batch, and devices=1")
    networks: list[Network] = []
    dearer: list[float] = []
    for model in models or [base.model]:
        plan = plan_training(replace(base, model=model, imgsz=base.imgsz), data).options
        for size in sizes or _sizes(base, plan):
            side = replace(base, model=model, imgsz=size or plan.imgsz)
            network = Network(f"{plan.model} at {_told(side.imgsz)}", plan_training(side, data).options)
            cost = None if max_gflops is None else _gflops(network.plan)
            if cost is not None and max_gflops is not None and cost > max_gflops:
                dearer.append(cost)
            elif network.name not in {each.name for each in networks}:
                networks.append(replace(network, gflops=cost))
    if not networks:
        raise ConfigError(f"max_gflops is {max_gflops:g}; expected {min(dearer):.3g}, the cheapest of these, or more")
    return Space(base, tuple(networks), data.task == "classify")


def _sizes(base: TrainOptions, plan: RunOptions) -> list[int | None]:
    """Return sides around a plan's, its own first; None is the plan's, where sides differ or a person chose."""
    if base.imgsz is not None or plan.imgsz is None:
        return [None]
    height, width = (plan.imgsz, plan.imgsz) if isinstance(plan.imgsz, int) else plan.imgsz
    if height != width or height % STRIDE:
        return [None]
    others = [STRIDE * max(1, round(height * share / STRIDE)) for share in SIZES if share != 1]
    return [height, *(side for side in others if side != height)]


def _gflops(plan: RunOptions) -> float:
    from crossstage.profiling import profile

    return profile(plan.model, plan.imgsz).bflops


def _told(size: int | tuple[int, int] | None) -> str:
    return f"{size[0]} x {size[1]}" if isinstance(size, tuple) else str(size)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
