"""YOLOX: its authors' outputs, matches, losses and gradients; compositions; what users do with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

import crossstage
from crossstage.errors import ConfigError, WeightsError
from crossstage.models.backbones import BACKBONES, build_backbone
from crossstage.models.backbones.cspdarknet_x import PixelsToChannels
from crossstage.models.heads.base import with_loss
from crossstage.models.heads.levels import centres, flat
from crossstage.models.heads.yolox import HEADS, YoloxConfig, YoloxHead, YoloxLoss
from crossstage.models.necks.csp_pafpn import CSPPAFPNConfig
from crossstage.models.published import DETECTORS
from crossstage.nn import ConvStyle, CrossStage, Partial
from crossstage.ops.matching import SIM_OTA, Predictions, match_dynamically
from crossstage.ops.nms import NMS, postprocess
from crossstage.structures import Targets
from crossstage.weights.authors.yolox import AUTHORS
from crossstage.weights.from_authors import from_authors
from tests.parity import Digest, digest, places

PARAMETERS = {
    "nano": 912_159,
    "tiny": 5_055_855,
    "s": 8_968_255,
    "m": 25_326_495,
    "l": 54_208_895,
    "x": 99_071_455,
}
PARTS = {"boxes": "iou_loss", "objectness": "conf_loss", "classes": "cls_loss", "l1": "l1_loss"}


@pytest.fixture(scope="module", params=["nano", "tiny"])
def authors(request: pytest.FixtureRequest) -> tuple[str, Digest]:
    name = f"yolox_{request.param}"
    return name, digest(name)


def _model(authors: tuple[str, Digest]) -> Any:
    """The authors' network, trained with L1."""
    name, stored = authors
    model = from_authors(name, stored.state)
    model.head.row = with_loss(model.head.row, {"l1": 1.0})
    return model


def _targets(stored: Digest, images: tuple[int, ...] = (0, 1)) -> Targets:
    rows = [(i, *row) for i in images for row in stored.entry["targets"]["value"][i] if any(row)]
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
    return Targets(table[:, 0].long(), table[:, 1].long(), box_convert(table[:, 2:], "cxcywh", "xyxy"))


