"""Faster R-CNN and Mask R-CNN: equal to torchvision's, its weights, the authors' names, losses, classes."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from torchvision.models import detection
from torchvision.ops import MultiScaleRoIAlign, box_iou

import crossstage
from crossstage.data.augment import Augmentation
from crossstage.errors import ConfigError, WeightsError
from crossstage.inference.predictor import Predictor
from crossstage.models.backbones import BACKBONES
from crossstage.models.heads import HEADS
from crossstage.models.heads.rcnn import FasterRCNNConfig
from crossstage.models.heads.rcnn_masks import MaskRCNNConfig
from crossstage.models.heads.rcnn_parts import RCNNLoss
from crossstage.models.registry import default_spec, find
from crossstage.ops.masks import paste
from crossstage.ops.nms import NMS, postprocess
from crossstage.ops.rois import levels_by_area, pool, with_images
from crossstage.structures import Targets
from crossstage.training import resume, train
from crossstage.training.options import TrainOptions
from crossstage.weights.from_authors import from_authors
from crossstage.weights.from_peer import from_peer
from crossstage.weights.peers.from_torchvision_rcnn import without_epsilon
from crossstage.weights.transfer import transfer

SIZES = [(96, 130), (120, 64), (71, 97)]
FEW = {"proposals": (300, 60)}  # so that tests are quick


@pytest.fixture(scope="module", autouse=True)
def _narrow():
    BACKBONES["narrow"] = replace(BACKBONES["resnet10"], widths=(8, 16, 16, 32), pool=3)
    HEADS["small"] = MaskRCNNConfig(mask_convs=1, box_width=64, proposals=(100, 20))
    yield
    del BACKBONES["narrow"], HEADS["small"]


def build(name: str = "maskrcnn_narrow_fpn_lite", **settings):
    model = crossstage.create_model(name, num_classes=3, **{**FEW, **settings}).eval()
    lively(model)
    return model


def lively(model: nn.Module) -> None:
    """Make predictors' weights so large that boxes and scores are all different, and norms' statistics unequal."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(("cls_logits", "cls_score", "mask_fcn_logits")):
                module.weight.mul_(10)
            elif name.endswith("bbox_pred"):
                module.weight.mul_(4)
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1)
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)


class Shown(nn.Module):
    """Our backbone and neck as torchvision's detectors want them."""

    out_channels = 128

    def __init__(self, model) -> None:
        super().__init__()
        self.parts = nn.ModuleList([model.backbone, model.neck])

    def forward(self, images):
        maps = self.parts[1](self.parts[0](images))
        return OrderedDict(zip(("0", "1", "2", "3", "pool"), maps, strict=True))


def twin(model, **settings):
    """torchvision's Mask R-CNN around our backbone and neck, with the weights of our head, for images as they are."""
    theirs = detection.MaskRCNN(
        Shown(model), num_classes=4, image_mean=[0, 0, 0], image_std=[1, 1, 1],
        rpn_pre_nms_top_n_test=300, rpn_post_nms_top_n_test=60, **settings,
    )  # fmt: skip
    missing, unexpected = theirs.load_state_dict(model.head.state_dict(), strict=False)
    assert not unexpected and all(key.startswith("backbone.") for key in missing)
    theirs.transform.resize = lambda image, target=None: (image, target)
    return theirs.eval()


def batch(sizes=SIZES):
    images = [torch.rand(3, *size) for size in sizes]
    joined = torch.zeros(len(sizes), 3, 128, 160)
    for index, image in enumerate(images):
        joined[index, :, : image.shape[1], : image.shape[2]] = image
    return images, joined


def objects():
    """Two objects in the first image, one in the second, none in the third; with masks."""
    boxes = torch.tensor([[10.0, 12, 60, 70], [50, 20, 120, 90], [5, 30, 50, 100]])
    masks = torch.zeros(3, 128, 160, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top : bottom - 8, left:right] = True
    return Targets(torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1]), boxes, masks, torch.tensor(SIZES))


