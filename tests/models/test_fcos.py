"""The FCOS head: torchvision's weights, detections and losses; the paper's assignment and losses by slow loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.init import constant_, normal_
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.ops import sigmoid_focal_loss

import crossstage
from crossstage.deploy.export import export
from crossstage.errors import ConfigError
from crossstage.models.heads.fcos import FcosConfig, FcosHead, FcosLoss
from crossstage.ops.nms import NMS
from crossstage.ops.points import assign_by_reach, boxes_to_distances, cell_points, centreness, distances_to_boxes
from crossstage.structures import Preprocessing, Targets
from crossstage.training import TrainOptions, resume, train
from crossstage.weights.from_peer import from_peer
from crossstage.weights.starting import start_model
from tests.conftest import PHOTOS

SIZES = ([(100, 170), (90, 64), (130, 131)], [(64, 64)], [(200, 90), (70, 180)])
STRIDES = (8, 16, 32, 64, 128)


@pytest.fixture(scope="module")
def theirs():
    """torchvision's network with random weights, and predictors that find much."""
    torch.manual_seed(0)
    model = fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=11, min_size=96, max_size=200, score_thresh=0.02
    )
    normal_(model.head.classification_head.cls_logits.weight, std=0.05)
    normal_(model.head.regression_head.bbox_reg.weight, std=0.05)
    constant_(model.head.regression_head.bbox_reg.bias, 2)
    normal_(model.head.regression_head.bbox_ctrness.weight, std=0.05)
    return model.eval()


@pytest.fixture(scope="module")
def ours(theirs):
    return from_peer("torchvision:fcos_resnet50_fpn", theirs.state_dict())


@pytest.mark.parametrize("sizes", SIZES)
def test_torchvisions_weights_find_the_same(theirs, ours, sizes):
    images = [torch.rand(3, *size) for size in sizes]
    with torch.inference_mode():
        expected = theirs(images)
        batch, _ = theirs.transform(images)
        raw = ours(batch.tensors)
        nms = NMS(score=0.02, iou=0.6, max_detections=100)
        found = ours.detect(raw, tuple(batch.tensors.shape[-2:]), nms, batch.image_sizes)
    for size, inner, mine, wanted in zip(sizes, batch.image_sizes, found, expected, strict=True):
        assert len(wanted["scores"]) == 100  # more than a level keeps were candidates
        scale = torch.tensor([size[1] / inner[1], size[0] / inner[0]] * 2)
        torch.testing.assert_close(mine.scores, wanted["scores"], rtol=0, atol=1e-6)
        torch.testing.assert_close(mine.boxes_xyxy * scale, wanted["boxes"], rtol=0, atol=1e-3)
        assert torch.equal(mine.class_ids, wanted["labels"])


def test_losses_and_their_gradients_are_torchvisions(theirs, ours):
    image_size = (160, 224)
    images = torch.rand(3, 3, *image_size)
    boxes = torch.rand(9, 2) * torch.tensor([160.0, 96])
    boxes = torch.cat([boxes, boxes + 4 + torch.rand(9, 2) * 60], dim=1).round()  # whole pixels hit limits exactly
    image, class_ids = torch.tensor([0, 0, 0, 0, 0, 2, 2, 2, 2]), torch.arange(9)
    boxes[0] = torch.tensor([16, 16, 144, 144])  # its sides are 64 from the points (80, 80)
    with torch.no_grad():
        batch, _ = theirs.transform.batch_images(list(images), 32), None
        features = list(theirs.backbone(images).values())
        mine = ours.neck(ours.backbone(images))
    outputs = theirs.head(features)
    from torchvision.models.detection.image_list import ImageList

    anchors = theirs.anchor_generator(ImageList(batch, [image_size] * 3), features)
    targets = [{"boxes": boxes[image == n], "labels": class_ids[image == n]} for n in range(3)]
    lengths = [feature.shape[2] * feature.shape[3] for feature in features]
    expected = theirs.compute_loss(targets, outputs, anchors, lengths)
    found = ours.head.loss(ours.head(mine), Targets(image, class_ids, boxes), image_size)
    for name, other in (
        ("classes", "classification"), ("boxes", "bbox_regression"), ("centreness", "bbox_ctrness"),
    ):  # fmt: skip
        torch.testing.assert_close(found[name], expected[other], rtol=1e-6, atol=0)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    pairs = (
        (ours.head.classes, theirs.head.classification_head.cls_logits),
        (ours.head.distances, theirs.head.regression_head.bbox_reg),
        (ours.head.box_tower[0], theirs.head.regression_head.conv[0]),
    )
    for own, other in pairs:
        torch.testing.assert_close(own.weight.grad, other.weight.grad, rtol=1e-4, atol=1e-6)


