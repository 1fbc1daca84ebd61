"""CenterMask: its regions, masks and losses by slow and independent ways, its names, its authors' checkpoints."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.init import constant_, normal_
from torchvision.ops import roi_align

import crossstage
from crossstage.deploy.export import export
from crossstage.errors import ConfigError
from crossstage.models.heads.centermask import CenterMaskConfig, CenterMaskHead, CenterMaskLoss
from crossstage.models.heads.centermask_masks import cropped, levels_by_ratio, mask_ious
from crossstage.ops.nms import NMS
from crossstage.structures import Preprocessing, Targets
from crossstage.training import TrainOptions, train
from crossstage.weights.transfer import transfer
from tests.conftest import PHOTOS

STRIDES = (8, 16, 32, 64, 128)
SIZE = (128, 160)
WIDTH = 16


def _row(**settings) -> CenterMaskConfig:
    return CenterMaskConfig(tower_convs=1, mask_convs=2, iou_convs=2, **settings)


def _head(row: CenterMaskConfig | None = None, classes: int = 3) -> CenterMaskHead:
    torch.manual_seed(0)
    head = (row or _row()).build([WIDTH] * 5, STRIDES, classes)
    assert isinstance(head, CenterMaskHead)
    for part in (head.classes, head.distances, head.centreness, head.mask.predict):
        normal_(part.weight, std=0.2)
    constant_(head.distances.bias, 2.0)
    constant_(head.mask_iou.predict.bias, 0.6)
    return head


def _maps(batch: int = 2) -> list[torch.Tensor]:
    sizes = [(math.ceil(SIZE[0] / stride), math.ceil(SIZE[1] / stride)) for stride in STRIDES]
    return [torch.randn(batch, WIDTH, *size) for size in sizes]


def _targets() -> Targets:
    """Ellipses in boxes, in two images."""
    boxes = torch.tensor([[10.0, 20, 66, 90], [70, 8, 150, 120], [30, 40, 58, 68], [2, 2, 118, 100]])
    masks = torch.zeros(4, *SIZE, dtype=torch.bool)
    row, column = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    for number, (left, top, right, lower) in enumerate(boxes.tolist()):
        across = (column - (left + right) / 2) / ((right - left) / 2)
        down = (row - (top + lower) / 2) / ((lower - top) / 2)
        masks[number] = across.square() + down.square() < 1
    return Targets(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 1]), boxes, masks)


@pytest.mark.parametrize(
    ("share", "paper", "released"),
    [(1.0, 5, 5), (0.6, 5, 5), (0.4, 5, 4), (0.24, 5, 3), (0.13, 5, 3), (0.12, 4, 3), (0.06, 3, 3), (0.001, 3, 3)],
)
def test_a_regions_map_follows_from_its_share_of_the_image(share, paper, released):
    box = torch.tensor([[10.0, 20.0, 10 + 100 * share, 120.0]])
    for coarsest, level in ((7, paper), (5, released)):
        found = levels_by_ratio(box, torch.tensor([10_000.0]), coarsest, (3, 4, 5))
        assert found.tolist() == [level - 3]
    assert levels_by_ratio(torch.zeros(1, 4), torch.tensor([10_000.0]), 7, (3, 4, 5)).tolist() == [0]


def test_regions_are_read_from_their_own_image_and_map():
    head, maps = _head(), _maps()
    raw = head(maps)
    rois = torch.tensor([[1.0, 0, 0, 159, 127], [0, 10, 10, 100, 110], [1, 3, 4, 20, 30]])
    found = head.pool(raw, rois, [SIZE, SIZE])
    for region, roi, level in zip(found, rois, (2, 1, 0), strict=True):
        own = maps[level][int(roi[0])].unsqueeze(0)
        expected = roi_align(own, [roi[None, 1:]], 14, 1 / STRIDES[level], sampling_ratio=0, aligned=True)[0]
        torch.testing.assert_close(region, expected)
    moved = head.pool(raw, rois[1:2], [(256, 320), SIZE])  # of a larger image, so a quarter of its share
    assert not torch.allclose(moved[0], found[1])


def _second_stage(head: CenterMaskHead, features: torch.Tensor, class_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask and IoU of one region ``(1, WIDTH, 14, 14)`` as the paper describes them, on plain tensors."""
    state = {name: tensor.detach() for name, tensor in head.state_dict().items()}
    x = features
    for index in (0, 2):
        x = F.conv2d(x, state[f"mask.convs.{index}.weight"], state[f"mask.convs.{index}.bias"], padding=1).clamp(min=0)
    seen = torch.stack([x[0].mean(0), x[0].max(0).values])[None]
    x = x * torch.sigmoid(F.conv2d(seen, state["mask.attention.conv.weight"], padding=1))
    x = F.conv_transpose2d(x, state["mask.enlarge.weight"], state["mask.enlarge.bias"], stride=2).clamp(min=0)
    logits = torch.einsum("chw,kc->khw", x[0], state["mask.predict.weight"][:, :, 0, 0])
    mask = torch.sigmoid(logits[class_id] + state["mask.predict.bias"][class_id])
    x = torch.cat([features, mask.view(14, 2, 14, 2).amax((1, 3))[None, None]], dim=1)
    for index, stride in ((0, 1), (2, 2)):
        weight, bias = state[f"mask_iou.convs.{index}.weight"], state[f"mask_iou.convs.{index}.bias"]
        x = F.conv2d(x, weight, bias, stride=stride, padding=1).clamp(min=0)
    x = x.reshape(-1)
    for layer in ("hidden.1", "hidden.3"):
        x = (state[f"mask_iou.{layer}.weight"] @ x + state[f"mask_iou.{layer}.bias"]).clamp(min=0)
    return mask, (state["mask_iou.predict.weight"] @ x + state["mask_iou.predict.bias"])[class_id]