def _frozen(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


@pytest.mark.parametrize("size", PARAMETERS)
def test_sizes_have_the_published_parameters(size):
    info = crossstage.model_info(f"yolox_{size}")
    assert info.parameters == PARAMETERS[size]
    assert DETECTORS[f"yolox_{size}"].size == (416 if size in ("nano", "tiny") else 640)


def test_outputs_are_the_authors(authors):
    stored, model = authors[1], _model(authors)
    found: dict[str, Any] = {}
    for name in ("backbone", "neck"):
        getattr(model, name).register_forward_hook(lambda _m, _i, maps, name=name: found.__setitem__(name, maps))
    with torch.inference_mode():
        raw = model(stored.image.float())
        boxes, scores = model.decode(raw, (192, 256))
    for level, stride in enumerate((8, 16, 32)):
        assert stored.error(f"eval/backbone/dark{level + 3}", found["backbone"][level]) < 2e-4
        assert stored.error(f"eval/neck/p{level + 3}", found["neck"][level]) < 2e-4
        for ours, theirs in (("classes", "cls"), ("boxes", "reg"), ("objectness", "obj")):
            assert stored.error(f"eval/level/{level}/{theirs}", raw[f"{ours}{stride}"]) < 2e-4, (ours, level)
    flat = [
        [raw[f"{part}{stride}"].flatten(2).transpose(1, 2) for stride in (8, 16, 32)]
        for part in ("objectness", "classes")
    ]
    confident = [torch.cat(part, 1).sigmoid() for part in flat]
    decoded = torch.cat([box_convert(boxes, "xyxy", "cxcywh"), *confident], dim=2)
    assert stored.error("eval/decoded", decoded) < 1e-5
    torch.testing.assert_close(scores, confident[0] * confident[1])


def test_detections_are_the_authors(authors):
    stored, model = authors[1], _model(authors)
    with torch.inference_mode():
        boxes, scores = model.decode(model(stored.image.float()), (192, 256))
    best = F.one_hot(scores.argmax(2), scores.shape[2])  # the authors let a box be found for its best class alone
    for image, mine in enumerate(postprocess(boxes, scores * best, NMS(score=0.02, iou=0.65, max_detections=1000))):
        theirs = torch.from_numpy(stored.arrays[f"eval/postprocess/{image}"])
        assert len(mine.scores) == stored.entry["postprocess_counts"][image]
        for row in theirs:  # near-ties may stand in another order
            same = (mine.class_ids == int(row[6])) & ((mine.scores - row[4] * row[5]).abs() < 1e-4)
            assert (same & ((mine.boxes_xyxy - row[:4]).abs().amax(1) < 1e-2)).any(), row


@pytest.mark.parametrize(
    ("mode", "images"), [("bn_frozen", (0, 1)), ("bn_train", (0, 1)), ("one_empty", (0,)), ("all_empty", ())]
)
def test_losses_and_gradients_are_the_authors(authors, mode, images):
    stored, model = authors[1], _model(authors)
    model = model.train() if mode == "bn_train" else _frozen(model)
    parts = model.loss(stored.image.float(), _targets(stored, images))
    expected = stored.entry["losses"][mode]
    for ours, theirs in PARTS.items():
        assert float(parts[ours].detach()) == pytest.approx(expected[theirs], rel=2e-3, abs=1e-6), ours
    total = sum(parts.values())
    assert float(total.detach()) == pytest.approx(expected["total_loss"], rel=1e-3)
    total.backward()
    if f"{mode}/grad_norm" in stored.arrays:
        names = places(AUTHORS[authors[0]].adapt, stored.state)
        assert stored.gradient_error(f"{mode}/grad_norm", model, names) < 8e-3


@pytest.mark.parametrize("mode", ["bn_frozen", "bn_train"])
def test_matches_are_the_authors(authors, mode):
    stored, model = authors[1], _model(authors)
    model = model.train() if mode == "bn_train" else _frozen(model)
    targets = _targets(stored)
    with torch.no_grad():
        raw = model(stored.image.float())
        boxes, _ = model.decode(raw, (192, 256))
        points, strides = centres(raw, "boxes", model.head.strides)
        maps = {part: flat(raw, part, model.head.strides) for part in ("classes", "objectness")}
    predictions = Predictions(points, strides, boxes, maps["classes"], maps["objectness"].squeeze(-1))
    index, overlaps = match_dynamically(SIM_OTA, predictions, targets)
    first = [0, int((targets.image_index == 0).sum())]
    for image in (0, 1):
        found = (index[image] >= 0).nonzero().squeeze(1)
        assert found.tolist() == stored.arrays[f"{mode}/match/{image}/anchor"].tolist()
        assert (index[image, found] - first[image]).tolist() == stored.arrays[f"{mode}/match/{image}/gt"].tolist()
        assert stored.error(f"{mode}/match/{image}/iou", overlaps[image, found]) < 4e-3


def test_running_statistics_follow_a_batch():
    model, images = crossstage.create_model("yolox_nano").train(), 255 * torch.rand(2, 3, 64, 64)
    first = model.backbone.stem[1]
    assert first.bn.eps == 1e-3
    with torch.no_grad():
        batch = first.conv(model.backbone.stem[0](images)).mean((0, 2, 3))
        model(images)
    torch.testing.assert_close(first.bn.running_mean, 0.03 * batch)


def test_another_network_s_tensors_are_refused_by_name():
    stored = digest("yolox_tiny")
    with pytest.raises(WeightsError, match=r"yolox_s: backbone\.stages\.0.* is \(48,\); expected \(64,\)"):
        from_authors("yolox_s", stored.state)
    with pytest.raises(WeightsError, match=r"'module\.head' has no place"):
        from_authors("yolox_tiny", {"module.head": torch.zeros(1)})


@pytest.mark.parametrize("size", PARAMETERS)
def test_every_tensor_of_a_size_has_one_of_the_authors(size):
    """Their names for each of ours, written down from their release; no two share a place."""
    with torch.device("meta"):
        ours = crossstage.create_model(f"yolox_{size}").state_dict()
    theirs = _names(size)
    adapted = AUTHORS[f"yolox_{size}"].adapt({name: torch.zeros(()) for name in theirs}, size)
    assert len(adapted) == len(theirs)
    assert adapted.keys() == ours.keys()


def _names(size: str) -> list[str]:
    """The names in the authors' file of a size."""
    blocks, separable = {"m": 2, "l": 3, "x": 4}.get(size, 1), size == "nano"
    tensors = (
        "conv.weight",
        *(f"bn.{x}" for x in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    )

    def plain(name: str) -> list[str]:
        return [f"{name}.{tensor}" for tensor in tensors]

    def spatial(name: str) -> list[str]:
        return plain(f"{name}.dconv") + plain(f"{name}.pconv") if separable else plain(name)

    def stage(name: str, count: int) -> list[str]:
        outer = [tensor for i in (1, 2, 3) for tensor in plain(f"{name}.conv{i}")]
        blocks = (plain(f"{name}.m.{i}.conv1") + spatial(f"{name}.m.{i}.conv2") for i in range(count))
        return outer + [tensor for block in blocks for tensor in block]

    names = plain("backbone.backbone.stem.conv")
    for number, count in ((2, blocks), (3, 3 * blocks), (4, 3 * blocks), (5, blocks)):
        at = f"backbone.backbone.dark{number}"
        names += spatial(f"{at}.0") + stage(f"{at}.{2 if number == 5 else 1}", count)
    names += plain("backbone.backbone.dark5.1.conv1") + plain("backbone.backbone.dark5.1.conv2")
    names += plain("backbone.lateral_conv0") + plain("backbone.reduce_conv1")
    names += spatial("backbone.bu_conv1") + spatial("backbone.bu_conv2")
    for part in ("p4", "p3", "n3", "n4"):
        names += stage(f"backbone.C3_{part}", blocks)
    for level in range(3):
        names += plain(f"head.stems.{level}")
        for branch in ("cls", "reg"):
            names += spatial(f"head.{branch}_convs.{level}.0") + spatial(f"head.{branch}_convs.{level}.1")
        names += [f"head.{b}_preds.{level}.{t}" for b in ("cls", "reg", "obj") for t in ("weight", "bias")]
    return names


def test_pixels_fold_in_the_authors_order():
    x = torch.arange(32.0).view(1, 2, 4, 4)
    y = PixelsToChannels()(x)
    assert y.shape == (1, 8, 2, 2)
    for place, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        assert torch.equal(y[:, 2 * place : 2 * place + 2], x[:, :, row::2, column::2])


@pytest.mark.parametrize(
    "partial",
    [
        None,
        Partial(gamma=0.25, fusion="first"),
        Partial(fusion="last"),
        Partial(fusion="both", split="slice"),
        Partial(fusion="none", split="slice"),
    ],
)
def test_stages_heed_partial(partial):
    row = replace(BACKBONES["cspdarknet_x_nano"], partial=partial, drop_path=0.1)
    backbone = build_backbone(row, out_indices=(0, 1, 2, 3))
    maps = backbone.eval()(torch.rand(1, 3, 64, 64))
    assert [tuple(x.shape) for x in maps] == [(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]
    assert sum(isinstance(module, CrossStage) for module in backbone.modules()) == (0 if partial is None else 4)


@pytest.mark.parametrize(
    "name",
    [
        "csppeleenet_efm_yolox",
        "cspdarknet53_tiny_prn_yolox",
        "cspdarknet53_tiny_csp_pafpn_yolox",
        "cspdarknet53_tiny_pafpn",
        "cspdarknet_x_nano_tiny_fpn_yolox",
        "mobilenetv2_pafpn_yolox",
    ],
)
def test_parts_compose(name):
    torch.manual_seed(0)
    model = crossstage.create_model(name, num_classes=2)
    targets = Targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([[8.0, 8, 50, 40]]))
    parts = model.loss(torch.rand(2, 3, 64, 64), targets)
    sum(parts.values()).backward()
    assert all(torch.isfinite(part) for part in parts.values())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_neck_takes_two_maps_and_widths_of_its_own():
    neck = CSPPAFPNConfig(reads=(16, 32), neck_channels=(10, 12), neck_blocks=0).build(
        [7, 9], [16, 32], style=ConvStyle()
    )
    assert neck.channels == [10, 12]
    assert [x.shape[1:] for x in neck([torch.rand(1, 7, 4, 4), torch.rand(1, 9, 2, 2)])] == [(10, 4, 4), (12, 2, 2)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: CSPPAFPNConfig(reads=(32,)),
        lambda: CSPPAFPNConfig(neck_channels=(8, 8)),
        lambda: CSPPAFPNConfig(neck_blocks=-1),
        lambda: YoloxConfig(branch_width=0),
        lambda: YoloxConfig(branch_convs=-1),
        lambda: YoloxLoss(radius=0),
        lambda: YoloxLoss(top=0),
        lambda: YoloxLoss(l1=-1),
        lambda: YoloxLoss(box_gain=float("nan")),
    ],
)
def test_values_out_of_range_are_refused(build):
    with pytest.raises(ConfigError):
        build()


def _head(classes: int = 3) -> YoloxHead:
    torch.manual_seed(1)
    return YoloxConfig(branch_width=8, branch_convs=1, loss=YoloxLoss(l1=0.5)).build([8, 8], [8, 16], classes)


def _features(batch: int) -> list[Tensor]:
    return [torch.randn(batch, 8, 8, 8), torch.randn(batch, 8, 4, 4)]


def test_loss_is_that_of_a_loop():
    head = _head().eval()
    raw = head([3 * x for x in _features(2)])
    targets = Targets(
        torch.tensor([0, 1, 1]),
        torch.tensor([2, 0, 1]),
        torch.tensor([[3.0, 4, 33, 40], [20, 10, 60, 60], [22, 8, 50, 58]]),
    )
    parts = {name: float(part.detach()) for name, part in head.loss(raw, targets, (64, 64)).items()}
    raw = {name: x.detach() for name, x in raw.items()}
    boxes, _ = head.decode(raw, (64, 64))
    points, strides = centres(raw, "boxes", head.strides)
    maps = {part: flat(raw, part, head.strides) for part in ("boxes", "classes", "objectness")}
    predictions = Predictions(points, strides, boxes, maps["classes"], maps["objectness"].squeeze(-1))
    index, _ = match_dynamically(SIM_OTA, predictions, targets)
    sums, count = dict.fromkeys(parts, 0.0), 0
    for image in range(2):
        for point in range(len(points)):
            number = int(index[image, point])
            logit = maps["objectness"][image, point, 0]
            sums["objectness"] += float(F.softplus(-logit if number >= 0 else logit))
            if number < 0:
                continue
            count += 1
            box, target = boxes[image, point], targets.boxes_xyxy[number]
            low, high = torch.maximum(box[:2], target[:2]), torch.minimum(box[2:], target[2:])
            inter = float((high - low).clamp(min=0).prod())
            iou = inter / (float((box[2:] - box[:2]).prod() + (target[2:] - target[:2]).prod()) - inter)
            sums["boxes"] += 5 * (1 - iou**2)
            for class_id, value in enumerate(maps["classes"][image, point].tolist()):
                wanted = iou if class_id == targets.class_ids[number] else 0.0
                probability = 1 / (1 + 2.718281828**-value)
                sums["classes"] -= wanted * float(torch.tensor(probability).log()) + (1 - wanted) * float(
                    torch.tensor(1 - probability).log()
                )
            cell, stride = points[point] / strides[point] - 0.5, float(strides[point])
            centre, size = (target[:2] + target[2:]) / 2 / stride - cell, (target[2:] - target[:2]) / stride
            sums["l1"] += 0.5 * float((maps["boxes"][image, point] - torch.cat([centre, size.log()])).abs().sum())
    assert count >= 3
    assert parts == pytest.approx({name: total / count for name, total in sums.items()}, rel=1e-4)


def test_weights_of_classes_scale_their_loss():
    head, features = _head(), _features(1)
    targets = Targets(torch.tensor([0]), torch.tensor([1]), torch.tensor([[8.0, 8, 40, 40]]))
    plain = head.loss(head(features), targets, (64, 64))
    head.class_weights = torch.full((3,), 2.0)
    weighted = head.loss(head(features), targets, (64, 64))
    assert weighted["classes"].item() == pytest.approx(2 * plain["classes"].item())
    assert weighted["boxes"].item() == pytest.approx(plain["boxes"].item())


def test_l1_is_off_until_it_is_asked_for():
    row = HEADS["yolox"]
    assert row.loss.l1 == 0
    assert with_loss(row, {"l1": 1.0}).loss.l1 == 1


def test_images_without_objects_train_objectness_alone():
    head = _head()
    targets = Targets(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    parts = head.loss(head(_features(2)), targets, (64, 64))
    assert {name for name, part in parts.items() if float(part) > 0} == {"objectness"}
    sum(parts.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_scores_start_low():
    head = _head(80)
    _, scores = head.decode(head([torch.zeros_like(x) for x in _features(1)]), (64, 64))
    assert 0 < float(scores.max()) < 1e-3
