"""Parts of heads of two stages: the settings of their loss, anchors without rounding, and small tools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from crossstage.errors import ConfigError
from crossstage.models.heads.base import check_numbers

HeadNorm = Literal["none", "batch", "group"]


@dataclass(frozen=True)
class RCNNLoss:
    """How the two stages are trained.

    Attributes:
        objectness_gain: Weight of the loss of the proposals' objectness.
        proposal_gain: Weight of the loss of the proposals' boxes.
        class_gain: Weight of the loss of classes.
        box_gain: Weight of the loss of boxes.
        mask_gain: Weight of the loss of masks.
        anchor_ious: An anchor is background below the first overlap with all objects, and an object from the second on.
        anchors_sampled: Anchors of an image that count, at most half of them objects.
        proposals: Proposals of an image in training: the best of each map before suppression, and of all after it.
        roi_iou: The overlap with an object from which on a region is one.
        rois_sampled: Regions of an image that count, at most a quarter of them objects.

    Raises:
        ConfigError: A value is out of range.
    """

    objectness_gain: float = 1.0
    proposal_gain: float = 1.0
    class_gain: float = 1.0
    box_gain: float = 1.0
    mask_gain: float = 1.0
    anchor_ious: tuple[float, float] = (0.3, 0.7)
    anchors_sampled: int = 256
    proposals: tuple[int, int] = (2000, 2000)
    roi_iou: float = 0.5
    rois_sampled: int = 512

    def __post_init__(self) -> None:
        check_numbers(self, "objectness_gain", "proposal_gain", "class_gain", "box_gain", "mask_gain")
        low, high = self.anchor_ious
        if not 0 <= low <= high <= 1:
            raise ConfigError(f"loss.anchor_ious are {self.anchor_ious}; expected 0 to 1, ascending")
        if min(self.proposals) < 1:
            raise ConfigError(f"loss.proposals are {self.proposals}; expected at least 1 each")
        check_numbers(self, "roi_iou", most=1.0)
        check_numbers(self, "anchors_sampled", "rois_sampled", least=1, whole=True)


class ExactAnchors(AnchorGenerator):
    """torchvision's anchors without its rounding to whole pixels."""

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (the signature that it overrides)
    ) -> Tensor:
        """Return corners ``(A, 4)`` of anchors around 0."""
        sizes = torch.as_tensor(scales, dtype=dtype, device=device)
        roots = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        widths, heights = (sizes / roots.unsqueeze(1)).flatten(), (sizes * roots.unsqueeze(1)).flatten()
        return torch.stack([-widths, -heights, widths, heights], dim=1) / 2


def norm_of(kind: HeadNorm) -> Callable[..., nn.Module] | None:
    """Return what builds the norm of a number of channels; None for none."""
    return {"none": None, "batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 32)}[kind]


def best_of(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the values and indices of the ``count`` best of ``(K,)`` scores, or of all if there are fewer."""
    most: Any = torch.sym_min(count, scores.shape[0])  # not min(), which a recorded graph would take for a constant
    values, indices = scores.topk(most)
    return values, indices


def apart(joined: Tensor, images: Sequence[Tensor]) -> list[Tensor]:
    """Split a tensor into parts that are as long as those of each image."""
    return [joined] if len(images) == 1 else list(joined.split([len(each) for each in images]))