def test_each_detection_gets_a_mask_and_is_scored_by_its_quality():
    head = _head()
    nms = NMS(score=0.1, iou=0.5, max_detections=12)
    sizes = [SIZE, (100, 140)]
    with torch.no_grad():
        raw = head(_maps())
        boxes = super(CenterMaskHead, head).detect(raw, SIZE, replace(nms, max_detections=100), sizes)
        found = head.detect(raw, SIZE, nms, sizes)
    for image, (mine, first) in enumerate(zip(found, boxes, strict=True)):
        expected = []
        for box, score, class_id in zip(first.boxes_xyxy, first.scores, first.class_ids.tolist(), strict=True):
            roi = torch.cat([torch.tensor([float(image)]), box]).unsqueeze(0)
            mask, iou = _second_stage(head, head.pool(raw, roi, sizes), class_id)
            expected.append((float(score * iou.clamp(0, 1)), class_id, box, mask))
        expected = sorted((entry for entry in expected if entry[0] > 0.1), key=lambda entry: -entry[0])[:12]
        assert len(mine.scores) == len(expected) > 4
        assert mine.class_ids.tolist() == [entry[1] for entry in expected]
        torch.testing.assert_close(mine.scores, torch.tensor([entry[0] for entry in expected]))
        torch.testing.assert_close(mine.boxes_xyxy, torch.stack([entry[2] for entry in expected]))
        assert mine.masks is not None and mine.masks.shape[1:] == (28, 28)
        torch.testing.assert_close(mine.masks, torch.stack([entry[3] for entry in expected]), rtol=1e-4, atol=1e-5)


def test_where_nothing_is_found_there_are_no_masks():
    head = _head()
    for each in head.detect(head(_maps()), SIZE, NMS(score=0.999)):
        assert len(each.scores) == 0 and each.masks is not None and each.masks.shape == (0, 28, 28)