def test_the_published_weights_have_a_place():
    """torchvision's trained network has frozen norms, which count no batches."""
    with torch.device("meta"):
        published = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()
    state = {key: torch.zeros(tensor.shape) for key, tensor in published.items() if "num_batches" not in key}
    model = from_peer("torchvision:fcos_resnet50_fpn", state)
    assert sum(parameter.numel() for parameter in model.parameters()) == 32_269_600  # as torchvision tells
    assert model.preprocessing.size == (800, 1333) and model.preprocessing.resize == "shortest"


def _head(row=None, classes=3, width=32, seed=0) -> FcosHead:
    torch.manual_seed(seed)
    head = (row or FcosConfig(tower_convs=1)).build([width] * 5, STRIDES, classes)
    for part in (head.classes, head.distances, head.centreness):
        normal_(part.weight, std=0.2)
    constant_(head.distances.bias, 1.0)
    return head


def _maps(side: int = 128, batch: int = 2, width: int = 32) -> list[torch.Tensor]:
    return [torch.randn(batch, width, max(1, side // stride), max(1, side // stride)) for stride in STRIDES]


def _objects(count: int = 7, side: int = 128) -> Targets:
    first = torch.rand(count, 2) * side * 0.6
    boxes = torch.cat([first, first + 6 + torch.rand(count, 2) * side * 0.5], dim=1).clamp(max=side)
    return Targets(torch.arange(count) % 2, torch.arange(count) % 3, boxes)


def _assigned(boxes, row: FcosLoss, side: int) -> list[int]:
    """Each point's object by the paper's words, one after the other."""
    found = []
    for level, stride in enumerate(STRIDES):
        low = 0 if level == 0 else row.reach * STRIDES[level - 1]
        high = math.inf if level == len(STRIDES) - 1 else row.reach * stride
        for y in range(max(1, side // stride)):
            for x in range(max(1, side // stride)):
                at = ((x + 0.5) * stride, (y + 0.5) * stride)
                best, smallest = -1, math.inf
                for number, (left, top, right, lower) in enumerate(boxes):
                    sides = at[0] - left, at[1] - top, right - at[0], lower - at[1]
                    centre = (left + right) / 2, (top + lower) / 2
                    far = max(abs(at[0] - centre[0]), abs(at[1] - centre[1]))
                    if min(sides) <= 0 or not low <= max(sides) <= high or (row.radius and far >= row.radius * stride):
                        continue
                    if (right - left) * (lower - top) < smallest:
                        best, smallest = number, (right - left) * (lower - top)
                found.append(best)
    return found


@pytest.mark.parametrize("radius", [1.5, 0.0])
@pytest.mark.parametrize("seed", range(4))
def test_points_find_objects_as_the_paper_says(radius, seed):
    torch.manual_seed(seed)
    row, boxes = FcosLoss(radius=radius, reach=4.0), _objects(9).boxes_xyxy
    points = [cell_points((max(1, 128 // stride),) * 2, stride, boxes) for stride in STRIDES]
    found = assign_by_reach(points, STRIDES, boxes, radius=radius, reach=row.reach)
    assert found.tolist() == _assigned(boxes.tolist(), row, 128)
    assert len(found.unique()) > 4
    assert assign_by_reach(points, STRIDES, boxes[:0], radius=radius, reach=8).eq(-1).all()


def test_a_distance_of_exactly_a_limit_belongs_to_both_levels_or_to_none():
    box = torch.tensor([[4.0, 4.0, 132.0, 132.0]])  # 64 pixels around (68, 68)
    points = [torch.tensor([[68.0, 68.0]])] * 2
    closed, opened = (
        assign_by_reach(points, (8, 16), box, radius=1.5, reach=8, closed=closed) for closed in (True, False)
    )
    assert closed.tolist() == [0, 0] and opened.tolist() == [-1, -1]


def test_the_loss_is_the_papers():
    """One point after the other: focal loss, GIoU weighted by centre-ness, cross-entropy of centre-ness."""
    head, targets = _head(), _objects()
    raw = head(_maps())
    found = head.loss(raw, targets, (128, 128))
    classes, giou, weights, centred, count = 0.0, 0.0, 0.0, 0.0, 0
    for image in range(2):
        mine = (targets.image_index == image).nonzero().squeeze(1)
        assigned = iter(_assigned(targets.boxes_xyxy[mine].tolist(), FcosLoss(), 128))
        for stride in STRIDES:
            logits, distances, centre = (
                raw[f"{part}{stride}"][image] for part in ("classes", "distances", "centreness")
            )
            for y in range(logits.shape[1]):
                for x in range(logits.shape[2]):
                    number = next(assigned)
                    wanted = torch.zeros(3)
                    if number >= 0:
                        wanted[targets.class_ids[mine[number]]] = 1
                        count += 1
                        box = targets.boxes_xyxy[mine[number]].tolist()
                        at = (x + 0.5) * stride, (y + 0.5) * stride
                        sides = [at[0] - box[0], at[1] - box[1], box[2] - at[0], box[3] - at[1]]
                        wanted_centre = math.sqrt(
                            min(sides[0], sides[2]) / max(sides[0], sides[2])
                            * min(sides[1], sides[3]) / max(sides[1], sides[3])
                        )  # fmt: skip
                        mine_sides = (distances[:, y, x] * stride).tolist()
                        giou += wanted_centre * (1 - _giou(mine_sides, sides))
                        weights += wanted_centre
                        p = 1 / (1 + math.exp(-centre[0, y, x].item()))
                        centred -= wanted_centre * math.log(p) + (1 - wanted_centre) * math.log(1 - p)
                    classes += sigmoid_focal_loss(logits[:, y, x], wanted, 0.25, 2.0, "sum").item()
    assert count > 8
    assert found["classes"].item() == pytest.approx(classes / count, rel=1e-4)
    assert found["boxes"].item() == pytest.approx(giou / weights, rel=1e-4)
    assert found["centreness"].item() == pytest.approx(centred / count, rel=1e-4)


def _giou(first: list[float], second: list[float]) -> float:
    """Of two boxes around one point, by their distances from it (UnitBox's way to compute IoU)."""
    areas = [(sides[0] + sides[2]) * (sides[1] + sides[3]) for sides in (first, second)]
    low, high = (
        [min(pair) for pair in zip(first, second, strict=True)],
        [max(p) for p in zip(first, second, strict=True)],
    )
    shared, around = (low[0] + low[2]) * (low[1] + low[3]), (high[0] + high[2]) * (high[1] + high[3])
    union = sum(areas) - shared
    return shared / union - (around - union) / around


def test_gradients_are_those_of_finite_differences():
    head, targets = _head(), _objects()
    targets = targets._replace(boxes_xyxy=targets.boxes_xyxy.double())
    raw = {name: tensor.detach().double() + 0.01 for name, tensor in head(_maps()).items()}
    names = list(raw)

    def total(*tensors: torch.Tensor) -> torch.Tensor:
        return sum(head.loss(dict(zip(names, tensors, strict=True)), targets, (128, 128)).values())

    inputs = tuple(tensor.requires_grad_() for tensor in raw.values())
    assert torch.autograd.gradcheck(total, inputs, fast_mode=True)


def test_weights_of_classes_count():
    head, targets = _head(), _objects()
    raw = head(_maps())
    plain = head.loss(raw, targets, (128, 128))["classes"]
    head.class_weights = torch.full((3,), 2.0)
    torch.testing.assert_close(head.loss(raw, targets, (128, 128))["classes"], 2 * plain)


@pytest.mark.parametrize("boxes", [0, 1])
def test_images_without_objects_have_a_loss_and_gradients(boxes):
    head = _head()
    none = Targets(torch.zeros(boxes, dtype=torch.long), torch.zeros(boxes, dtype=torch.long), torch.zeros(boxes, 4))
    parts = head.loss(head(_maps()), none, (128, 128))
    assert all(torch.isfinite(part) for part in parts.values()) and parts["boxes"] == 0
    sum(parts.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_boxes_and_scores_are_decoded_around_centres():
    head = _head()
    raw = head(_maps())
    boxes, scores = head.decode(raw, (128, 128))
    index = 256 + 8 * 3 + 5  # of the second level: row 3, column 5
    left, top, right, lower = (raw["distances16"][1, :, 3, 5] * 16).tolist()
    expected = [88 - left, 56 - top, 88 + right, 56 + lower]
    assert boxes[1, index].tolist() == pytest.approx([min(max(side, 0), 128) for side in expected], rel=1e-5)
    expected = (raw["classes16"][1, 2, 3, 5].sigmoid() * raw["centreness16"][1, 0, 3, 5].sigmoid()).sqrt()
    assert scores[1, index, 2].item() == pytest.approx(expected.item(), rel=1e-5)


def test_detections_stay_in_their_images():
    head = _head()
    first, second = head.detect(head(_maps()), (128, 128), NMS(score=0.001, iou=0.6), [(128, 128), (60, 90)])
    assert first.boxes_xyxy.max() == 128 and first.boxes_xyxy.min() == 0
    assert second.boxes_xyxy[:, 2].max() <= 90 and second.boxes_xyxy[:, 3].max() <= 60


def test_distances_and_boxes_are_each_others_inverse():
    points, boxes = torch.rand(5, 2), torch.rand(5, 4)
    torch.testing.assert_close(distances_to_boxes(points, boxes_to_distances(points, boxes)), boxes)
    assert centreness(torch.tensor([[1.0, 2, 1, 2], [1, 1, 4, 4]])).tolist() == [1.0, 0.25]


def test_settings_of_the_first_paper():
    """Exponentials, and centre-ness beside the classes; the factors of levels work in all of them."""
    maps = _maps()
    relu, exp = (_head(FcosConfig(tower_convs=1, distances=kind, centreness_on="classes")) for kind in ("relu", "exp"))
    with torch.no_grad():
        for head in (relu, exp):
            head.scales.copy_(torch.tensor([1.0, 2, 1, 1, 1]))
    plain, exponential = relu(maps), exp(maps)
    torch.testing.assert_close(exponential["distances16"].log().relu(), plain["distances16"], rtol=1e-4, atol=1e-4)
    feature = exp.class_tower(maps[0])
    expected = F.conv2d(feature, exp.centreness.weight, exp.centreness.bias, padding=1)
    torch.testing.assert_close(exponential["centreness8"], expected)
    assert _head(FcosConfig(scaled=False)).scales is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FcosConfig().build([64, 128], (8, 16), 2), r"maps of \[64, 128\] channels; .* one width"),
        (lambda: FcosConfig(distances="sigmoid"), "distances is 'sigmoid'; expected relu or exp"),
        (lambda: FcosConfig(grid="middle"), "grid is 'middle'; expected centres or corners"),
        (lambda: FcosConfig(tower_convs=-1), "tower_convs is -1; expected 0 to 100"),
        (lambda: FcosLoss(radius=-1), "loss.radius is -1; expected 0 or more"),
        (lambda: FcosLoss(reach=0), "loss.reach is 0; expected 0 or more, not 0"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    "name", ["fcos_vovnet39_v2_fpn", "fcos_cspresnet50_fpn", "fcos_csppeleenet_fpn", "csppeleenet_retina_fpn_fcos"]
)
def test_any_backbone_takes_it(name):
    with torch.device("meta"):
        model = crossstage.create_model(name, num_classes=4)
        raw = model(torch.empty(1, 3, 96, 64))
    assert raw["distances64"].shape == (1, 4, 2, 1) and raw["classes8"].shape == (1, 4, 12, 8)
    assert list(raw) == list(model.head.raw_names)


NARROW = {"pyramid_channels": 64, "tower_convs": 1}


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    """A training that was stopped after its first epoch, and went on."""
    options = TrainOptions(
        "fcos_cspdarknet53_tiny_fpn", str(shapes), imgsz=64, resize="stretch", epochs=2, batch=8, workers=0,
        out=str(tmp_path_factory.mktemp("fcos")), name="run", loss={"reach": 4.0}, optimizer="adamw", lr=0.001,
        burn_in=0, ema=0.5, sample_every=0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 1)
        train(options)
    return resume(f"{options.out}/run")


def test_it_trains_and_goes_on(run):
    assert {"classes", "boxes", "centreness"} < run.history[0].keys()
    assert run.history[-1]["boxes"] < run.history[0]["boxes"]
    model = crossstage.load(run.folder)
    assert model.head.row.loss == FcosLoss()  # those of a training are its options'
    found = next(iter(model.predict(PHOTOS / "000000000471.jpg", conf=0.001, max_detections=5)))
    assert len(found) == 5


def test_weights_carry_over_to_other_classes(run):
    stored = crossstage.load(run.folder)
    started = start_model(run.folder, ("square", "triangle"))
    mine, old = started.model.head, stored.head
    assert torch.equal(mine.classes.weight[0], old.classes.weight[1])
    assert not torch.equal(mine.classes.weight[1], old.classes.weight[0])
    assert torch.equal(mine.scales, old.scales) and torch.equal(mine.distances.weight, old.distances.weight)


def test_it_is_profiled_and_fused():
    model = crossstage.create_model("fcos_csppeleenet_fpn", num_classes=3, **NARROW).eval()
    assert crossstage.profile("fcos_csppeleenet_fpn", 64).bflops > crossstage.profile("csppeleenet", 64).bflops
    images = torch.rand(1, 3, 96, 96)
    with torch.inference_mode():
        plain, fused = model(images), crossstage.fuse(model)(images)
    for name, expected in plain.items():
        torch.testing.assert_close(fused[name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", ["raw", "decode", "nms"])
def test_exported_files_find_the_same(tmp_path, format, kind):
    pytest.importorskip("onnxruntime" if format == "onnx" else "openvino")
    stretched = Preprocessing((64, 64))
    detector = crossstage.create_model("fcos_cspdarknet53_tiny_fpn", num_classes=3, preprocessing=stretched, **NARROW)
    for part in (detector.eval().head.classes, detector.head.centreness):
        normal_(part.weight, std=0.3)
    constant_(detector.head.distances.bias, 3)
    done = export(
        detector, "fcos", format, tmp_path / f"fcos{'.onnx' if format == 'onnx' else '_openvino'}",
        decode=kind == "decode", nms=NMS(0.05, 0.6) if kind == "nms" else None,
    )  # fmt: skip
    image = np.asarray(crossstage.inference.images.load_image(PHOTOS / "000000000471.jpg"))
    (mine,) = detector.predict(image, conf=0.05, iou=0.6, max_detections=20)
    (found,) = crossstage.open_model(done.path).predict(image, conf=0.05, iou=0.6, max_detections=20)
    assert len(mine) and len(found) == len(mine)
    np.testing.assert_allclose(np.sort(found.confidence), np.sort(mine.confidence), atol=1e-3)
    np.testing.assert_allclose(np.sort(found.xyxy, 0), np.sort(mine.xyxy, 0), atol=0.1)


class _Decoding(torch.nn.Module):
    def __init__(self, grid: str) -> None:
        super().__init__()
        self.head = FcosConfig(tower_convs=1, grid=grid).build([32, 32], (8, 16), 3)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.head.decode(self.head([fine, coarse]), (images.shape[2], images.shape[3]))


@pytest.mark.parametrize("grid", ["centres", "corners"])
def test_decoding_is_recorded_for_any_size(grid):
    """With the corners as well, whose spacing depends on the sizes of input and maps."""
    module = _Decoding(grid).eval()
    side = torch.export.Dim("side", min=2, max=50)
    small, large = (
        (torch.randn(1, 32, 2 * n, 2 * n), torch.randn(1, 32, n, n), torch.zeros(1, 3, 16 * n, 16 * n)) for n in (3, 5)
    )
    shapes = tuple({2: step * side, 3: step * side} for step in (2, 1, 16))
    recorded = torch.export.export(module, small, dynamic_shapes=shapes).module()
    for found, expected in zip(recorded(*large), module(*large), strict=True):
        torch.testing.assert_close(found, expected)