@pytest.mark.parametrize("sizes", [SIZES, [(128, 160)], [(64, 160), (128, 33)]])
def test_detections_are_torchvisions(sizes):
    model = build()
    theirs = twin(model)
    images, joined = batch(sizes)
    with torch.inference_mode():
        padded = theirs.transform(images)[0].tensors  # to the largest image's multiple of 32
        joined = joined[:, :, : padded.shape[2], : padded.shape[3]]
        assert torch.equal(joined, padded)
        expected = theirs(images)
        found = model.detect(model(joined), tuple(joined.shape[2:]), sizes=sizes)
    for own, other, size in zip(found, expected, sizes, strict=True):
        assert len(own.scores) == len(other["scores"]) > 10
        torch.testing.assert_close(own.boxes_xyxy, other["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(own.scores, other["scores"], rtol=1e-5, atol=1e-6)
        assert torch.equal(own.class_ids + 1, other["labels"])
        pasted = paste(own.masks, own.boxes_xyxy, size)
        torch.testing.assert_close(pasted, other["masks"][:, 0], rtol=1e-4, atol=1e-5)


def test_losses_are_torchvisions_and_reach_every_weight():
    model = build(rpn_convs=1)
    theirs = twin(model, rpn_pre_nms_top_n_train=2000, rpn_post_nms_top_n_train=2000)
    images, joined = batch()
    given = objects()
    wanted = [
        {
            "boxes": given.boxes_xyxy[given.image_index == image],
            "labels": given.class_ids[given.image_index == image] + 1,
            "masks": given.masks[given.image_index == image][:, : SIZES[image][0], : SIZES[image][1]].byte(),
        }
        for image in range(3)
    ]
    theirs.train()
    theirs.backbone.eval()
    torch.manual_seed(7)
    expected = theirs(images, wanted)
    torch.manual_seed(7)
    found = model.loss(joined, given)
    names = {
        "objectness": "loss_objectness", "proposals": "loss_rpn_box_reg", "classes": "loss_classifier",
        "boxes": "loss_box_reg", "masks": "loss_mask",
    }  # fmt: skip
    assert found.keys() == names.keys()
    for name, part in found.items():
        assert part > 0
        torch.testing.assert_close(part, expected[names[name]], rtol=1e-5, atol=1e-6)
    sum(found.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_loss_of_proposals_follows_its_formula():
    """One object whose box is an anchor's, all anchors sampled: smooth L1 and cross-entropy by hand."""
    model = build("fasterrcnn_narrow_fpn_lite", loss=replace(build().head.row.loss, anchors_sampled=100_000))
    box = torch.tensor([[48.0, 48, 112, 112]])  # stride 8 has anchors of 64 x 64 around (80, 80)
    targets = Targets(torch.tensor([0]), torch.tensor([1]), box)
    raw = model(torch.rand(1, 3, 128, 160))
    parts = model.head.loss(raw, targets, (128, 160))
    objectness, box_sum, positives, count = [], 0.0, 0, 0
    for stride in (4, 8, 16, 32, 64):
        scores, deltas = raw[f"objectness{stride}"][0], raw[f"deltas{stride}"][0]
        rows, columns = scores.shape[1:]
        step_y, step_x = 128 // rows, 160 // columns
        for number, ratio in enumerate((0.5, 1.0, 2.0)):
            width, height = (8 * stride / ratio**0.5, 8 * stride * ratio**0.5)
            half_x, half_y = round(width / 2), round(height / 2)
            for row in range(rows):
                for column in range(columns):
                    x, y = column * step_x, row * step_y
                    overlap = max(0, min(x + half_x, 112) - max(x - half_x, 48)) * max(
                        0, min(y + half_y, 112) - max(y - half_y, 48)
                    )
                    iou = overlap / (4 * half_x * half_y + 64 * 64 - overlap)
                    if 0.3 <= iou < 0.7:
                        continue
                    count += 1
                    objectness.append(
                        nn.functional.binary_cross_entropy_with_logits(
                            scores[number, row, column], torch.tensor(float(iou >= 0.7))
                        )
                    )
                    if iou >= 0.7:
                        positives += 1
                        target = torch.tensor(
                            [(80 - x) / (2 * half_x), (80 - y) / (2 * half_y), np.log(32 / half_x), np.log(32 / half_y)]
                        )
                        error = (deltas[4 * number : 4 * number + 4, row, column] - target).abs()
                        box_sum += torch.where(error < 1 / 9, 4.5 * error**2, error - 1 / 18).sum()
    assert positives > 1
    torch.testing.assert_close(parts["objectness"], torch.stack(objectness).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts["proposals"], (box_sum / count).float(), rtol=1e-4, atol=1e-5)


def test_decoded_boxes_become_the_same_detections():
    model = build("fasterrcnn_narrow_fpn_lite")
    raw = model(batch()[1])
    boxes, scores = model.decode(raw, (128, 160))
    for own, other in zip(model.detect(raw, (128, 160)), postprocess(boxes, scores, model.nms), strict=True):
        assert torch.equal(own.scores, other.scores) and torch.equal(own.boxes_xyxy, other.boxes_xyxy)


def test_settings_of_suppression_are_heeded():
    model = build()
    raw = model(batch()[1])
    for found in model.detect(raw, (128, 160), NMS(0.1, 0.3, class_ids=(2,), max_detections=4)):
        assert 0 < len(found.scores) <= 4 and len(found.masks) == len(found.scores)
        assert set(found.class_ids.tolist()) == {2} and found.scores.min() > 0.1
    (*nothing,) = model.detect(raw, (128, 160), NMS(1.0))
    assert all(found.masks.shape == (0, 28, 28) for found in nothing)


def test_a_region_is_read_as_torchvision_does_it():
    features = [torch.rand(2, 4, 128 // stride, 160 // stride) for stride in (4, 8, 16, 32)]
    boxes = [torch.tensor([[3.0, 5, 20, 30], [0, 0, 159, 120]]), torch.tensor([[30.0, 10, 150, 110]])]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = {str(index): feature for index, feature in enumerate(features)}
    expected = theirs(named, boxes, [(128, 160), (128, 160)])
    levels = levels_by_area(boxes, (4, 8, 16, 32))
    found = pool(features, with_images(boxes), levels, (4, 8, 16, 32), 7, sampling=2, aligned=False)
    assert torch.equal(found, expected) and levels.tolist() == [0, 1, 0]


def test_aligned_regions_read_a_ramp_at_half_pixels():
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 16, 16).contiguous()
    roi, level = torch.tensor([[0.0, 8, 8, 40, 40]]), torch.tensor([0])
    aligned, plain = (pool([ramp], roi, level, (4,), 2, sampling=0, aligned=each)[0, 0, 0] for each in (True, False))
    assert aligned.tolist() == [3.5, 7.5] and plain.tolist() == [4.0, 8.0]  # cells' centres in pixels, from 2 to 10


def test_exact_anchors_keep_their_area_and_stride():
    model = build("fasterrcnn_narrow_fpn_lite", anchor_grid="exact")
    raw = model(torch.rand(1, 3, 96, 160))
    _, _, anchors = model.head._first_stage(raw, (96, 160))
    sizes = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(sizes[:3].prod(1), torch.full((3,), 32.0**2))
    torch.testing.assert_close(sizes[:3, 1] / sizes[:3, 0], torch.tensor([0.5, 1, 2]))
    last = (anchors[-1, 2:] + anchors[-1, :2]) / 2  # 96 rows make two of stride 64, which torchvision puts 48 apart
    torch.testing.assert_close(last, torch.tensor([128.0, 64]))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("fasterrcnn_resnet50_fpn", detection.FasterRCNN_ResNet50_FPN_Weights),
        ("fasterrcnn_resnet50_fpn_v2", detection.FasterRCNN_ResNet50_FPN_V2_Weights),
        ("maskrcnn_resnet50_fpn", detection.MaskRCNN_ResNet50_FPN_Weights),
        ("maskrcnn_resnet50_fpn_v2", detection.MaskRCNN_ResNet50_FPN_V2_Weights),
    ],
)
def test_torchvisions_networks_have_a_twin_of_their_size(name, parameters):
    twins = crossstage.weights.peers.PEERS[f"torchvision:{name}"]
    with torch.device("meta"):
        model = find(twins.model).build(default_spec(twins.model, 90, overrides=twins.settings))
        theirs = getattr(detection, name)(weights=None, weights_backbone=None)
    assert sum(p.numel() for p in model.parameters()) == parameters.COCO_V1.meta["num_params"]
    adapted = twins.adapt(theirs.state_dict(), name)
    own = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in adapted.items()} == own
    assert twins.count_classes(adapted) == 90
    names = twins.class_names
    assert len(names) == 90 and names[0] == "person" and names[11] == "N/A"


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    model = detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=6,
        min_size=96,
        max_size=160,
        rpn_post_nms_top_n_test=60,
        box_detections_per_img=25,
    ).eval()
    lively(model)
    return model