def test_masks_are_cropped_to_boxes():
    """For a box of whole pixels, a cell is the mean of its pixels, and what lies outside of the input is empty."""
    mask = torch.rand(2, 84, 112) > 0.4
    boxes = torch.tensor([[0.0, 0.0, 84.0, 56.0], [56.0, 28.0, 112.0, 84.0]])
    found = cropped(mask, torch.tensor([1, 0]), boxes)
    for grid, pixels in ((found[0], mask[1, :56, :84]), (found[1], mask[0, 28:84, 56:112])):
        height, width = pixels.shape
        means = pixels.float().view(28, height // 28, 28, width // 28).mean((1, 3))
        assert torch.equal(grid[means != 0.5], (means > 0.5)[means != 0.5])
        assert 0.3 < grid.float().mean() < 0.95


def test_the_iou_of_a_mask_counts_what_lies_outside_of_its_box():
    box = torch.tensor([[28.0, 28.0, 56.0, 56.0]])  # a cell is a pixel
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[0, 20:50, 30:70] = True
    found = torch.zeros(1, 28, 28, dtype=torch.bool)
    found[0, :10, 5:20] = True
    wanted = cropped(mask, torch.tensor([0]), box)
    pasted = torch.zeros_like(mask)
    pasted[0, 28:56, 28:56] = found
    expected = (pasted & mask).sum() / (pasted | mask).sum()
    torch.testing.assert_close(mask_ious(found, wanted, mask.flatten(1).sum(1), box), expected[None])


def test_the_second_stages_loss_is_that_of_each_region():
    """Regions, crops and losses, one after the other."""
    head, targets = _head(), _targets()
    with torch.no_grad():
        raw = head(_maps())
        parts = head.loss(raw, targets, SIZE)
        nms = replace(head.nms, score=0.05, max_detections=100)
        detected = super(CenterMaskHead, head).detect(raw, SIZE, nms)
    masks, squares, count, regions = 0.0, 0.0, 0, 0
    for image, found in enumerate(detected):
        mine = [number for number in range(4) if targets.image_index[number] == image]
        for box in [*found.boxes_xyxy, *targets.boxes_xyxy[mine]]:
            overlap, number = max((_iou(box.tolist(), targets.boxes_xyxy[n].tolist()), -n) for n in mine)
            if overlap < 0.5:
                continue
            class_id, number = int(targets.class_ids[-number]), -number
            roi = torch.cat([torch.tensor([float(image)]), box]).unsqueeze(0)
            mask, iou = _second_stage(head, head.pool(raw, roi, [SIZE] * 2), class_id)
            wanted = cropped(targets.masks, torch.tensor([number]), box[None])[0]
            masks += F.binary_cross_entropy(mask, wanted.float()).item()
            regions += 1
            area = ((box[2] - box[0]) * (box[3] - box[1]) / 784).item()  # of a cell in pixels
            overlap = ((mask > 0.5) & wanted).sum().item()
            whole = max(targets.masks[number].sum().item() / area, wanted.sum().item())
            quality = overlap / ((mask > 0.5).sum().item() + whole - overlap)
            if quality > 0:
                squares += (iou.item() - quality) ** 2
                count += 1
    assert regions > 6
    assert parts["masks"].item() == pytest.approx(masks / regions, rel=1e-4)
    assert parts["mask_iou"].item() == pytest.approx(0.5 * squares / count, rel=1e-4)
    assert {"classes", "boxes", "centreness"} < parts.keys()


def _iou(first: list[float], second: list[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared)


def test_gradients_are_those_of_finite_differences():
    head, targets = _head().double(), _targets()
    targets = targets._replace(boxes_xyxy=targets.boxes_xyxy.double())
    raw = {name: tensor.detach() for name, tensor in head([each.double() for each in _maps()]).items()}
    names = [name for name in raw if name.startswith("features")]

    def total(*features: torch.Tensor) -> torch.Tensor:
        parts = head.loss({**raw, **dict(zip(names, features, strict=True))}, targets, SIZE)
        return parts["masks"] + parts["mask_iou"]

    inputs = tuple(raw[name].requires_grad_() for name in names)
    assert torch.autograd.gradcheck(total, inputs, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("objects", [4, 1, 0])
def test_all_parameters_get_gradients_and_losses_are_finite(objects):
    """Without objects, too: processes that train together want a gradient of each."""
    head, targets = _head(), _targets()
    few = Targets(*(part[:objects] for part in targets[:4]))
    parts = head.loss(head(_maps()), few, SIZE)
    assert all(torch.isfinite(part) for part in parts.values())
    assert (parts["masks"] > 0) == (objects > 0)
    sum(parts.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    moved = [name for name, parameter in head.mask.named_parameters() if parameter.grad.abs().sum() > 0]
    assert len(moved) == (len(list(head.mask.parameters())) if objects else 0)


def test_only_so_many_regions_train_masks():
    head = _head(_row(loss=CenterMaskLoss(positives=3, positive_iou=0.1)))
    raw = head(_maps())
    rois, objects = head._positives(raw, _targets(), SIZE, [SIZE] * 2)
    assert rois[:, 0].tolist() == [0, 0, 0, 1, 1, 1] and len(objects) == 6
    assert set(objects[:3].tolist()) <= {0, 1} and set(objects[3:].tolist()) <= {2, 3}


def test_objects_without_masks_are_refused():
    head = _head()
    with pytest.raises(ConfigError, match="the objects have no masks; CenterMask expects a dataset that has them"):
        head.loss(head(_maps()), _targets()._replace(masks=None), SIZE)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _row().build([16, 16], (8, 16), 2), r"strides \[8, 16\]; masks expect 3 powers of 2 in a row"),
        (lambda: _row().build([16] * 3, (8, 32, 64), 2), r"strides \[8, 32, 64\]; masks expect 3 powers of 2"),
        (lambda: CenterMaskConfig(iou_convs=0), "iou_convs is 0; expected 1 to 100"),
        (lambda: CenterMaskLoss(positive_iou=0), "loss.positive_iou is 0; expected 0 to 1, not 0"),
        (lambda: CenterMaskLoss(proposals=0), "loss.proposals is 0"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "width", "convs"),
    [
        ("centermask_vovnet39_v2", 256, 4),
        ("centermask_vovnet57_v2", 256, 4),
        ("centermask_vovnet99_v2", 256, 4),
        ("centermask_lite_vovnet19_v2", 128, 2),
        ("centermask_lite_vovnet39_v2", 128, 2),
        ("centermask_lite_vovnet19_slim_v2", 128, 2),
        ("centermask_lite_vovnet19_slim_dw_v2", 128, 2),
        ("centermask_cspresnet50", 256, 4),
        ("centermask_lite_csppeleenet", 128, 2),
    ],
)
def test_names_are_the_published_forms(name, width, convs):
    with torch.device("meta"):
        model = crossstage.create_model(name, num_classes=4)
    assert model.finds_masks and model.head.channels == (width,) * 5 and model.head.strides == STRIDES
    layers = [module for module in model.head.mask.convs if isinstance(module, torch.nn.Conv2d)]
    towers = [module for module in model.head.class_tower if isinstance(module, torch.nn.Conv2d)]
    assert len(layers) == len(towers) == convs and layers[0].out_channels == width
    assert model.preprocessing.size == ((800, 1333) if width == 256 else (600, 1000))
    assert model.preprocessing.colour_order == ("bgr" if "vovnet" in name else "rgb")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return crossstage.create_model("centermask_lite_vovnet19_slim_dw_v2", num_classes=3, pyramid_channels=64).eval()


def test_it_learns_masks(model):
    """Thirty steps on one image: its loss falls by much, and its objects are found with their masks."""
    torch.manual_seed(0)
    network = crossstage.create_model("centermask_lite_vovnet19_slim_dw_v2", num_classes=3, pyramid_channels=64)
    targets = _targets()
    first = targets.image_index == 0
    targets = Targets(*(part[first] for part in targets[:4]))
    images = targets.masks.float().sum(0)[None, None].expand(1, 3, -1, -1) * torch.tensor([1.0, 2, 3])[:, None, None]
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3)
    history = []
    for _ in range(30):
        parts = network.loss(images, targets)
        optimiser.zero_grad()
        sum(parts.values()).backward()
        optimiser.step()
        history.append(parts["masks"].item())
    assert history[-1] < 0.5 * history[0]


def test_weights_carry_over_to_other_classes(model):
    torch.manual_seed(1)
    other = crossstage.create_model("centermask_lite_vovnet19_slim_dw_v2", num_classes=2, pyramid_channels=64)
    before = other.head.mask.predict.weight.clone()
    done = transfer(
        other, model.state_dict(), "a file", old_names=("circle", "square", "dog"), new_names=("dog", "cat")
    )
    assert not done.fresh
    for own, theirs in (
        (other.head.classes, model.head.classes), (other.head.mask.predict, model.head.mask.predict),
        (other.head.mask_iou.predict, model.head.mask_iou.predict),
    ):  # fmt: skip
        assert torch.equal(own.weight[0], theirs.weight[2]) and torch.equal(own.bias[0], theirs.bias[2])
    assert torch.equal(other.head.mask.predict.weight[1], before[1])
    assert torch.equal(other.head.mask.enlarge.weight, model.head.mask.enlarge.weight)


def test_it_is_profiled_and_fused(model):
    cost = crossstage.profile("centermask_lite_vovnet19_slim_dw_v2", 64)
    assert cost.parameters == sum(
        p.numel() for p in crossstage.create_model("centermask_lite_vovnet19_slim_dw_v2").parameters()
    )
    images = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        nms = NMS(score=0.0001, iou=0.6, max_detections=5)
        fused = crossstage.fuse(model)
        (plain,), (quick,) = (each.detect(each(images), (96, 128), nms) for each in (model, fused))
    assert len(plain.scores) == len(quick.scores) > 0
    torch.testing.assert_close(plain.scores, quick.scores, rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(plain.masks, quick.masks, rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def outlined(shapes, tmp_path_factory):
    """The small detection dataset, with an outline for each square and circle."""
    root = tmp_path_factory.mktemp("outlined") / "data"
    shutil.copytree(shapes, root)
    for file in (root / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for entry in content["annotations"]:
            x, y, side, _ = entry["bbox"]
            corners = 4 if entry["category_id"] == 2 else 16
            turns = [2 * math.pi * (number + 0.5) / corners for number in range(corners)]
            reach = side / 2 * (math.sqrt(2) if corners == 4 else 1)
            points = [(x + side / 2 + reach * math.cos(t), y + side / 2 + reach * math.sin(t)) for t in turns]
            entry["segmentation"] = [[value for point in points for value in point]]
        file.write_text(json.dumps(content))
    return root


def test_it_is_trained_on_a_dataset_with_masks(outlined, tmp_path):
    options = TrainOptions(
        "centermask_lite_vovnet19_slim_dw_v2", str(outlined), imgsz=64, resize="stretch", epochs=1, batch=8, workers=0,
        out=str(tmp_path), name="run", optimizer="adamw", lr=0.001, burn_in=0, ema=0, sample_every=0,
    )  # fmt: skip
    (row,) = train(options).history
    assert row["masks"] > 0 and all(math.isfinite(value) for value in row.values())
    found = next(iter(crossstage.load(tmp_path / "run").predict(PHOTOS / "000000000471.jpg", conf=0.0001)))
    assert found.mask is not None and len(found.mask) == len(found) > 0


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_exported_files_find_the_same_masks(tmp_path, format):
    pytest.importorskip("onnxruntime" if format == "onnx" else "openvino")
    detector = crossstage.create_model(
        "centermask_lite_cspdarknet53_tiny", num_classes=3, pyramid_channels=32, tower_convs=0,
        mask_convs=1, iou_convs=1, preprocessing=Preprocessing((64, 96)),
    )  # fmt: skip
    for part in (detector.eval().head.classes, detector.head.centreness):
        normal_(part.weight, std=0.3)
    constant_(detector.head.classes.bias, 0)
    normal_(detector.head.mask.predict.weight, std=0.5)
    constant_(detector.head.distances.bias, 3)
    constant_(detector.head.mask_iou.predict.bias, 0.8)
    done = export(detector, "mask", format, tmp_path / f"mask{'.onnx' if format == 'onnx' else '_openvino'}")
    image = np.asarray(crossstage.inference.images.load_image(PHOTOS / "000000000471.jpg"))
    (mine,) = detector.predict(image, conf=0.3, max_detections=20)
    (found,) = crossstage.open_model(done.path).predict(image, conf=0.3, max_detections=20)
    assert len(mine) > 3 and len(found) == len(mine)
    np.testing.assert_allclose(found.confidence, mine.confidence, atol=1e-3)
    assert (found.mask == mine.mask).mean() > 0.999
