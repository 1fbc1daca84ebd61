"""The options of a training: one set of typed values for Python, the command line and recipe files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from crossstage.data.augment import Augmentation
from crossstage.data.faults import OnBadLabel
from crossstage.errors import ConfigError, did_you_mean
from crossstage.files import read_yaml
from crossstage.nn import Partial
from crossstage.structures import Resize

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class TrainOptions:
    """The options of a training.

    Attributes:
        model: Where to start: a model's name (random weights), a name with a tag (its weights), a model file, the
            folder of a run, or a network of another library ("timm:cspresnet50.ra_in1k"), whose weights are fetched.
        backbone: A trained classifier, named as ``model`` is, whose weights the backbone of a detector starts with.
        data: The dataset, see :func:`crossstage.data.find.find_data`.
        format: Its format, where it is not recognised.
        epochs: Passes over the training images.
        imgsz: Side of the input in pixels; None takes the model's.
        resize: How images fit it; None takes the model's, or for a new classifier "crop".
        batch: Images in an optimisation step, over all devices and accumulated passes.
        accumulate: Passes whose gradients are added up for a step.
        name: Folder of the run, in ``out``; None makes one up from model and data.
        out: Where runs lie.
        seed: Decides everything that is random.
        act: Another activation for the whole network, such as "mish" (the "omega" recipes).
        partial: How the stages of the network, or of a detector's backbone, are made partial; None for the plain one.
        optimizer: "sgd" (with Nesterov's momentum off, as in Darknet) or "adamw".
        lr: Learning rate; None takes 0.002 for detectors, 0.1 for classifiers with sgd, and 0.001 with adamw.
        momentum: The momentum of sgd.
        weight_decay: The decay of weights; norms and biases have none.
        schedule: How the learning rate falls: "cosine", "poly" (the remaining share of the training to the fourth
            power), "step" (times 0.1 at each of ``steps``) or "constant".
        steps: Shares of the training after which "step" lowers the rate.
        final_lr: Share of the rate that "cosine" ends at.
        burn_in: Steps in which the rate rises from 0, to the power of ``burn_in_power``.
        burn_in_power: Darknet's is 4.
        ema: Decay of the moving average of the weights that is measured and kept; 0 keeps the weights themselves.
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
        val_every: Epochs between measurements.
        sample_every: Epochs between images of what the model predicts; 0 draws none.
        checkpoint_minutes: Most minutes between two checkpoints, which are written at the end of each epoch, too.
        workers: Processes that prepare images, on each device; None takes what the processor offers, up to 8.
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: Devices of this machine.
        nodes: Machines; they are started by torchrun or SLURM.
        strategy: "auto", "ddp" or "fsdp".
        augment: What happens to training images.
        loss: Other values for settings of the loss of a detector's head, such as ``{"box_gain": 5}``; which there are
            is said by the head's row, for the YOLO head by :class:`~crossstage.models.heads.yolo.YoloLossConfig`.

    Raises:
        ConfigError: A value is out of range.
    """

    model: str
    data: str
    backbone: str | None = None
    format: str | None = None
    epochs: int = 100
    imgsz: int | None = None
    resize: Resize | None = None
    batch: int = 16
    accumulate: int = 1
    name: str | None = None
    out: str = "runs"
    seed: int = 0
    act: str | None = None
    partial: Partial | Literal["published"] | None = "published"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0005
    schedule: Literal["cosine", "poly", "step", "constant"] = "cosine"
    steps: tuple[float, ...] = (0.8, 0.9)
    final_lr: float = 0.01
    burn_in: int = 100
    burn_in_power: float = 1.0
    ema: float = 0.999
    clip: float = 10.0
    precision: Literal["32", "bf16", "16"] = "32"
    multi_scale: float = 0.0
    freeze_backbone: bool = False
    class_weights: Literal["none", "balanced"] = "none"
    label_smoothing: float = 0.0
    fit_anchors: bool = False
    patience: int = 0
    on_nan: Literal["stop", "skip"] = "stop"
    on_bad_label: OnBadLabel = "refuse"
    val_every: int = 1
    sample_every: int = 10
    checkpoint_minutes: float = 10.0
    workers: int | None = None
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    augment: Augmentation = field(default_factory=Augmentation)
    loss: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "devices", "nodes", "val_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        positive = ("burn_in", "clip", "weight_decay", "patience", "sample_every", "checkpoint_minutes", "seed")
        for name in positive:
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("momentum", "ema", "final_lr", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 to 1")
        if not 0 <= self.multi_scale < 1:
            raise ConfigError(f"multi_scale is {self.multi_scale}; expected 0 to below 1")
        if self.lr is not None and not 0 < self.lr <= 100:
            raise ConfigError(f"lr is {self.lr}; expected more than 0")
        if not all(0 < step < 1 for step in self.steps):
            raise ConfigError(f"steps are {self.steps}; expected shares of the training, between 0 and 1")
        shared = self.devices * self.nodes * self.accumulate
        if self.batch % shared:
            raise ConfigError(f"batch is {self.batch}; expected a multiple of {shared} (devices x nodes x accumulate)")
        if self.strategy == "fsdp" and self.ema:
            raise ConfigError("fsdp keeps no moving average of the weights; expected ema=0")

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
        known = {entry.name for entry in fields(cls)}
        unknown = set(content) - known
        if unknown:
            raise ConfigError(f"{where}: unknown option {sorted(unknown)[0]!r}")
        try:
            nested: dict[str, Any] = {
                "augment": Augmentation(**content.get("augment") or {}),
                "loss": dict(content.get("loss") or {}),
            }
            if isinstance(content.get("partial"), dict):
                nested["partial"] = Partial(**content["partial"])
            steps = tuple(content.get("steps", cls.steps))
            return cls(**{**content, **nested, "steps": steps})
        except TypeError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def from_recipe(cls, recipe: str | Path, **changes: Any) -> TrainOptions:
        """Return a recipe's options, with what it leaves open and what is to differ.

        Args:
            recipe: A file, or the name of one in the package, see :func:`recipe_names`.
            **changes: Options, ``model`` and ``data`` at least.

        Raises:
            ConfigError: There is no such recipe, or an option does not fit.
        """
        return replace(cls.from_mapping({"model": "", "data": "", **load_recipe(recipe)}, str(recipe)), **changes)

    @classmethod
    def from_yaml(cls, path: Path) -> TrainOptions:
        """Read options that :meth:`to_yaml` wrote.

        Raises:
            ConfigError: The file cannot be read or is no such thing.
        """
        return cls.from_mapping(load_recipe(path), str(path))


def load_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """Return those options that a recipe's file holds.

    Args:
        name_or_path: A file, or the name of one in the package, see :func:`recipe_names`.

    Raises:
        ConfigError: There is none, or it is no mapping.
    """
    return read_yaml(recipe_path(name_or_path), ConfigError, "options")


def recipe_path(name_or_path: str | Path) -> Path:
    """Find the file of a recipe.

    Raises:
        ConfigError: There is none.
    """
    for path in (Path(name_or_path), RECIPES / f"{name_or_path}.yaml"):
        if path.is_file():
            return path
    known = recipe_names()
    close = did_you_mean(str(name_or_path), known)
    raise ConfigError(f"recipe {str(name_or_path)!r}: no such file; the package has {', '.join(known)}{close}")


def recipe_names() -> list[str]:
    """List the recipes in the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def with_lr(options: TrainOptions, task: str) -> TrainOptions:
    """Return the options with the task's learning rate where none is given."""
    if options.lr is not None:
        return options
    if options.optimizer == "adamw":
        return replace(options, lr=0.001)
    return replace(options, lr=0.002 if task == "detect" else 0.1)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
