"""The YOLO loss, against loops over the definitions and against finite differences."""

import math

import pytest
import torch
from torchvision.ops import complete_box_iou_loss

from crossstage.errors import ConfigError
from crossstage.models.heads.yolo import YoloConfig, YoloHead, YoloLossConfig
from crossstage.ops.assigners import assign_by_shape
from crossstage.ops.boxes import shape_iou
from crossstage.ops.priors import AnchorLevel
from crossstage.structures import Targets

LEVELS = (
    AnchorLevel(16, ((10, 14), (23, 27), (37, 58)), scale_x_y=1.05),
    AnchorLevel(32, ((81, 82), (135, 169)), scale_x_y=1.0),
)
CLASSES = 3
SIZE = 64
TARGETS = Targets(
    torch.tensor([0, 0, 1]),
    torch.tensor([2, 0, 1]),
    torch.tensor([[5.0, 8.0, 30.0, 33.0], [20.0, 10.0, 62.0, 60.0], [40.0, 41.0, 52.0, 60.0]], dtype=torch.float64),
)
NOTHING = Targets(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4).double())


def random_raw(seed: int = 0, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, len(lv.anchors) * (5 + CLASSES), SIZE // lv.stride, SIZE // lv.stride) for lv in LEVELS]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def loss_of(raw, targets: Targets, config: YoloLossConfig | None = None, class_weights=None) -> dict[str, torch.Tensor]:
    """The loss of the head, whose raw maps are given instead of computed."""
    head = YoloHead(YoloConfig(levels=LEVELS, loss=config or YoloLossConfig()), [4, 4], [16, 32], CLASSES)
    head.class_weights = class_weights
    return head.loss(dict(zip(head.raw_names, raw, strict=True)), targets, (SIZE, SIZE))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce(logit: float, target: float, gamma: float = 0.0) -> float:
    p = sigmoid(logit)
    return abs(target - p) ** gamma * -(target * math.log(p) + (1 - target) * math.log(1 - p))


def iou_of(a, b) -> tuple[float, float, float]:
    """IoU, union, and area of the enclosing box."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = area[0] + area[1] - width * height
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return width * height / union, union, hull


def box_loss(kind: str, a, b) -> float:
    """Losses as the papers define them."""
    iou, union, hull = iou_of(a, b)
    if kind == "giou":  # arXiv 1902.09630, algorithm 1
        return 1 - (iou - (hull - union) / hull)
    centres = sum(((a[i] + a[i + 2]) / 2 - (b[i] + b[i + 2]) / 2) ** 2 for i in (0, 1))
    diagonal = sum((max(a[i + 2], b[i + 2]) - min(a[i], b[i])) ** 2 for i in (0, 1))
    if kind == "diou":  # arXiv 1911.08287, equation 7
        return 1 - iou + centres / diagonal
    ratio = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (b, a)]
    v = 4 / math.pi**2 * (ratio[0] - ratio[1]) ** 2  # equations 9 to 11
    return 1 - iou + centres / diagonal + v / ((1 - iou) + v) * v


def loops(raw, targets: Targets, config: YoloLossConfig) -> tuple[float, float, float]:
    """The loss of a batch, one prediction at a time."""
    batch = raw[0].shape[0]
    sums = [0.0, 0.0, 0.0]
    objects = list(zip(*(part.tolist() for part in targets[:3]), strict=True))
    shapes = [(lv, number, anchor) for lv in LEVELS for number, anchor in enumerate(lv.anchors)]

    def like(box, anchor) -> float:
        return iou_of((0, 0, box[2] - box[0], box[3] - box[1]), (0, 0, *anchor))[0]

    responsible: dict[tuple, list[int]] = {}
    for index, (image, _, box) in enumerate(objects):
        best = max(like(box, anchor) for *_, anchor in shapes)
        for level, number, anchor in shapes:
            wide = config.assign == "iou" and like(box, anchor) > config.assign_iou
            if like(box, anchor) == best or wide:
                cell = [int((box[i] + box[i + 2]) / 2 // level.stride) for i in (0, 1)]
                responsible.setdefault((level.stride, image, number, cell[1], cell[0]), []).append(index)
    for tensor, level in zip(raw, LEVELS, strict=True):
        cells = SIZE // level.stride
        values = tensor.view(batch, len(level.anchors), 5 + CLASSES, cells, cells)
        for image in range(batch):
            for number, (anchor_w, anchor_h) in enumerate(level.anchors):
                for row in range(cells):
                    for column in range(cells):
                        t = values[image, number, :, row, column].tolist()
                        s = level.scale_x_y
                        x = (sigmoid(t[0]) * s - (s - 1) / 2 + column) * level.stride
                        y = (sigmoid(t[1]) * s - (s - 1) / 2 + row) * level.stride
                        w, h = math.exp(t[2]) * anchor_w, math.exp(t[3]) * anchor_h
                        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
                        mine = responsible.get((level.stride, image, number, row, column), [])
                        overlap = max((iou_of(box, o[2])[0] for o in objects if o[0] == image), default=0.0)
                        if mine or overlap <= config.ignore_iou:
                            sums[1] += bce(t[4], 1.0 if mine else 0.0, config.focal_gamma)
                        for index in mine:
                            _, class_id, true = objects[index]
                            sums[0] += box_loss(config.box, box, true)
                            for number_of_class in range(CLASSES):
                                target = float(number_of_class == class_id)
                                target = target * (1 - config.label_smoothing) + config.label_smoothing / 2
                                sums[2] += bce(t[5 + number_of_class], target, config.focal_gamma)
    gains = config.box_gain, config.objectness_gain, config.class_gain
    return tuple(gain * part / batch for gain, part in zip(gains, sums, strict=True))


@pytest.mark.parametrize("box", ["giou", "diou", "ciou"])
@pytest.mark.parametrize("assigned", ["best", "iou"])
@pytest.mark.parametrize(
    "extras", [{}, {"label_smoothing": 0.1, "focal_gamma": 1.5, "ignore_iou": 0.2, "box_gain": 0.5}]
)
def test_the_loss_is_what_loops_over_its_definition_give(box, assigned, extras):
    config = YoloLossConfig(box=box, assign=assigned, **extras)
    for seed in range(3):
        raw = random_raw(seed)
        parts = loss_of(raw, TARGETS, config)
        assert tuple(map(float, parts.values())) == pytest.approx(loops(raw, TARGETS, config), rel=1e-5)


@pytest.mark.parametrize("box", ["mse", "giou", "diou", "ciou"])
@pytest.mark.parametrize("focal_gamma", [0.0, 2.0])
def test_gradients_agree_with_finite_differences(box, focal_gamma):
    config = YoloLossConfig(box=box, focal_gamma=focal_gamma, assign="iou")
    raw = [tensor.requires_grad_() for tensor in random_raw()]
    # CIoU's weight of the aspect term is a constant to the gradient: the next test has it
    first = 1 if box == "ciou" else 0

    def total(*raw):
        return sum(list(loss_of(raw, TARGETS, config).values())[first:])

    assert torch.autograd.gradcheck(total, raw, atol=1e-4, fast_mode=True)


def test_ciou_has_the_gradient_of_its_formula_with_a_constant_weight():
    """Finite differences of equation 9 of arXiv 1911.08287, alpha held as section 4.2 has it."""
    true, box = (5.0, 8.0, 30.0, 40.0), [7.0, 6.0, 26.0, 45.0]
    iou = iou_of(box, true)[0]

    def aspect(b) -> float:
        return 4 / math.pi**2 * (math.atan(25 / 32) - math.atan((b[2] - b[0]) / (b[3] - b[1]))) ** 2

    alpha = aspect(box) / (1 - iou + aspect(box))
    predicted = torch.tensor([box], dtype=torch.float64, requires_grad=True)
    complete_box_iou_loss(predicted, torch.tensor([true], dtype=torch.float64)).sum().backward()
    for side in range(4):
        values = []
        for step in (1e-6, -1e-6):
            moved = [value + step * (index == side) for index, value in enumerate(box)]
            values.append(box_loss("diou", moved, true) + alpha * aspect(moved))
        assert float(predicted.grad[0, side]) == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-6)


def test_squared_errors_have_darknets_gradient():
    """delta = scale * (predicted - target) at tx, ty, tw, th, in Darknet's yolo layer."""
    config = YoloLossConfig(box="mse", box_gain=1.0, objectness_gain=0, class_gain=0)
    raw = [tensor.requires_grad_() for tensor in random_raw()]
    sum(loss_of(raw, TARGETS, config).values()).backward()
    for level, tensor, found in zip(LEVELS, raw, assign_by_shape(LEVELS, [(4, 4), (2, 2)], TARGETS), strict=True):
        expected = torch.zeros_like(tensor).view(2, len(level.anchors), 5 + CLASSES, *tensor.shape[2:])
        for index, image, anchor, row, column in zip(*(part.tolist() for part in found), strict=True):
            box = TARGETS.boxes_xyxy[index].tolist()
            t = tensor.detach().view_as(expected)[image, anchor, :4, row, column].tolist()
            s = level.scale_x_y
            scale = 2 - (box[2] - box[0]) * (box[3] - box[1]) / SIZE**2
            for side, cell in ((0, column), (1, row)):
                place = (box[side] + box[side + 2]) / 2 / level.stride - cell
                length = math.log((box[side + 2] - box[side]) / level.anchors[anchor][side])
                expected[image, anchor, side, row, column] = scale * (sigmoid(t[side]) * s - (s - 1) / 2 - place) / 2
                expected[image, anchor, side + 2, row, column] = scale * (t[side + 2] - length) / 2
        torch.testing.assert_close(tensor.grad, expected.view_as(tensor))


def test_an_object_has_the_anchor_of_its_shape_or_several():
    best = assign_by_shape(LEVELS, [(4, 4), (2, 2)], TARGETS)
    assert [len(level.anchor) for level in best] == [3, 0]
    assert best[0].anchor[best[0].object_index.argsort()].tolist() == [1, 2, 0]
    several = assign_by_shape(LEVELS, [(4, 4), (2, 2)], TARGETS, iou=0.3)
    assert [len(level.anchor) for level in several] == [4, 1]


def test_an_anchor_that_two_levels_share_is_responsible_on_both():
    levels = (AnchorLevel(16, ((23, 27), (81, 82))), AnchorLevel(32, ((81, 82), (344, 319))))
    target = Targets(torch.tensor([0]), torch.tensor([0]), torch.tensor([[0.0, 0.0, 80.0, 80.0]]))
    found = assign_by_shape(levels, [(8, 8), (4, 4)], target)
    assert [level.anchor.tolist() for level in found] == [[1], [0]]


def test_objects_on_the_border_stay_on_the_map():
    edge = Targets(torch.tensor([0]), torch.tensor([0]), torch.tensor([[60.0, 60.0, 68.0, 68.0]]))
    found = assign_by_shape(LEVELS, [(4, 4), (2, 2)], edge)
    assert (found[0].row.tolist(), found[0].column.tolist()) == ([3], [3])


def test_images_without_objects_teach_that_there_are_none():
    raw = [tensor.requires_grad_() for tensor in random_raw()]
    parts = loss_of(raw, NOTHING)
    assert parts["box"].item() == parts["classes"].item() == 0
    sum(parts.values()).backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in raw)


def test_class_weights_weigh_classes():
    raw = random_raw()
    plain = loss_of(raw, TARGETS)
    double = loss_of(raw, TARGETS, class_weights=torch.full((CLASSES,), 2.0))
    assert float(double["classes"]) == pytest.approx(2 * float(plain["classes"]))
    assert float(double["box"]) == float(plain["box"])


def test_shape_iou_is_iou_from_a_corner():
    found = shape_iou(torch.tensor([[10.0, 20.0]]), torch.tensor([[20.0, 10.0], [10.0, 20.0]]))
    torch.testing.assert_close(found, torch.tensor([[100 / 300, 1.0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore_iou": 1.5}, r"loss.ignore_iou is 1.5; expected 0 to 1"),
        ({"box_gain": -1}, r"loss.box_gain is -1; expected 0 or more"),
        ({"box": "siou"}, r"expected best or iou, and one of mse, iou, giou"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        YoloLossConfig(**options)
