"""Darknet's output layers: how to plan them and how to read what enters them.

``forward`` of an output layer passes its input on; ``decode`` turns that input into boxes and scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from crossstage.darknet.cfg import shorten
from crossstage.darknet.operations import Softmax
from crossstage.darknet.plan import FeatureShape, PlannedLayer, Scope
from crossstage.errors import ConfigError
from crossstage.ops.boxes import cell_grid, cxcywh_to_xyxy, decode_yolo

AnchorSizes = tuple[tuple[float, float], ...]


class BoxOutput(nn.Module, ABC):
    """An output layer that holds boxes."""

    def forward(self, x: Tensor) -> Tensor:
        """Pass the raw tensor on."""
        return x

    @abstractmethod
    def decode(self, raw: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Turn a raw tensor into boxes and scores.

        Args:
            raw: The tensor that enters the layer.
            input_size: Height and width of the network's input in pixels.

        Returns:
            Boxes ``(N, K, 4)`` as xyxy in pixels of the input, and scores ``(N, K, classes)``.
        """


class Yolo(BoxOutput):
    """``[yolo]``: YOLOv3 and later, see :func:`crossstage.ops.boxes.decode_yolo`."""

    def __init__(self, anchors: AnchorSizes, scale_x_y: float, *, new_coords: bool) -> None:
        super().__init__()
        self.anchors, self.scale_x_y, self.new_coords = anchors, scale_x_y, new_coords

    def decode(self, raw: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`BoxOutput.decode`."""
        return decode_yolo(
            raw, self.anchors, input_size=input_size, scale_x_y=self.scale_x_y, new_coords=self.new_coords
        )


class GaussianYolo(BoxOutput):
    """``[Gaussian_yolo]`` (arXiv 1904.04620): each coordinate has an uncertainty, whose mean lowers the score."""

    def __init__(self, anchors: AnchorSizes, scale_x_y: float) -> None:
        super().__init__()
        self.anchors, self.scale_x_y = anchors, scale_x_y

    def decode(self, raw: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`BoxOutput.decode`."""
        maps = raw.unflatten(1, (len(self.anchors), -1))
        plain = torch.cat([maps[:, :, 0:8:2], maps[:, :, 8:]], dim=2).flatten(1, 2)
        boxes, scores = decode_yolo(plain, self.anchors, input_size=input_size, scale_x_y=self.scale_x_y)
        spread = maps[:, :, 1:8:2].sigmoid()
        k = self.scale_x_y
        centre, size = spread[:, :, :2] * k - (k - 1) / 2, spread[:, :, 2:]  # Darknet stretches these two as well
        certainty = 1 - torch.cat([centre, size], dim=2).mean(2)
        return boxes, scores * certainty.flatten(1).unsqueeze(-1)


class Region(BoxOutput):
    """``[region]``: YOLOv2, whose anchors are in cells and whose classes may be a softmax."""

    def __init__(self, anchors: AnchorSizes, *, softmax: bool, tree: bool) -> None:
        super().__init__()
        self.anchors, self.softmax, self.tree = anchors, softmax, tree

    def decode(self, raw: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`BoxOutput.decode`; classes that form a tree (YOLO9000) need a file the cfg only names."""
        if self.tree:
            raise ConfigError("the [region] layer's classes form a tree, which cannot be decoded; use forward()")
        height, width = raw.shape[2:]
        cell = raw.new_tensor([input_size[1] / width, input_size[0] / height])
        maps = raw.unflatten(1, (len(self.anchors), -1)).movedim(2, -1)  # (N, A, H, W, 5 + classes)
        column, row = cell_grid(height, width, raw)
        centre = (maps[..., 0:2].sigmoid() + torch.stack([column, row], dim=-1)) * cell
        size = maps[..., 2:4].exp() * raw.new_tensor(self.anchors)[:, None, None] * cell
        classes = maps[..., 5:].softmax(-1) if self.softmax else maps[..., 5:]
        boxes = cxcywh_to_xyxy(torch.cat([centre, size], dim=-1))
        return boxes.flatten(1, 3), (maps[..., 4:5].sigmoid() * classes).flatten(1, 3)


class Detection(BoxOutput):
    """``[detection]``: YOLOv1, a vector of class scores, objectness and boxes for each cell of a square grid."""

    def __init__(self, side: int, boxes: int, classes: int, *, square_root: bool, softmax: bool) -> None:
        super().__init__()
        self.side, self.boxes, self.classes = side, boxes, classes
        self.square_root, self.softmax = square_root, softmax

    def decode(self, raw: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`BoxOutput.decode`."""
        batch, cells = raw.shape[0], self.side**2
        classes, objectness, boxes = raw.flatten(1).split(
            [cells * self.classes, cells * self.boxes, cells * self.boxes * 4], dim=1
        )
        classes = classes.view(batch, cells, 1, self.classes)
        if self.softmax:
            classes = classes.softmax(-1)
        column, row = cell_grid(self.side, self.side, raw)
        corner = torch.stack([column, row], dim=-1).view(cells, 1, 2)
        boxes = boxes.view(batch, cells, self.boxes, 4)
        size = boxes[..., 2:].square() if self.square_root else boxes[..., 2:]
        scale = raw.new_tensor([input_size[1], input_size[0]])
        decoded = torch.cat([(boxes[..., :2] + corner) / self.side * scale, size * scale], dim=-1)
        scores = objectness.view(batch, cells, self.boxes, 1) * classes
        return cxcywh_to_xyxy(decoded).flatten(1, 2), scores.flatten(1, 2)


def _anchors(scope: Scope, count: int) -> AnchorSizes:
    numbers = scope.section.numbers("anchors")
    if len(numbers) < 2 * count:
        raise scope.section.error(
            f"anchors= holds {len(numbers)} numbers; expected {2 * count}, two for each of num", "anchors"
        )
    if min(numbers[: 2 * count]) <= 0:
        raise scope.section.error("anchors= holds a size that is not positive", "anchors")
    return tuple(zip(numbers[0 : 2 * count : 2], numbers[1 : 2 * count : 2], strict=True))


def _masked_anchors(scope: Scope) -> AnchorSizes:
    """Return the anchors that ``mask`` picks of ``num``; all of them without a mask."""
    total = scope.section.integer("num", 1, low=1, high=1000)
    mask = scope.section.integers("mask") or list(range(total))
    if not all(0 <= index < total for index in mask):
        given = shorten(scope.section.text("mask", ""))
        raise scope.section.error(f"mask={given} picks from num={total} anchors; expected 0 to {total - 1}", "mask")
    anchors = _anchors(scope, total)
    return tuple(anchors[index] for index in mask)


def _check_channels(scope: Scope, boxes: int, values: int) -> None:
    if scope.shape.channels != boxes * values:
        raise scope.section.error(
            f"layer {scope.index} needs {boxes} anchors x {values} values = {boxes * values} channels; "
            f"the layer before has {scope.shape.channels} filters"
        )


def _output(scope: Scope, build: Callable[[], nn.Module]) -> PlannedLayer:
    return scope.layer(scope.shape, lambda _: build(), is_output=True)


def _yolo(scope: Scope) -> PlannedLayer:
    section, anchors = scope.section, _masked_anchors(scope)
    _check_channels(scope, len(anchors), 5 + section.integer("classes", 20, low=0))
    scale, new_coords = section.number("scale_x_y", 1), section.flag("new_coords")
    return _output(scope, lambda: Yolo(anchors, scale, new_coords=new_coords))


def _gaussian_yolo(scope: Scope) -> PlannedLayer:
    section, anchors = scope.section, _masked_anchors(scope)
    if (point := section.text("yolo_point", "center")) != "center":
        raise section.error(f"yolo_point={shorten(point)}; only center is supported", "yolo_point")
    _check_channels(scope, len(anchors), 9 + section.integer("classes", 20, low=0))
    scale = section.number("scale_x_y", 1)
    return _output(scope, lambda: GaussianYolo(anchors, scale))


def _region(scope: Scope) -> PlannedLayer:
    section = scope.section
    if section.integer("coords", 4) != 4:
        raise section.error(f"coords={section.integer('coords', 4)}; expected 4", "coords")
    anchors = _anchors(scope, section.integer("num", 1, low=1, high=1000))
    _check_channels(scope, len(anchors), 5 + section.integer("classes", 20, low=0))
    softmax, tree = section.flag("softmax"), "tree" in section.options
    return _output(scope, lambda: Region(anchors, softmax=softmax, tree=tree))


def _detection(scope: Scope) -> PlannedLayer:
    section = scope.section
    side, boxes = section.integer("side", 7, low=1, high=1000), section.integer("num", 1, low=1, high=1000)
    classes, coords = section.integer("classes", 1, low=1), section.integer("coords", 1)
    expected = side * side * (classes + boxes * (1 + coords))
    if coords != 4 or scope.shape.elements != expected:
        raise section.error(
            f"side={side} num={boxes} classes={classes} coords={coords} need {expected} values; "
            f"the layer before has {scope.shape.elements}"
        )
    square_root, softmax = section.flag("sqrt"), section.flag("softmax")
    return _output(scope, lambda: Detection(side, boxes, classes, square_root=square_root, softmax=softmax))


def _softmax(scope: Scope) -> PlannedLayer:
    section, shape = scope.section, scope.shape
    if "tree" in section.options:  # probabilities need a file that the cfg only names; what enters does not
        return _output(scope, nn.Identity)
    groups, spatial = section.integer("groups", 1, low=1), section.flag("spatial")
    temperature = section.number("temperature", 1)
    if temperature <= 0:
        raise section.error(f"temperature={temperature}; expected a positive number", "temperature")
    if not spatial and shape.elements % groups:
        raise section.error(f"groups={groups} does not divide {shape.elements} values", "groups")
    return scope.layer(FeatureShape(*shape), lambda _: Softmax(temperature, groups, spatial=spatial), is_output=True)


OUTPUT_KINDS: dict[str, Callable[[Scope], PlannedLayer]] = {
    "yolo": _yolo,
    "Gaussian_yolo": _gaussian_yolo,
    "region": _region,
    "detection": _detection,
    "softmax": _softmax,
}
