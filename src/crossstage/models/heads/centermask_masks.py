"""The second stage of CenterMask (arXiv 1911.06667): masks of regions guided by spatial attention, and their quality.

Sources: CenterMask for the rule of levels (equation 1) and the attention (section 3.3), Mask Scoring R-CNN (arXiv
1903.00241) for the predicted IoU of masks. Its targets count the part of an object outside of its region, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from crossstage.ops.masks import THRESHOLD

POOLED = 14  # side of a region's features in cells
SIDE = 2 * POOLED  # of its mask
_HIDDEN = 1024


def levels_by_ratio(boxes_xyxy: Tensor, image_areas: Tensor, coarsest: int, levels: Sequence[int]) -> Tensor:
    """Choose the map that each region is read from by its share of the image (CenterMask, equation 1).

    ``k = ceil(coarsest - log2(image's area / box's area))``, within the levels that there are. A map of level ``k`` has
    a stride of 2 to the power of ``k``.

    Args:
        boxes_xyxy: ``(R, 4)`` corners in pixels.
        image_areas: ``(R,)`` area of each box's image in square pixels.
        coarsest: The level of a box that fills its image, before it is brought within ``levels``.
        levels: The levels, ascending and without a gap.

    Returns:
        ``(R,)`` int64 indices into ``levels``.
    """
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp(min=0).prod(-1)
    level = (coarsest - (image_areas / areas).log2()).ceil()  # minus infinity where a box has no area
    return level.clamp(levels[0], levels[-1]).long() - levels[0]


def cropped(masks: Tensor, objects: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Return objects' masks on a grid over boxes.

    Args:
        masks: ``(M, H, W)`` bool, the objects' masks in pixels of the input.
        objects: ``(R,)`` int64, the object of each box.
        boxes_xyxy: ``(R, 4)`` corners in pixels of the input.

    Returns:
        ``(R, SIDE, SIDE)`` bool: which cells are mostly covered.
    """
    grids = boxes_xyxy.new_zeros(len(objects), SIDE, SIDE)
    for number in objects.unique():  # one after the other: masks are large, and more so as numbers
        mine = (objects == number).nonzero().squeeze(1)
        mask = masks[number][None, None].to(boxes_xyxy)
        grids[mine] = roi_align(mask, [boxes_xyxy[mine]], SIDE, aligned=True).squeeze(1)
    return grids >= THRESHOLD


def mask_ious(found: Tensor, wanted: Tensor, areas: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Return the IoU of masks on grids over boxes with objects that may reach over these.

    Args:
        found: ``(R, SIDE, SIDE)`` bool, cells that were found to belong to the object.
        wanted: ``(R, SIDE, SIDE)`` bool, cells that do, see :func:`cropped`.
        areas: ``(R,)`` pixels of the whole object.
        boxes_xyxy: ``(R, 4)`` corners in pixels of the input.

    Returns:
        ``(R,)`` in [0, 1].
    """
    overlap, mine, inside = (each.flatten(1).sum(1) for each in (found & wanted, found, wanted))
    whole = torch.maximum(areas * SIDE**2 / (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(-1), inside.to(boxes_xyxy))
    return overlap / (mine + whole - overlap).clamp(min=1)


class MaskAttention(nn.Module):
    """Weigh each place by what the mean and the largest of its channels say (CenterMask, equation 2).

    Shape: ``(N, C, H, W)`` to the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply by the weights."""
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.conv(seen).sigmoid()


class MaskBranch(nn.Module):
    """Convolutions, spatial attention, and a mask of twice the size for each class.

    Shape: features ``(R, width, POOLED, POOLED)`` to logits ``(R, num_classes, SIDE, SIDE)``.

    Args:
        width: Channels of features and convolutions.
        convs: Number of 3x3 convolutions.
        num_classes: Number of classes.
    """

    def __init__(self, width: int, convs: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*_convs(width, width, convs))
        self.attention = MaskAttention()
        self.enlarge = nn.ConvTranspose2d(width, width, 2, 2)
        self.predict = nn.Conv2d(width, num_classes, 1)
        _draw(self)
        nn.init.normal_(self.predict.weight, std=0.001)

    def forward(self, features: Tensor) -> Tensor:
        """Predict logits."""
        return self.predict(self.enlarge(self.attention(self.convs(features))).relu())


class MaskIoUBranch(nn.Module):
    """Predict for each class how much a region's mask overlaps its object.

    Shape: features ``(R, width, POOLED, POOLED)`` and a mask ``(R, 1, SIDE, SIDE)`` in [0, 1] to ``(R, num_classes)``.

    Args:
        width: Channels of features and convolutions.
        convs: Number of 3x3 convolutions, the last of which has stride 2; at least 1.
        num_classes: Number of classes.
    """

    def __init__(self, width: int, convs: int, num_classes: int) -> None:
        super().__init__()
        self.shrink = nn.MaxPool2d(2)
        self.convs = nn.Sequential(*_convs(width + 1, width, convs, last_stride=2))
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(width * (POOLED // 2) ** 2, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
        )
        self.predict = nn.Linear(_HIDDEN, num_classes)
        _draw(self)
        nn.init.normal_(self.predict.weight, std=0.01)

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        """Predict IoUs, which may lie a little outside of [0, 1]."""
        return self.predict(self.hidden(self.convs(torch.cat([features, self.shrink(masks)], dim=1))))


def _convs(width: int, out: int, count: int, *, last_stride: int = 1) -> list[nn.Module]:
    """Build 3x3 convolutions, each with ReLU."""
    layers: list[nn.Module] = []
    for index in range(count):
        stride = last_stride if index == count - 1 else 1
        layers += [nn.Conv2d(out if index else width, out, 3, stride, 1), nn.ReLU()]
    return layers


def _draw(module: nn.Module) -> None:
    """Draw convolutions by fan out and linear layers by fan in, with biases of 0, as detectron2 does."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