def test_torchvisions_weights_find_the_same(theirs):
    """On the batch that torchvision makes, exactly; from files' pixels, but for what a rounding error decides."""
    model = from_peer("torchvision:maskrcnn_resnet50_fpn", theirs.state_dict())
    model.head.row = replace(model.head.row, proposals=(1000, 60))
    random = np.random.default_rng(0)
    images = [
        np.kron(random.integers(0, 255, shape, dtype=np.uint8), np.ones((9, 9, 1), np.uint8))
        for shape in ((20, 27, 3), (24, 11, 3))
    ]
    tensors = [torch.from_numpy(image).permute(2, 0, 1) / 255 for image in images]
    with torch.inference_mode():
        given, _ = theirs.transform(list(tensors))
        maps = theirs.backbone(given.tensors)
        proposals, _ = theirs.rpn(given, maps)
        exact, _ = theirs.roi_heads(maps, proposals, given.image_sizes)
        expected = theirs.transform.postprocess(
            [dict(one) for one in exact], given.image_sizes, [(180, 243), (216, 99)]
        )
        few = replace(model.nms, max_detections=25)
        found = model.detect(model(given.tensors), tuple(given.tensors.shape[2:]), few, sizes=given.image_sizes)
    for own, other in zip(found, exact, strict=True):
        assert len(own.scores) > 20 and torch.equal(own.class_ids + 1, other["labels"])
        torch.testing.assert_close(own.boxes_xyxy, other["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(own.scores, other["scores"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(own.masks, other["masks"][:, 0], rtol=1e-4, atol=1e-5)
    for (own, place, _), other, image in zip(
        Predictor(model, few, imgsz=(96, 160), batch=2).detect_batch(images), expected, images, strict=True
    ):
        boxes = place.to_image(own.boxes_xyxy)
        overlap = box_iou(other["boxes"], boxes) * (other["labels"].unsqueeze(1) == own.class_ids + 1)
        best, at = overlap.max(1)
        same = best > 0.999
        assert same.float().mean() > 0.9
        torch.testing.assert_close(own.scores[at[same]], other["scores"][same], rtol=1e-4, atol=1e-4)
        pasted = paste(own.masks, boxes, image.shape[:2])[at[same]] > 0.5
        assert (pasted != (other["masks"][same][:, 0] > 0.5)).float().mean() < 1e-3


def old_name(key: str) -> str:
    if key.startswith("roi_heads.mask_head."):
        number, _, kind = key.removeprefix("roi_heads.mask_head.").split(".")
        return f"roi_heads.mask_head.mask_fcn{int(number) + 1}.{kind}"
    return re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", key.replace("rpn.head.conv.0.0.", "rpn.head.conv."))


def test_released_weights_are_fetched_and_keep_their_epsilon(theirs, monkeypatch):
    """The files are of before torchvision 0.13, whose layers had other names, and their norms have an epsilon of 0."""
    renamed = {
        old_name(key): tensor for key, tensor in theirs.state_dict().items() if not key.endswith("num_batches_tracked")
    }
    small = renamed["backbone.body.layer1.0.bn1.running_var"]
    small[:8] = 1e-6
    monkeypatch.setattr(detection.MaskRCNN_ResNet50_FPN_Weights, "get_state_dict", lambda *_, **__: renamed)
    model = crossstage.load("torchvision:maskrcnn_resnet50_fpn.COCO_V1")
    assert model.preprocessing.resize == "shortest" and model.preprocessing.resample == "sharp"
    body = theirs.backbone.body
    before = body.layer1[0].bn1.running_var.clone()
    for norm in body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 0.0
    with torch.inference_mode():
        body.layer1[0].bn1.running_var[:8] = 1e-6
        image = torch.rand(1, 3, 64, 64)
        for own, other in zip(model.backbone(image), body(image).values(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
        body.layer1[0].bn1.running_var.copy_(before)
    for norm in body.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 1e-5
    with pytest.raises(ConfigError, match="no weights 'V9'"):
        crossstage.load("torchvision:maskrcnn_resnet50_fpn.V9")


def test_epsilon_is_folded_into_the_scale():
    norm = nn.BatchNorm2d(4, eps=0.0).eval()
    with torch.no_grad():
        norm.running_var.copy_(torch.tensor([1e-7, 1e-5, 0.1, 3]))
        norm.weight.uniform_(0.5, 1)
    scaled = without_epsilon({f"backbone.body.bn1.{key}": tensor for key, tensor in norm.state_dict().items()})
    own = nn.BatchNorm2d(4).eval()
    own.load_state_dict({key.removeprefix("backbone.body.bn1."): tensor for key, tensor in scaled.items()})
    x = torch.rand(1, 4, 5, 5)
    torch.testing.assert_close(own(x), norm(x), rtol=1e-5, atol=1e-6)


AUTHORS_NAMES = (
    ("neck.fpn.inner_blocks.{}.0.", "backbone.fpn_lateral{}.", 2),
    ("neck.fpn.layer_blocks.{}.0.", "backbone.fpn_output{}.", 2),
    ("head.roi_heads.mask_head.{}.0.", "roi_heads.mask_head.mask_fcn{}.", 1),
)


SINGLE_NAMES = {
    "head.rpn.head.conv.0.0.": "proposal_generator.rpn_head.conv.",
    "head.rpn.head.cls_logits.": "proposal_generator.rpn_head.objectness_logits.",
    "head.rpn.head.bbox_pred.": "proposal_generator.rpn_head.anchor_deltas.",
    "head.roi_heads.box_head.fc6": "roi_heads.box_head.fc1",
    "head.roi_heads.box_head.fc7": "roi_heads.box_head.fc2",
    "head.roi_heads.mask_predictor.conv5_mask": "roi_heads.mask_head.deconv",
    "head.roi_heads.mask_predictor.mask_fcn_logits": "roi_heads.mask_head.predictor",
    "head.roi_heads.box_predictor": "roi_heads.box_predictor",
}


def authors_state(model) -> dict[str, torch.Tensor]:
    """The heads' tensors as detectron2 names and orders them."""
    return dict(authors_tensor(key, tensor) for key, tensor in model.state_dict().items())


def authors_tensor(key: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    for ours, others, first in AUTHORS_NAMES:
        for number in range(4):
            key = key.replace(ours.format(number), others.format(number + first))
    for ours, others in SINGLE_NAMES.items():
        key = key.replace(ours, others)
    if "cls_score" in key:
        return key, torch.cat([tensor[1:], tensor[:1]])
    if "box_predictor.bbox_pred" in key:
        return key, tensor[4:]
    return key, tensor[1:] if "mask_head.predictor" in key else tensor


def test_the_authors_names_and_their_order_of_classes():
    name = "maskrcnn_vovnet19_slim_dw_v2_fpn_lite"
    model = crossstage.create_model(name, num_classes=4).eval()
    state = authors_state(model)
    vovnet = {key: x for key, x in state.items() if key.startswith("backbone.st")}
    rest = {key: x for key, x in state.items() if key not in vovnet}
    rest["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    with pytest.raises(WeightsError, match="missing"):
        from_authors(name, rest)
    loaded = from_authors(name, rest | _detectron2_backbone(vovnet))
    assert loaded.preprocessing.colour_order == "bgr" and loaded.head.row.aligned
    own, expected = loaded.state_dict(), model.state_dict()
    for key, tensor in own.items():
        if "bbox_pred" in key and "box_predictor" in key:
            assert torch.equal(tensor[4:], expected[key][4:]) and not tensor[:4].any()
        elif "mask_fcn_logits" in key:
            assert torch.equal(tensor[1:], expected[key][1:]) and not tensor[:1].any()
        else:
            assert torch.equal(tensor, expected[key]), key


def _detectron2_backbone(state):
    """Our names of a separable VoVNet of one module a stage as the authors' code has them."""
    renamed = {}
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        parts = key.split(".")
        layer = {"depthwise": "dw_conv3x3", "conv": "pw_conv1x1", "bn": "pw_norm"}
        plain = {"conv": "conv", "bn": "norm"}
        if parts[1] == "stem":
            names = layer if parts[2] != "0" else plain
            theirs = f"stem.stem_{int(parts[2]) + 1}/{names[parts[3]]}"
        else:
            stage = int(parts[2]) + 2
            module = f"stage{stage}.OSA{stage}_1"
            if parts[5] == "layers":
                theirs = f"{module}.layers.{parts[6]}.OSA{stage}_1_{parts[6]}/{layer[parts[7]]}"
            elif parts[5] == "reduce":
                theirs = f"{module}.conv_reduction.OSA{stage}_1_reduction_0/{plain[parts[6]]}"
            elif parts[5] == "aggregate":
                theirs = f"{module}.concat.OSA{stage}_1_concat/{plain[parts[6]]}"
            else:
                theirs = f"{module}.ese.{parts[6]}"
        renamed[f"backbone.bottom_up.{theirs}.{parts[-1]}"] = tensor
    return renamed


@pytest.mark.parametrize("agnostic", [False, True])
def test_weights_carry_over_to_other_classes(agnostic):
    old = build(agnostic=agnostic)
    new = crossstage.create_model("maskrcnn_narrow_fpn_lite", class_names=("c", "x", "a"), **FEW, agnostic=agnostic)
    told = transfer(new, old.state_dict(), "old", old_names=("a", "b", "c"), new_names=("c", "x", "a"))
    assert not told.fresh
    mine, theirs = new.head.roi_heads, old.head.roi_heads
    for rows, layer in (
        (1, "box_predictor.cls_score"),
        (4, "box_predictor.bbox_pred"),
        (1, "mask_predictor.mask_fcn_logits"),
    ):
        own, other = (heads.get_submodule(layer).weight.detach() for heads in (mine, theirs))
        if agnostic and "cls_score" not in layer:
            assert torch.equal(own, other)
            continue
        own, other = own.unflatten(0, (4, rows)), other.unflatten(0, (4, rows))
        assert torch.equal(own[[0, 1, 3]], other[[0, 3, 1]]) and not torch.equal(own[2], other[2])


def test_agnostic_heads_detect_and_learn():
    model = build(agnostic=True)
    _, joined = batch()
    raw = model(joined)
    boxes, scores = model.head._second_stage(raw, (128, 160), SIZES)[0]
    assert boxes.shape == (*scores.shape, 4) and torch.equal(boxes[:, 0], boxes[:, 2])
    assert model.detect(raw, (128, 160), sizes=SIZES)[0].masks.shape[1:] == (28, 28)
    model.head.row = replace(model.head.row, loss=RCNNLoss(rois_sampled=16))
    assert all(torch.isfinite(part) for part in model.loss(joined, objects()).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchor_sizes": (32.0, 64.0)}, "expected one for each of the strides"),
        ({"anchor_grid": "loose"}, "expected rounded or exact"),
        ({"mask_convs": -1}, "expected 0 or more"),
        ({"rpn_convs": 0}, "at least 1"),
    ],
)
def test_rows_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        crossstage.create_model("maskrcnn_narrow_fpn", **settings)


def test_maps_that_do_not_fit_are_refused():
    for channels, strides in (([8, 16], [4, 8]), ([8, 8], [64, 128])):
        with pytest.raises(ConfigError, match="expected equal channels, and strides from 32 down"):
            FasterRCNNConfig().build(channels, strides, 3)


def test_objects_without_masks_are_refused():
    model = build()
    with pytest.raises(ConfigError, match="the objects have no masks"):
        model.loss(batch()[1], objects()._replace(masks=None))


@pytest.mark.parametrize(
    ("name", "backbone", "rest"),
    [
        # Backbones as published (VoVNetV2 without its classifier); the rest as torchvision's network without its own.
        ("maskrcnn_vovnet39_v2_fpn", 25.184, None),
        ("maskrcnn_vovnet19_slim_dw_v2_fpn_lite", None, None),
        ("maskrcnn_resnet50_torchvision_fpn", 23.508, 44.401393 - 23.454912),
        ("fasterrcnn_cspresnet50_fpn", None, None),
        ("maskrcnn_vovnet39_fpn_gn", None, None),
        ("csppeleenet_rcnn_fpn_maskrcnn", None, None),
    ],
)
def test_families_are_named_and_profiled(name, backbone, rest):
    cost = crossstage.profile(name, 128)
    assert any(layer.name.startswith("head.rpn") for layer in cost.layers)
    with torch.device("meta"):
        model = find(name).build(default_spec(name, 90))
    assert cost.parameters < sum(p.numel() for p in model.parameters())  # 80 classes are fewer
    counted = sum(p.numel() for p in model.backbone.parameters()) / 1e6
    if backbone:
        assert counted == pytest.approx(backbone, abs=0.001)
    if rest:
        assert sum(p.numel() for p in model.parameters()) / 1e6 - counted == pytest.approx(rest, abs=1e-6)


def test_fused_it_finds_the_same():
    model = build("maskrcnn_narrow_fpn_v2")
    fused = crossstage.fuse(model)
    image = torch.rand(1, 3, 128, 160)
    with torch.inference_mode():
        (own,), (other,) = model.detect(model(image), (128, 160)), fused.detect(fused(image), (128, 160))
    torch.testing.assert_close(other.boxes_xyxy, own.boxes_xyxy, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(other.masks, own.masks, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A dozen images of squares and circles with polygons."""
    root = tmp_path_factory.mktemp("drawn")
    (root / "annotations").mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        (root / "images" / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            image = Image.fromarray(random.integers(90, 160, (64, 80, 3), dtype=np.uint8))
            side = int(random.integers(24, 40))
            x, y = int(random.integers(0, 80 - side)), int(random.integers(0, 64 - side))
            ImageDraw.Draw(image).rectangle((x, y, x + side, y + side), fill="red")
            outline = [x, y, x + side, y, x + side, y + side, x, y + side]
            annotations.append(
                {"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, side, side], "area": side**2,
                 "iscrowd": 0, "segmentation": [outline]}
            )  # fmt: skip
            image.save(root / "images" / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 64})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def test_it_trains_and_goes_on_bit_for_bit(drawn, tmp_path):
    options = TrainOptions(
        "narrow_rcnn_fpn_lite_small", str(drawn), imgsz=64, epochs=2, batch=4, workers=0, out=str(tmp_path),
        name="whole", optimizer="adamw", lr=0.001, burn_in=0, ema=0, sample_every=0,
        loss={"rois_sampled": 16, "anchors_sampled": 32, "proposals": (100, 30)},
        augment=Augmentation(mosaic=0, scale=0, translate=0, hue=0, saturation=0, brightness=0),
    )  # fmt: skip
    whole = train(options, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 1)
        train(replace(options, name="halves"), quiet=True)
    halves = resume(tmp_path / "halves", quiet=True)
    parts = {"objectness", "proposals", "classes", "boxes", "masks"}
    assert parts < whole.history[0].keys()
    assert all(np.isfinite(row[part]) for row in whole.history for part in parts)
    one, other = (crossstage.load(result.folder).state_dict() for result in (whole, halves))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_it_learns_a_batch():
    torch.manual_seed(0)
    quick = RCNNLoss(rois_sampled=16, proposals=(100, 30))
    model = crossstage.create_model("narrow_rcnn_fpn_lite_small", num_classes=3, loss=quick).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.002)
    _, joined = batch()
    losses = []
    for _ in range(8):
        loss = torch.stack(list(model.loss(joined, objects()).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
