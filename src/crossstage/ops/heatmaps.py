"""Heat maps of objects' centres: what CenterNet is trained towards, and the peaks that it finds (arXiv 1904.07850)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from crossstage.structures import Targets

OVERLAP = 0.7  # IoU that a box still has with the object's when its corners are off by the radius


class Centres(NamedTuple):
    """Where the centres of ``M`` objects lie on a map.

    Attributes:
        object_index: ``(M,)`` int64, position in the targets; objects without an area on the map are left out.
        image_index: ``(M,)`` int64, position in the batch.
        row: ``(M,)`` int64.
        column: ``(M,)`` int64.
        sizes: ``(M, 2)`` width and height in cells.
        offsets: ``(M, 2)`` in [0, 1), how far the centre lies right of and below the cell's upper left corner.
        radii: ``(M,)`` whole numbers of cells, see :func:`gaussian_radii`.
    """

    object_index: Tensor
    image_index: Tensor
    row: Tensor
    column: Tensor
    sizes: Tensor
    offsets: Tensor
    radii: Tensor


def gaussian_radii(sizes: Tensor, overlap: float = OVERLAP) -> Tensor:
    """Return how far corners may be off so that a box keeps some IoU, in whole numbers of at least 0.

    The smallest of three radii as CornerNet's and CenterNet's code computes them: their first and third formula do not
    divide by twice the leading coefficient of the quadratic equation, and the first two take its larger root, so that
    in effect the third decides.

    Args:
        sizes: ``(M, 2)`` widths and heights.
        overlap: The IoU, in (0, 1).
    """
    width, height = sizes.double().unbind(-1)
    total, area = width + height, width * height
    shifted = (total + (total.square() - 4 * area * (1 - overlap) / (1 + overlap)).sqrt()) / 2
    inside = (2 * total + (4 * total.square() - 16 * (1 - overlap) * area).sqrt()) / 2
    linear = -2 * overlap * total
    around = (linear + (linear.square() + 16 * overlap * (1 - overlap) * area).sqrt()) / 2
    return torch.stack([shifted, inside, around]).amin(0).clamp(min=0).floor().to(sizes)


def locate(targets: Targets, stride: int, shape: tuple[int, int]) -> Centres:
    """Find the cells that hold the centres of objects, whose boxes are clipped to the map.

    Args:
        targets: The objects, in pixels of the input.
        stride: Pixels of the input per cell.
        shape: Height and width of the map in cells.
    """
    height, width = shape
    most = targets.boxes_xyxy.new_tensor([width - 1, height - 1] * 2)
    boxes = torch.minimum((targets.boxes_xyxy / stride).clamp(min=0), most)
    kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1).nonzero().squeeze(1)
    boxes = boxes[kept]
    sizes, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    cells = centres.floor()
    column, row = cells.long().unbind(1)
    radii = gaussian_radii(sizes.ceil())
    return Centres(kept, targets.image_index[kept], row, column, sizes, centres - cells, radii)


def draw(centres: Centres, class_ids: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Draw a Gaussian around each centre on the map of its class; where several overlap, the largest value counts.

    A Gaussian ends at its radius ``r`` and has a standard deviation of a sixth of ``2 r + 1`` cells.

    Args:
        centres: The centres.
        class_ids: ``(M,)`` int64, their classes.
        shape: Number of images and classes, height and width of the maps.

    Returns:
        A tensor of that shape, in [0, 1]; 1 at the centres alone.
    """
    _, _, height, width = shape
    maps = centres.sizes.new_zeros(shape)
    rows = torch.arange(height, device=maps.device) - centres.row.unsqueeze(1)  # (M, H)
    columns = torch.arange(width, device=maps.device) - centres.column.unsqueeze(1)  # (M, W)
    variances = ((2 * centres.radii + 1) / 6).square()
    for image, class_id in torch.stack([centres.image_index, class_ids], 1).unique(dim=0).tolist():
        mine = (centres.image_index == image) & (class_ids == class_id)
        row, column = rows[mine].unsqueeze(2), columns[mine].unsqueeze(1)
        within = torch.maximum(row.abs(), column.abs()) <= centres.radii[mine].view(-1, 1, 1)
        values = (-(row.square() + column.square()) / (2 * variances[mine].view(-1, 1, 1))).exp()
        maps[image, class_id] = (values * within).amax(0)
    return maps


def peaks(maps: Tensor) -> Tensor:
    """Zero all values but those that are as large as their eight neighbours.

    Args:
        maps: ``(N, C, H, W)``, 0 or more.
    """
    return maps * (maps == F.max_pool2d(maps, 3, 1, 1))


def best(maps: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the largest values of each image, over all classes.

    Args:
        maps: ``(N, C, H, W)``, 0 or more.
        count: How many to find, at most as many as there are.

    Returns:
        Values, classes and cells, row after row, each ``(N, K)``, in the order of classes and cells rather than of
        values, which two that are nearly equal would change. Where fewer are above 0, zeros follow.
    """
    cells = maps.shape[2] * maps.shape[3]
    flat = maps.flatten(1)
    every = flat.shape[1]
    values, index = flat.topk(torch.sym_min(count, every))  # pyright: ignore[reportArgumentType] (a whole number)
    index = torch.where(values > 0, index, every).sort().values
    there = index < every
    index = index * there
    class_ids = index // cells
    return flat.gather(1, index) * there, class_ids, index - class_ids * cells  # exporters cannot write remainders


def centre_focal_loss(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """Return the focal loss of heat maps, divided by the number of centres if there are any (CornerNet, equation 1).

    Args:
        logits: Any shape.
        target: The same shape, in [0, 1]: 1 at centres, which alone are positive; the nearer a negative's value comes
            to 1, the less it counts.
        alpha: Exponent of the distance between prediction and target.
        beta: Exponent of the distance between a negative's value and 1.
    """
    found = logits.sigmoid().clamp(1e-4, 1 - 1e-4)  # as the authors clamp, beyond which there is no gradient
    centre = target == 1
    positive = found.log() * (1 - found).pow(alpha)
    negative = (1 - found).log() * found.pow(alpha) * (1 - target).pow(beta)
    return -torch.where(centre, positive, negative).sum() / centre.sum().clamp(min=1)
