"""The options of a training: one set of typed values for Python, the command line and recipe files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from crossstage.data.augment import Augmentation
from crossstage.data.faults import OnBadLabel
from crossstage.data.verified import OnBadImage
from crossstage.errors import ConfigError, did_you_mean
from crossstage.nn import Partial
from crossstage.structures import Resize
from crossstage.training.recipe_files import load_recipe
from crossstage.training.values import check_fields, typed

LoggerKind = Literal["tensorboard", "csv", "mlflow", "wandb"]


@dataclass(frozen=True)
class TrainOptions:
    """The options of a training.

    What is None follows from the data and the start, see :mod:`~crossstage.training.plan`.

    Attributes:
        model: Where to start: a model's name (random weights), a name with a tag (its weights), a model file, the
            folder of a run, or a network of another library ("timm:cspresnet50.ra_in1k"), whose weights are fetched.
        data: The dataset: a COCO json or folder, a VOC folder, a YOLO data.yaml, PNG masks, class folders, parquet, or
            a dataset YAML.
        backbone: Weights that the backbone of a detector starts with: those of a trained classifier, or of a detector
            on that backbone, named as ``model`` is.
        format: The dataset's format, where it is not recognised.
        epochs: Passes over the training images.
        minutes: Time that the training is to take, measurements included; it chooses the epochs.
        imgsz: Side of the input in pixels, or its height and width.
        resize: How images fit it; None takes the model's, or for a new classifier "crop".
        batch: Images in an optimisation step, over all devices and accumulated passes; "auto" takes as many as memory
            holds, by a step that is measured, and as are good for a training of this size.
        accumulate: Passes whose gradients are added up for a step.
        name: Folder of the run, in ``out``; None makes one up from model and data.
        out: Where runs lie.
        seed: Decides everything that is random.
        act: Another activation for the whole network, such as "mish" (the "omega" recipes).
        partial: How the stages of the network, or of a detector's backbone, are made partial; None for the plain one.
        optimizer: "sgd" or "adamw".
        lr: Learning rate.
        nominal_batch: Images in a step that ``lr`` is meant for: the rate is multiplied by the batch over it. None
            takes ``lr`` as it is.
        momentum: The momentum of sgd.
        nesterov: Whether it is Nesterov's; Darknet's is not.
        weight_decay: The decay of weights; norms and biases have none.
        schedule: How the learning rate falls: "cosine", "flat_cosine" (a cosine over the second half, RTMDet),
            "linear", "poly" (the remaining share of the training to the fourth power), "step" (times 0.1 at each of
            ``steps``) or "constant".
        steps: Shares of the training after which "step" lowers the rate.
        final_lr: Share of the rate that "cosine", "flat_cosine" and "linear" end at.
        flat_end: Share of the training, at its end, in which they have arrived there (YOLOX).
        burn_in: Steps in which the rate rises from 0; never more than a tenth of the training.
        burn_in_epochs: The same in epochs, instead of ``burn_in``.
        burn_in_power: The rate rises to this power; Darknet's is 4, YOLOX's 2.
        ema: Decay of the moving average of the weights that is measured and kept; 0 keeps the weights themselves.
        ema_ramp: Steps over which that decay comes in: it is multiplied by ``1 - exp(-step / ema_ramp)``. 0 bounds it
            by ``(1 + step) / (10 + step)`` instead.
        norm_momentum: Least share of the newest batch in the running statistics of batch norms, in (0, 1]; None leaves
            the model's own.
        clip: Gradients are scaled down to this norm; 0 leaves them.
        precision: "32", "bf16" or "16" (mixed).
        multi_scale: Input sizes vary by up to this share, every ten steps.
        freeze_backbone: Train neck and head alone.
        class_weights: "balanced" weighs classes by the inverse of their frequency.
        label_smoothing: Share of a classifier's targets that is spread over all classes; ``loss.label_smoothing`` is
            for detectors.
        fit_anchors: Replace a detector's anchors by ones fitted to the training boxes.
        patience: Stop after that many epochs without a better result; 0 goes on.
        on_nan: "stop" or "skip" a step whose loss is not finite.
        on_bad_label: "refuse" broken labels or "skip" them.
        on_bad_image: What is done about damaged images, which are looked for before the first step and told: "repair"
            reads them as far as they go and leaves out those that cannot be read at all, "skip" leaves out both,
            "refuse" does not train. In the middle of a training, "repair" and "skip" take the next image.
        val_every: Epochs between measurements.
        sample_every: Epochs between images of what the model predicts; 0 draws none.
        logger: Where the figures of each epoch, sample images and the plan go: "tensorboard", "mlflow", "wandb"
            (Weights & Biases), several of them, or "csv" for nothing but the run's own metrics.csv.
        checkpoint_minutes: Most minutes between two checkpoints, which are written at the end of each epoch, too.
        workers: Processes that prepare images, on each device; None takes what the processor offers, up to 8.
        threads: Threads that each device's process computes with on a CPU; None takes what torch takes.
        cache: Most gigabytes of decoded images that are kept in memory; None takes up to a quarter of what is free, 0
            reads each image anew.
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: Devices of this machine.
        nodes: Machines; they are started by torchrun or SLURM.
        strategy: "auto", "ddp" or "fsdp".
        augment: What happens to training images; a mapping changes the plan's.
        loss: Other values for settings of the loss of a detector's head, such as ``{"box_gain": 5}``. Each head has
            its own; ``crossstage train --help`` lists those of the package's heads.
        plain_loss: The same for the last ``augment.last_epochs_plain`` epochs, on top of ``loss``.

    Raises:
        ConfigError: A value is out of range.
    """

    model: str | None = None
    data: str | Path = ""
    backbone: str | None = None
    format: str | None = None
    epochs: int | None = None
    minutes: float | None = None
    imgsz: int | tuple[int, int] | None = None
    resize: Resize | None = None
    batch: int | Literal["auto"] | None = None
    accumulate: int = 1
    name: str | None = None
    out: str = "runs"
    seed: int = 0
    act: str | None = None
    partial: Partial | Literal["published"] | None = "published"
    optimizer: Literal["sgd", "adamw"] | None = None
    lr: float | None = None
    nominal_batch: int | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    schedule: Literal["cosine", "flat_cosine", "linear", "poly", "step", "constant"] | None = None
    steps: tuple[float, ...] = (0.8, 0.9)
    final_lr: float | None = None
    flat_end: float = 0.0
    burn_in: int | None = None
    burn_in_epochs: float | None = None
    burn_in_power: float = 1.0
    ema: float | None = None
    ema_ramp: float = 0.0
    norm_momentum: float | None = None
    clip: float = 10.0
    precision: Literal["32", "bf16", "16"] = "32"
    multi_scale: float | None = None
    freeze_backbone: bool = False
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float | None = None
    fit_anchors: bool | None = None
    patience: int = 0
    on_nan: Literal["stop", "skip"] = "stop"
    on_bad_label: OnBadLabel = "refuse"
    on_bad_image: OnBadImage = "repair"
    val_every: int | None = None
    sample_every: int = 10
    logger: tuple[LoggerKind, ...] = ("tensorboard",)
    checkpoint_minutes: float = 10.0
    workers: int | None = None
    threads: int | None = None
    cache: float | None = None
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    augment: Augmentation | Mapping[str, Any] | None = None
    loss: Mapping[str, Any] = field(default_factory=dict)
    plain_loss: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in check_fields(self).items():
            object.__setattr__(self, name, value)  # a Path as text, a whole float as int
        self._check_ranges()
        if not all(0 < step < 1 for step in self.steps):
            raise ConfigError(f"steps are {self.steps}; expected shares of the training, between 0 and 1")
        shared = self.devices * self.nodes * self.accumulate
        if isinstance(self.batch, int) and self.batch % shared:
            raise ConfigError(f"batch is {self.batch}; expected a multiple of {shared} (devices x nodes x accumulate)")
        if self.strategy == "fsdp" and self.ema:
            raise ConfigError("fsdp keeps no moving average of the weights; expected ema=0")
        if isinstance(self.augment, Mapping):
            changed(Augmentation(), self.augment)

    def _check_ranges(self) -> None:
        for names, low, high in _RANGES:
            for name in names:
                value = getattr(self, name)
                if value not in (None, "auto") and not low <= value <= high:
                    expected = (
                        f"{low:g} to {high:,}" if math.isfinite(high) else "0 or more" if not low else "at least 1"
                    )
                    raise ConfigError(f"{name} is {value}; expected {expected}")
        for name in ("lr", "minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}; expected more than 0")
        if self.multi_scale is not None and not 0 <= self.multi_scale < 1:
            raise ConfigError(f"multi_scale is {self.multi_scale}; expected 0 to below 1")
        sides = self.imgsz if isinstance(self.imgsz, tuple) else () if self.imgsz is None else (self.imgsz,)
        if not all(1 <= side <= LARGEST_SIDE for side in sides):
            raise ConfigError(
                f"imgsz is {self.imgsz}; expected one side, or height and width, from 1 to {LARGEST_SIDE} pixels"
            )

    @property
    def world(self) -> int:
        """Processes that train together."""
        return self.devices * self.nodes

    def to_yaml(self) -> str:
        """Return the options as YAML, in their order."""
        return yaml.safe_dump(_plain(asdict(self)), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_mapping(cls, content: dict[str, Any], where: str) -> TrainOptions:
        """Read options from a parsed YAML file; ``where`` is for messages.

        Raises:
            ConfigError: A key is unknown or missing, or a value does not fit.
        """
        known = {entry.name for entry in fields(TrainOptions)}
        unknown = set(content) - known
        if unknown:
            raise ConfigError(f"{where}: unknown option {sorted(unknown)[0]!r}")
        try:
            nested: dict[str, Any] = {name: {} for name in ("loss", "plain_loss") if content.get(name) is None}
            if isinstance(content.get("augment"), (Mapping, Augmentation)):
                nested["augment"] = _augmentation(content["augment"], where)
            if isinstance(content.get("partial"), dict):
                nested["partial"] = Partial(**content["partial"])
            if isinstance(content.get("imgsz"), (list, tuple)):
                sides = tuple(content["imgsz"])
                nested["imgsz"] = sides[0] if len(sides) == 1 else sides
            return TrainOptions(**{**content, **nested})
        except (TypeError, ConfigError) as error:
            text = str(error).removeprefix(f"{where}: ")
            raise ConfigError(f"{where}: {text}") from None

    @classmethod
    def from_recipe(cls, recipe: str | Path, **changes: Any) -> TrainOptions:
        """Return a recipe's options, with what it leaves open and what is to differ.

        Args:
            recipe: A file, or the name of one in the package.
            **changes: Options, such as ``model`` and ``data``.

        Raises:
            ConfigError: There is no such recipe, or an option does not fit.
        """
        return replace(TrainOptions.from_mapping(completed(load_recipe(recipe)), str(recipe)), **changes)

    @classmethod
    def from_yaml(cls, path: Path) -> TrainOptions:
        """Read options that :meth:`to_yaml` wrote, of this version or an earlier one.

        Raises:
            ConfigError: The file cannot be read or is no such thing.
        """
        return TrainOptions.from_mapping(completed(load_recipe(path)), str(path))


LARGEST_SIDE = 16_384  # pixels of an input
_MISSING: Any = None


@dataclass(frozen=True, kw_only=True)
class RunOptions(TrainOptions):
    """The options of a run, of which none is open any more; see :class:`TrainOptions`."""

    model: str = _MISSING
    data: str = ""
    epochs: int = _MISSING
    batch: int = _MISSING
    optimizer: Literal["sgd", "adamw"] = _MISSING
    lr: float = _MISSING
    momentum: float = _MISSING
    nesterov: bool = _MISSING
    weight_decay: float = _MISSING
    schedule: Literal["cosine", "flat_cosine", "linear", "poly", "step", "constant"] = _MISSING
    final_lr: float = _MISSING
    burn_in: int = _MISSING
    ema: float = _MISSING
    multi_scale: float = _MISSING
    label_smoothing: float = _MISSING
    fit_anchors: bool = _MISSING
    val_every: int = _MISSING
    augment: Augmentation = _MISSING

    def __post_init__(self) -> None:
        if missing := [name for name in OPEN if getattr(self, name) is None]:
            raise ConfigError(f"{missing[0]} is open; expected the options of a plan")
        super().__post_init__()

    @classmethod
    def plain(cls, model: str, data: str = "", **given: Any) -> RunOptions:
        """Return options without a plan: what is not given is :data:`METHOD`'s.

        Raises:
            ConfigError: A value is out of range.
        """
        lengths = {"epochs": 100, "batch": 16, "lr": 0.002, "val_every": 1, "augment": Augmentation()}
        return cls(**{**METHOD, **lengths, **given, "model": model, "data": data})

    @property
    def peak_lr(self) -> float:
        """The learning rate between burn-in and fall: ``lr``, scaled by the batch if it is meant for another one."""
        return self.lr * self.batch / self.nominal_batch if self.nominal_batch else self.lr

    @property
    def plain_from(self) -> int:
        """The first of the last epochs, counted from 0, which are without mosaic, mixup, cutmix and copied objects."""
        return self.epochs - self.augment.last_epochs_plain


OPEN = tuple(RunOptions.__annotations__)
"""Names of the options that a plan chooses where they are None."""

METHOD: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.0005,
    "schedule": "cosine",
    "final_lr": 0.01,
    "burn_in": 100,
    "ema": 0.999,
    "multi_scale": 0.0,
    "label_smoothing": 0.0,
    "fit_anchors": False,
}
"""What a file that describes a whole method leaves open is this; it was the default of all trainings until 0.1.0."""

_RANGES: tuple[tuple[tuple[str, ...], float, float], ...] = (
    (("epochs", "batch", "accumulate", "devices", "nodes", "val_every", "nominal_batch", "threads"), 1, math.inf),
    (("burn_in", "burn_in_epochs", "burn_in_power", "clip", "weight_decay", "patience"), 0, math.inf),
    (("sample_every", "checkpoint_minutes", "ema_ramp", "cache"), 0, math.inf),
    (("seed",), 0, 2**32 - 1),
    (("workers",), 0, 1024),
    (("momentum", "ema", "final_lr", "flat_end", "label_smoothing", "norm_momentum"), 0, 1),
    (("lr",), 0, 100),
)


def completed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a file, with plain values for what it leaves open if it describes a whole method.

    A file that names the optimiser does: every published recipe, and the options of every run. Its meaning then depends
    on nothing but what it says; sizes, epochs and the like still follow from the data where it leaves them open.
    """
    if content.get("optimizer") is None:
        return dict(content)
    filled = {**METHOD, **{name: value for name, value in content.items() if value is not None or name not in METHOD}}
    return {**filled, "augment": asdict(changed(Augmentation(), content.get("augment") or {}))}


def changed(augmentation: Augmentation, changes: Mapping[str, Any]) -> Augmentation:
    """Return an augmentation in which some values differ.

    Raises:
        ConfigError: There is no such value, or it is out of range.
    """
    known = [entry.name for entry in fields(Augmentation)]
    if unknown := [name for name in changes if name not in known]:
        raise ConfigError(f"augment has no {unknown[0]!r}{did_you_mean(unknown[0], known)}")
    values = {name: typed(Augmentation, name, value) for name, value in changes.items()}
    return replace(augmentation, **values)


def _augmentation(content: Augmentation | Mapping[str, Any], where: str) -> Augmentation | Mapping[str, Any]:
    """Return what a file or command line says of it: all values, or some that change the plan's."""
    if isinstance(content, Augmentation):
        return content
    try:
        whole = changed(Augmentation(), content)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return whole if {entry.name for entry in fields(Augmentation)} <= set(content) else dict(content)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
