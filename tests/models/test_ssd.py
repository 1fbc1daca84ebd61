"""SSD300 and Pelee: torchvision's boxes, scores and loss, published sizes, and what users do with them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import SSD300_VGG16_Weights, ssd300_vgg16
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

import crossstage
from crossstage.analysis import count_flops
from crossstage.data.augment import Augmentation
from crossstage.deploy.export import export
from crossstage.errors import ConfigError, WeightsError
from crossstage.models.heads.ssd import SSD300_SCALES, MultiboxLoss, SSDConfig, SSDHead
from crossstage.models.necks.ssd_extras import L2Norm, SSDExtrasConfig
from crossstage.models.published import DETECTORS
from crossstage.nn import ConvStyle
from crossstage.ops.nms import NMS
from crossstage.structures import Targets
from crossstage.training import resume, train
from crossstage.training.options import TrainOptions
from crossstage.weights.from_peer import from_peer
from crossstage.weights.starting import start_model
from tests.conftest import PHOTOS

SIZES = ((240, 320), (200, 120))  # of images
NARROW = {"widths": (8, 8, 16, 16, 16), "depths": (1, 1, 1, 1, 1), "fc_width": 16}
BOXES = torch.tensor([[10.0, 20, 100, 120], [50, 40, 200, 180], [5, 5, 30, 40], [60, 60, 250, 290]])


def targets(boxes: Tensor, class_ids: list[int], image_index: list[int]) -> Targets:
    return Targets(torch.tensor(image_index, dtype=torch.int64), torch.tensor(class_ids, dtype=torch.int64), boxes)


def spread(head: nn.Module, run: nn.Module, x: Tensor, std: float = 1.5) -> None:
    """Scale each predictor so that its outputs vary as much as trained ones, and many boxes are found."""
    predictors = [layer for layer in head.modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None]

    def scale(layer: nn.Conv2d, _: object, output: Tensor) -> Tensor:
        factor = std / output.std()
        layer.weight.mul_(factor)
        return output * factor

    hooks = [layer.register_forward_hook(scale) for layer in predictors]
    with torch.no_grad():
        run(x)
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="module")
def theirs() -> SSD:
    torch.manual_seed(1)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and name.startswith("backbone"):
            nn.init.kaiming_normal_(parameter)
    spread(model.head, model, [torch.rand(3, 300, 300)])  # pyright: ignore[reportArgumentType]
    return model


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (h // 8, w // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for h, w in SIZES]


def test_torchvisions_weights_find_what_they_find_there(theirs, photos):
    ours = from_peer("torchvision:ssd300_vgg16", theirs.state_dict())
    assert ours.class_names[0] == "person" and len(ours.class_names) == 90
    with torch.no_grad():
        expected = theirs([torch.from_numpy(photo).permute(2, 0, 1) / 255 for photo in photos])
    settings = ours.nms
    found = ours.predict(photos, conf=settings.score, max_detections=settings.max_detections)
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other["boxes"]) == 200 and len(set(one.class_id)) > 10
        np.testing.assert_allclose(one.confidence, other["scores"].numpy(), atol=1e-5)
        # Of boxes that score alike but for rounding, either may come first.
        order, theirs_order = np.lexsort(one.xyxy.T.round(1)), np.lexsort(other["boxes"].numpy().T.round(1))
        np.testing.assert_allclose(one.xyxy[order], other["boxes"].numpy()[theirs_order], atol=2e-2)
        assert sorted(one.class_id + 1) == sorted(other["labels"].tolist())


def test_torchvisions_released_weights_are_fetched_by_their_tag(theirs, monkeypatch):
    monkeypatch.setattr(SSD300_VGG16_Weights, "get_state_dict", lambda _, **__: theirs.state_dict())
    model = crossstage.load("torchvision:ssd300_vgg16.COCO_V1")
    assert torch.equal(model.neck.norms[0].weight, theirs.backbone.scale_weight)
    assert model.preprocessing == DETECTORS["ssd300_vgg16"].preprocessing
    with pytest.raises(ConfigError, match="no weights 'COCO_V2' of ssd300_vgg16"):
        crossstage.load("torchvision:ssd300_vgg16.COCO_V2")


def test_other_weights_are_refused(theirs):
    state = dict(theirs.state_dict())
    state["backbone.extra.4.2.weight"] = torch.zeros(256, 128, 2, 2)
    with pytest.raises(WeightsError, match=r"neck.extras.3.1.conv.weight is \(256, 128, 2, 2\)"):
        from_peer("torchvision:ssd300_vgg16", state)
    with pytest.raises(WeightsError, match="has no place in this network"):
        from_peer("torchvision:ssd300_vgg16", {"backbone.extra.9.2.weigh": torch.zeros(1), "fc.x": torch.zeros(1)})


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "gmac"),
    [  # torchvision's own figures, Pelee's paper for VOC, CSPNet's table 4 for COCO
        ("ssd300_vgg16", 90, 35_641_826, 34.858),
        ("pelee_ssd304", 20, 5.43e6, 1.21),
        ("pelee_ssd304", 80, 5.98e6, 2.58 / 2),
    ],
)
def test_sizes_and_costs_are_the_published_ones(name, classes, parameters, gmac):
    with torch.device("meta"):
        model = crossstage.create_model(name, num_classes=classes).eval()
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == parameters if isinstance(parameters, int) else found == pytest.approx(parameters, rel=1e-3)
    assert count_flops(model, (1, 3, *model.preprocessing.size)) / 2e9 == pytest.approx(gmac, rel=6e-3)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("ssd300_vgg16", [38, 19, 10, 5, 3, 1]),
        ("pelee_ssd304", [19, 19, 10, 5, 3, 1]),
        ("ssd300_resnet18", [38, 19, 10, 5, 3, 1]),
        ("ssd300_csppeleenet", [37, 18, 9, 5, 3, 1]),
    ],
)
def test_maps_have_the_published_numbers_of_cells(name, cells):
    with torch.device("meta"), torch.no_grad():
        model = crossstage.create_model(name, num_classes=2).eval()
        raw = model(torch.empty(1, 3, *model.preprocessing.size))
    assert [raw[f"boxes{level}"].shape[2] for level in range(6)] == cells


@pytest.mark.parametrize(("clip", "steps"), [(True, (8.0, 16.0)), (False, ())])
def test_default_boxes_are_torchvisions(clip, steps):
    row = SSDConfig(prior_scales=(0.2, 0.9, 1.3), prior_ratios=((2.0,), (2.0, 3.0)), prior_steps=steps, prior_clip=clip)
    head = SSDHead(row, (4, 4), (8, 16), 3)
    maps = [torch.rand(2, 4, 7, 9), torch.rand(2, 4, 4, 5)]
    generator = DefaultBoxGenerator(
        [[2], [2, 3]], scales=[0.2, 0.9, 1.3], steps=[8, 16], clip=clip
    )  # strides are what steps are by default
    expected = generator(ImageList(torch.empty(2, 3, 56, 70), [(56, 70)] * 2), maps)
    found = head.priors(head(maps), (56, 70))
    torch.testing.assert_close(found, expected[0])


def small_head(
    classes: int = 3, dtype: torch.dtype = torch.float32, batch: int = 2
) -> tuple[SSDHead, dict[str, Tensor]]:
    row = SSDConfig(prior_scales=(0.15, 0.4, 0.9), prior_ratios=((2.0,), (2.0, 3.0)))
    head = SSDHead(row, (4, 4), (16, 64), classes).to(dtype)
    maps = [torch.randn(batch, 4, 16, 16, dtype=dtype), torch.randn(batch, 4, 4, 4, dtype=dtype)]
    return head, {name: tensor.detach() * 3 for name, tensor in head(maps).items()}


def test_the_loss_is_torchvisions():
    head, raw = small_head(6, batch=3)
    labels, image_index = [0, 4, 2, 5], [0, 0, 0, 2]
    codes, logits = head._flat(raw)
    priors = head.priors(raw, (256, 256))
    own = [torch.tensor(image_index) == image for image in range(3)]
    given = [{"boxes": BOXES[mine], "labels": torch.tensor(labels)[mine] + 1} for mine in own]
    nothing = torch.full((len(priors),), -1)
    matched = [SSDMatcher(0.5)(box_iou(each["boxes"], priors)) if len(each["boxes"]) else nothing for each in given]
    settings = SimpleNamespace(box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3.0)
    expected = SSD.compute_loss(
        settings,
        given,
        {"bbox_regression": codes, "cls_logits": logits},
        [priors] * 3,
        matched,  # pyright: ignore
    )
    found = head.loss(raw, targets(BOXES, labels, image_index), (256, 256))
    torch.testing.assert_close(found["boxes"], expected["bbox_regression"])
    torch.testing.assert_close(found["classes"], expected["classification"])


def test_the_loss_is_that_of_a_slow_loop():
    head, raw = small_head()
    head.row = replace(head.row, loss=MultiboxLoss(match_iou=0.25))
    labels, image_index = [0, 2, 1, 1], [0, 0, 1, 1]
    codes, logits = head._flat(raw)
    priors = head.priors(raw, (256, 256)).double().tolist()
    boxes = classes = positives = 0.0
    for image in range(2):
        objects = [i for i in range(4) if image_index[i] == image]
        overlaps = [[_iou(BOXES[i].tolist(), prior) for prior in priors] for i in objects]
        chosen: dict[int, int] = {}
        for k in range(len(priors)):
            best = max(range(len(objects)), key=lambda o: overlaps[o][k])
            if overlaps[best][k] >= 0.25:
                chosen[k] = best
        for o, row in enumerate(overlaps):
            chosen[max(range(len(priors)), key=lambda k: row[k])] = o
        entropy = -logits[image].double().log_softmax(1)
        background = sorted((float(entropy[k, 0]) for k in range(len(priors)) if k not in chosen), reverse=True)
        classes += sum(background[: 3 * len(chosen)])
        positives += len(chosen)
        for k, o in chosen.items():
            classes += float(entropy[k, labels[objects[o]] + 1])
            for value, wanted in zip(
                codes[image, k].tolist(), _code(BOXES[objects[o]].tolist(), priors[k]), strict=True
            ):
                distance = abs(value - wanted)
                boxes += 0.5 * distance**2 if distance < 1 else distance - 0.5
    found = head.loss(raw, targets(BOXES, labels, image_index), (256, 256))
    assert positives > 8
    assert float(found["boxes"]) == pytest.approx(boxes / positives, rel=1e-5)
    assert float(found["classes"]) == pytest.approx(classes / positives, rel=1e-5)


def _iou(one: list[float], other: list[float]) -> float:
    sides = [min(one[2 + a], other[2 + a]) - max(one[a], other[a]) for a in (0, 1)]
    inter = max(0.0, sides[0]) * max(0.0, sides[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return inter / (sum(areas) - inter)


def _code(box: list[float], prior: list[float]) -> list[float]:
    centre = [10 * ((box[a] + box[2 + a]) - (prior[a] + prior[2 + a])) / 2 / (prior[2 + a] - prior[a]) for a in (0, 1)]
    return [*centre, *(5 * math.log((box[2 + a] - box[a]) / (prior[2 + a] - prior[a])) for a in (0, 1))]


def test_gradients_of_the_loss_are_its_slopes():
    head, raw = small_head(2, torch.float64, batch=1)
    given = targets(BOXES[:2].double(), [0, 1], [0, 0])
    names = list(raw)

    def loss(*tensors: Tensor) -> Tensor:
        parts = head.loss(dict(zip(names, tensors, strict=True)), given, (256, 256))
        return parts["boxes"] + parts["classes"]

    inputs = [tensor.clone().requires_grad_() for tensor in raw.values()]
    loss(*inputs).backward()
    for tensor in inputs:
        assert tensor.grad is not None
        flat = tensor.grad.flatten()
        for place in flat.abs().topk(5).indices.tolist():
            step = torch.zeros_like(flat).index_fill_(0, torch.tensor(place), 1e-6).view_as(tensor)
            with torch.no_grad():
                up, down = (
                    loss(*[each + sign * step if each is tensor else each for each in inputs]) for sign in (1, -1)
                )
            assert float(up - down) / 2e-6 == pytest.approx(float(flat[place]), rel=1e-4, abs=1e-9)


def test_images_without_objects_give_a_finite_loss():
    head, raw = small_head()
    raw = {name: tensor.requires_grad_() for name, tensor in raw.items()}
    parts = head.loss(raw, targets(torch.zeros(0, 4), [], []), (256, 256))
    sum(parts.values()).backward()
    assert all(float(part) == 0 for part in parts.values())
    assert all(torch.isfinite(tensor.grad).all() for tensor in raw.values())


def test_a_class_may_weigh_more():
    head, raw = small_head()
    given = targets(BOXES[:1], [1], [0])
    before = head.loss(raw, given, (256, 256))
    head.class_weights = torch.tensor([1.0, 4.0, 1.0])
    assert head.loss(raw, given, (256, 256))["classes"] > before["classes"]
    assert head.loss(raw, given, (256, 256))["boxes"] == before["boxes"]


def test_boxes_beyond_the_best_of_a_class_do_not_score():
    head, raw = small_head()
    head.row = replace(head.row, candidates=5)
    every = NMS(0.0, 0.45, "none", 10_000)
    for found, scores in zip(head.detect(raw, (256, 256), every), head.decode(raw, (256, 256))[1], strict=True):
        assert torch.bincount(found.class_ids).tolist() == [5, 5, 5]
        assert torch.equal(found.scores, scores.topk(5, 0).values.flatten().sort(descending=True).values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SSDConfig(prior_scales=(0.1,)), "1 prior_scales and 0 prior_steps for 6 prior_ratios"),
        (lambda: SSDConfig(prior_steps=(8.0,)), "1 prior_steps for 6 prior_ratios; expected one more"),
        (lambda: SSDConfig(prior_scales=(*SSD300_SCALES[:-1], math.inf)), "expected positive, finite numbers"),
        (lambda: SSDConfig(predictor="5x5"), "expected 3x3, 3x3_norm or 1x1"),
        (lambda: SSDHead(SSDConfig(), (4, 4), (8, 16), 2), "prior_ratios for 6 maps"),
        (lambda: MultiboxLoss(match_iou=2), "loss.match_iou is 2; expected 0 to 1"),
        (lambda: MultiboxLoss(negatives=-1), "loss.negatives is -1; expected 0 or more"),
        (lambda: SSDExtrasConfig(extras=((8, 8, 3),)), "expected two numbers of channels and a step of 1 or 2"),
        (lambda: SSDExtrasConfig(l2_scales=(1.0, 1.0, 1.0)), "expected at most one for each"),
        (lambda: crossstage.create_model("vgg16", partial=crossstage.Partial()), "a VGG has no stages to be made"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_l2_norms_scale_each_pixel_to_one_length():
    norm = L2Norm(6, 20.0)
    x = torch.randn(2, 6, 3, 4)
    torch.testing.assert_close(norm(x).norm(dim=1), torch.full((2, 3, 4), 20.0))
    assert norm(torch.zeros(1, 6, 2, 2)).abs().max() == 0
    half = norm.half()(torch.full((1, 6, 1, 1), 200.0, dtype=torch.float16))  # whose squares are not finite there
    assert half.isfinite().all() and half.dtype == torch.float16


def narrow(name: str, **settings: object) -> nn.Module:
    own = NARROW if name == "ssd300_vgg16" else {"depths": (1, 1, 1, 1)}
    return crossstage.create_model(name, num_classes=2, **own, **settings)


@pytest.mark.parametrize("name", ["ssd300_vgg16", "pelee_ssd304", "ssd300_csppeleenet"])
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_any_size_trains_all_parameters(name, size):
    model = narrow(name)
    given = targets(torch.tensor([[4.0, 4, 50, 50], [10, 10, 30, 40], [1, 1, 9, 9]]), [0, 1, 0], [0, 0, 2])
    parts = model.loss(torch.rand(3, 3, *size), given)
    assert all(torch.isfinite(part) for part in parts.values())
    sum(parts.values()).backward()
    dead = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not dead


@pytest.mark.parametrize("name", ["ssd300_vgg16", "pelee_ssd304"])
def test_fused_it_computes_the_same(name):
    model = narrow(name).eval()
    x = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        plain, fused = model(x), crossstage.fuse(model)(x)
    for part, expected in plain.items():
        torch.testing.assert_close(fused[part], expected, rtol=1e-4, atol=1e-4)


def test_rows_of_a_class_are_those_of_each_default_box():
    model = crossstage.create_model("ssd300_vgg16", class_names=["cat", "dog"], **NARROW)
    rows, other = model.head.class_rows(2), model.head.class_rows(3)
    assert rows["classes.0.weight"] == [[1, 4, 7, 10], [2, 5, 8, 11]]  # of background, cat, dog for four boxes
    assert other["classes.1.bias"][2] == [3, 7, 11, 15, 19, 23]
    assert len(model.head.classes[1].bias) == 6 * 3


@pytest.fixture(scope="module")
def registered() -> Iterator[str]:
    """A narrow detector by a name, as training wants it."""
    row = DETECTORS["ssd300_vgg16"]
    neck = SSDExtrasConfig(extras=((8, 16, 2), (8, 16, 1), (8, 16, 1), (8, 16, 1)), l2_scales=(20.0,))
    DETECTORS["narrow_ssd"] = replace(row, backbone=replace(row.backbone, norm="batch", **NARROW), neck=neck)
    yield "narrow_ssd"
    del DETECTORS["narrow_ssd"]


def options(model: str, data: object, out: object, **changes: object) -> TrainOptions:
    plain = Augmentation(mosaic=0, scale=0, translate=0, hue=0, saturation=0, brightness=0)
    settings = {
        "imgsz": 75, "epochs": 4, "batch": 8, "workers": 0, "out": str(out), "optimizer": "adamw", "lr": 0.003,
        "burn_in": 0, "ema": 0.5, "val_every": 2, "sample_every": 0, "augment": plain,
    }  # fmt: skip
    return TrainOptions(model, str(data), **{**settings, **changes})


def test_it_trains_at_odd_sizes_and_goes_on_bit_for_bit(registered, shapes, tmp_path):
    whole = train(options(registered, shapes, tmp_path, name="whole", loss={"box_gain": 2.0}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 2)
        train(options(registered, shapes, tmp_path, name="parts", loss={"box_gain": 2.0}))
    parts = resume(tmp_path / "parts")
    assert [row["classes"] for row in parts.history] == [row["classes"] for row in whole.history]
    assert whole.history[-1]["classes"] < whole.history[0]["classes"]
    one, other = (crossstage.load(folder).state_dict() for folder in (whole.folder, parts.folder))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    started = start_model(whole.folder, ("square", "triangle"))
    mine, stored = started.model.head.classes[0].weight, one["head.classes.0.weight"]
    assert torch.equal(mine[1::3], stored[2::3]) and torch.equal(mine[0::3], stored[0::3])  # square, background
    assert not torch.equal(mine[2::3], stored[1::3])


@pytest.fixture(scope="module")
def finder() -> nn.Module:
    torch.manual_seed(3)
    model = narrow("ssd300_vgg16").eval()
    spread(model.head, model, torch.randn(2, 3, 96, 96) * 60)
    return model


@pytest.mark.parametrize(("format", "kind"), [("onnx", "raw"), ("onnx", "nms"), ("openvino", "decode")])
def test_exported_files_find_the_same(finder, tmp_path, format, kind):
    pytest.importorskip("onnxruntime" if format == "onnx" else "openvino")
    path = tmp_path / f"ssd{'.onnx' if format == 'onnx' else '_openvino'}"
    done = export(finder, "ssd300_vgg16", format, path, imgsz=96, decode=kind == "decode",
                  nms=NMS(0.05, 0.45) if kind == "nms" else None)  # fmt: skip
    image = np.asarray(crossstage.inference.images.load_image(PHOTOS / "000000000471.jpg"))
    (mine,) = finder.predict(image, conf=0.05, iou=0.45, max_detections=50, imgsz=96)
    (other,) = crossstage.open_model(done.path).predict(image, conf=0.05, max_detections=50)
    assert len(mine) == len(other) == 50
    np.testing.assert_allclose(np.sort(other.confidence), np.sort(mine.confidence), atol=1e-4)
    np.testing.assert_allclose(np.sort(other.xyxy, 0), np.sort(mine.xyxy, 0), atol=0.5)


def test_a_neck_of_other_maps_gets_default_boxes_of_its_own():
    model = crossstage.create_model("resnet10_efm_ssd", num_classes=2)
    assert model.head.row.prior_scales == pytest.approx((0.1, 0.5, 0.9, 1.05))
    boxes, scores = model.decode(model(torch.rand(1, 3, 64, 64)), (64, 64))
    assert boxes.shape == (1, (64 + 16 + 4) * 6, 4) and scores.shape[2] == 2


def test_extra_maps_of_residual_blocks_halve():
    neck = SSDExtrasConfig(reads=(8,), extras=((4, 16, 2),), extra_block="residual").build([8], [8], style=ConvStyle())
    assert [tuple(x.shape) for x in neck([torch.rand(1, 8, 10, 10)])] == [(1, 8, 10, 10), (1, 16, 5, 5)]
    assert neck.channels == [8, 16] and neck.strides == [8, 16]
