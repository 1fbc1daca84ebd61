"""Tasks: the loss of a batch, and how a model is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from crossstage.data.augment import mosaic_labels, seeded
from crossstage.data.loading import Batch, ValBatch
from crossstage.data.records import ClassificationData, Dataset, DetectionData, with_classes
from crossstage.errors import ConfigError
from crossstage.evaluation import (
    ClassificationReport,
    CocoReport,
    classification_report,
    coco_metrics,
    match_classes,
    results_of,
    scores_masks,
)
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.models.heads.base import Head, HeadConfig, with_loss
from crossstage.ops.masks import resize
from crossstage.ops.nms import for_evaluation
from crossstage.structures import Preprocessing, Targets
from crossstage.training.options import RunOptions

SIZE_STEPS = 10  # steps between two sizes of a multi-scale training, as in Darknet


@dataclass(frozen=True)
class Scores:
    """How good a model is.

    Attributes:
        metrics: Figures by name, each from 0 to 1.
        fitness: The figure by which the best weights are chosen.
        report: The whole report.
        found: What was found in each image, for the plots.
    """

    metrics: dict[str, float]
    fitness: float
    report: CocoReport | ClassificationReport
    found: Any


class Task(ABC):
    """A model with its loss and its measure.

    Args:
        preprocessing: How images become input.
        val: The dataset that the model is scored on.
        options: The options of the training.
        stride: The number that the input's height and width are multiples of.
    """

    fitness_name: str

    def __init__(self, preprocessing: Preprocessing, val: Dataset, options: RunOptions, stride: int) -> None:
        self.preprocessing, self.val, self.options, self.stride = preprocessing, val, options, stride

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return the parts of a batch's loss, whose sum is minimised."""

    @abstractmethod
    def find(self, model: nn.Module, batch: ValBatch) -> list[tuple[int, Any]]:
        """Return what a model finds in images: for each its position in the dataset, and plain values."""

    @abstractmethod
    def score(self, found: Sequence[tuple[int, Any]]) -> Scores:
        """Score what was found in all images; each counts once, however often it was looked at."""

    def images(self, batch: Batch, step: int) -> Tensor:
        """Return a batch's images, not normalised yet, in a size that varies if the training is multi-scale."""
        images = batch.images.to(torch.float32, memory_format=torch.channels_last)
        if self.options.multi_scale:
            size = self.size_at(step, (images.shape[2], images.shape[3]))
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        return images

    def least_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the smallest input of a training whose images have some size."""
        height, width = (
            max(1, round(side * (1 - self.options.multi_scale) / self.stride)) * self.stride
            if self.options.multi_scale
            else side
            for side in size
        )
        return height, width

    def size_at(self, step: int, size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the input at a step: multiples of the stride around those of its images."""
        with seeded(self.options.seed, step // SIZE_STEPS):
            ratio = float(torch.empty(()).uniform_(1 - self.options.multi_scale, 1 + self.options.multi_scale))
        height, width = (max(1, round(side * ratio / self.stride)) * self.stride for side in size)
        return height, width


class DetectionTask(Task):
    """A detector, scored by COCO's average precision: of masks, if it finds some and the val images have some.

    Attributes:
        masks: Whether the loss wants the masks of the objects.
        scores_masks: Whether masks are scored.
    """

    def __init__(self, detector: Detector, train: DetectionData, val: DetectionData, options: RunOptions) -> None:
        preprocessing = detector.preprocessing.for_divisor(detector.size_divisor)
        super().__init__(preprocessing, val, options, detector.size_divisor)
        self.detector = detector
        self.nms = for_evaluation(detector.nms)
        self.dataset = val
        self.category_of = match_classes(detector.class_names, val.categories)
        self.masks, self.scores_masks = detector.finds_masks, scores_masks(detector, val)
        self.fitness_name = "AP_mask" if self.scores_masks else "AP"
        self.rows: tuple[HeadConfig, HeadConfig] | None = None  # of the head, in the last, plain epochs and before
        if options.loss or options.plain_loss or options.class_weights == "balanced":
            self._set_up_loss(train)

    def _set_up_loss(self, train: DetectionData) -> None:
        """Give the head the options' settings of its loss, and weights of its classes.

        Raises:
            ConfigError: The detector has no such settings.
        """
        head = getattr(self.detector, "head", None)
        if not isinstance(head, Head):
            raise ConfigError("loss, plain_loss and class_weights are for a detector whose head has a loss of its own")
        head.row = with_loss(head.row, self.options.loss)
        if self.options.plain_loss:
            self.rows = with_loss(head.row, self.options.plain_loss), head.row
        if self.options.class_weights == "balanced":
            if not head.weighs_classes:
                raise ConfigError(f"class_weights: the loss of a {type(head).__name__} does not weigh classes")
            head.class_weights = balanced(torch.from_numpy(train.counts))

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return the parts of the detector's loss."""
        images = self.images(batch, step)
        assert isinstance(batch.targets, Targets)
        if self.rows is not None:
            self.detector.head.row = self.rows[batch.epoch < self.options.plain_from]  # pyright: ignore
        before, after = ((x.shape[2], x.shape[3]) for x in (batch.images, images))
        targets = batch.targets if before == after else resized(batch.targets, before, after)
        return model.loss(self.preprocessing.normalise(images), targets)  # pyright: ignore[reportCallIssue]

    def find(self, model: nn.Module, batch: ValBatch) -> list[tuple[int, Any]]:
        """Return detections in COCO's result format."""
        images = self.preprocessing.normalise(batch.images)
        raw = {name: tensor.float() for name, tensor in model(images).items()}
        height, width = images.shape[-2:]
        sizes = [placement.extent for placement in batch.placements]
        found = model.detect(raw, (height, width), self.nms, sizes)  # pyright: ignore[reportCallIssue]
        return [
            (index, results_of(one, place, self.dataset.images[index].id, self.category_of, masks=self.scores_masks))
            for index, place, one in zip(batch.indices, batch.placements, found, strict=True)
        ]

    def score(self, found: Sequence[tuple[int, Any]]) -> Scores:
        """Return COCO's metrics."""
        results = [entry for _, entries in sorted(dict(found).items()) for entry in entries]
        report = coco_metrics(results, self.dataset, masks=self.scores_masks)
        metrics = {"AP": report.ap or 0.0, "AP50": report.ap50 or 0.0, "AP75": report.ap75 or 0.0}
        if report.masks is not None:
            metrics |= {f"{name.upper()}_mask": report.masks[name] or 0.0 for name in ("ap", "ap50", "ap75")}
        return Scores(metrics, metrics[self.fitness_name], report, results)


def resized(targets: Targets, before: tuple[int, int], after: tuple[int, int]) -> Targets:
    """Return the objects of a batch whose images were resized.

    Args:
        targets: The objects.
        before: Height and width that the input had, in pixels.
        after: Height and width that it has.
    """
    vertical, horizontal = (now / then for now, then in zip(after, before, strict=True))
    boxes, sizes = targets.boxes_xyxy, targets.sizes
    if sizes is not None:
        factors = torch.tensor([vertical, horizontal], device=sizes.device)
        sizes = (sizes * factors).round().long().clamp(min=1)
    return targets._replace(
        boxes_xyxy=boxes * boxes.new_tensor([horizontal, vertical, horizontal, vertical]),
        masks=None if targets.masks is None else resize(targets.masks, after),
        sizes=sizes,
    )


class ClassificationTask(Task):
    """A classifier, scored by its accuracy."""

    fitness_name = "top1"

    def __init__(
        self, classifier: Classifier, train: ClassificationData, val: ClassificationData, options: RunOptions
    ) -> None:
        assert classifier.preprocessing is not None
        self.dataset = with_classes(val, train.class_names)
        stride = classifier.size_divisor
        super().__init__(classifier.preprocessing.for_divisor(stride), self.dataset, options, stride)
        self.classes = len(train.class_names)
        counts = torch.from_numpy(train.counts)
        self.weights = balanced(counts) if options.class_weights == "balanced" else None
        self.mixes: list[tuple[float, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]] = [
            (options.augment.mixup, v2.MixUp(alpha=0.2, num_classes=self.classes)),
            (options.augment.cutmix, v2.CutMix(alpha=1.0, num_classes=self.classes)),
            (options.augment.mosaic_labels, partial(mosaic_labels, num_classes=self.classes)),
        ]

    def losses(self, model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        images, labels = self.images(batch, step), batch.targets
        assert isinstance(labels, Tensor)
        for probability, mix in self.mixes:
            if batch.epoch < self.options.plain_from and probability > float(torch.rand(())):
                images, labels = mix(images, labels)
                break
        logits = model(self.preprocessing.normalise(images)).float()
        weight = None if self.weights is None else self.weights.to(logits)
        return {"loss": F.cross_entropy(logits, labels, weight, label_smoothing=self.options.label_smoothing)}

    def find(self, model: nn.Module, batch: ValBatch) -> list[tuple[int, Any]]:
        """Return the five likeliest classes and their probabilities."""
        logits = model(self.preprocessing.normalise(batch.images)).float()
        best = logits.softmax(1).topk(min(5, logits.shape[1]), dim=1)
        return list(zip(batch.indices, zip(best.indices.tolist(), best.values.tolist(), strict=True), strict=True))

    def score(self, found: Sequence[tuple[int, Any]]) -> Scores:
        """Return the accuracy, and which classes are taken for which."""
        by_index = sorted(dict(found).items())
        report = classification_report([entry for _, entry in by_index], self.dataset)
        metrics = {"top1": report.top1, "top5": report.top5}
        return Scores(metrics, report.top1, report, by_index)


def balanced(counts: Tensor) -> Tensor:
    """Return factors in inverse proportion to how often classes occur, 1 on the average of all objects.

    A class that does not occur has the factor 1, and no part in the others' factors.
    """
    present = counts > 0
    weights = counts.sum() / (present.sum().clamp(min=1) * counts.clamp(min=1)).float()
    return torch.where(present, weights, 1.0)
