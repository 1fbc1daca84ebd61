"""ThunderNet: outputs of a public code, pooling and losses against others, and what users do with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import ps_roi_align

import crossstage
from crossstage.data.augment import Augmentation
from crossstage.deploy.export import export
from crossstage.errors import ConfigError, WeightsError
from crossstage.models.backbones import BACKBONES
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.heads import HEADS
from crossstage.models.heads.rcnn import RCNNLoss
from crossstage.models.heads.thundernet import ThunderNetConfig, ThunderNetHead
from crossstage.models.necks.context import ContextConfig
from crossstage.models.published import DETECTORS, FAMILIES
from crossstage.ops.position_sensitive import pool_by_cells, position_sensitive_pool
from crossstage.structures import Targets
from crossstage.training import resume, train
from crossstage.training.options import TrainOptions
from crossstage.weights.authors.thundernet import AUTHORS
from crossstage.weights.from_authors import from_authors
from crossstage.weights.starting import start_model
from tests.conftest import PHOTOS
from tests.parity import digest, places

PREPROCESSING = FAMILIES["thundernet_{}"].preprocessing


@pytest.mark.parametrize("size", [49, 146])
def test_outputs_and_gradients_are_the_public_codes(size):
    authors, name = digest(f"thundernet_snet{size}_daybreak"), f"thundernet_snet{size}"
    model = from_authors(name, authors.state)
    stages = model.backbone.stages
    watched: dict[str, nn.Module] = {
        "feature/conv1": model.backbone.stem, "feature/maxpool": stages[0],
        "feature/stage1": stages[1], "feature/stage2": stages[2], "feature/stage3": stages[3][3],
        "cem": model.neck, "rpn_feat": model.head.rpn.head.pointwise,
    }  # fmt: skip
    if size == 49:
        watched["feature/conv5"] = stages[3]
    found: dict[str, Tensor] = {}
    for key, module in watched.items():
        module.register_forward_hook(lambda _m, _i, output, key=key: found.__setitem__(key, output))
    assert PREPROCESSING is not None
    images = PREPROCESSING.normalise(authors.image.float() / 255)
    raw = model(images)
    found |= {"cem": found["cem"][0], "sam": raw["map16"], "rpn_cls": raw["logits16"], "rpn_bbox": raw["deltas16"]}
    for key, value in found.items():
        assert authors.error(f"eval/{key}", value) < 1e-5, key
    names = places(AUTHORS[name].adapt, authors.state)
    for mode in ("bn_frozen", "bn_train"):
        model.train(mode == "bn_train")
        model.zero_grad()
        probe = torch.stack([tensor.square().mean() for tensor in model(images).values()]).sum()
        probe.backward()
        assert float(probe.detach()) == pytest.approx(authors.entry["losses"][mode]["probe"], rel=1e-5)
        assert authors.gradient_error(f"{mode}/grad_norm", model, names) < 5e-3


_SURPLUS = (162.0e6 - 146e6) * (320 / 224) ** 2  # of the released SNet146 over what its name says


@pytest.mark.parametrize(("size", "published"), [(49, 262e6), (146, 473e6 + _SURPLUS), (535, 1300e6)])
def test_it_costs_what_is_published(size, published):
    """The paper's multiply-adds at 320 pixels, of 200 proposals."""
    name = f"thundernet_snet{size}"
    first = crossstage.profile(name, 320).bflops * 1e9 / 2
    second = 200 * (245 * 1024 + 1024 * (81 + 4))
    assert first + second == pytest.approx(published, rel=0.03)


def test_pooled_regions_are_torchvisions():
    feature, corners = torch.randn(2, 3 * 49, 9, 12), torch.rand(8, 4) * 90
    corners[:, 2:] += corners[:, :2]
    rois = torch.cat([torch.tensor([0.0, 1] * 4).unsqueeze(1), corners], dim=1)
    expected = ps_roi_align(feature, rois, 7, 1 / 16, 2)
    assert torch.equal(position_sensitive_pool(feature, rois, 16, 7, sampling=2), expected)
    torch.testing.assert_close(pool_by_cells(feature, rois, 16, 7, sampling=2), expected, rtol=1e-4, atol=1e-5)
    assert pool_by_cells(feature, rois[:0], 16, 7, sampling=2).shape == (0, 3, 7, 7)


def test_pooled_regions_are_those_of_a_loop():
    feature = torch.randn(1, 4, 6, 6)  # one channel for each of 2 x 2 cells
    rois = torch.tensor([[0.0, 4, 8, 20, 16]])
    pooled = position_sensitive_pool(feature, rois, 4, 2, sampling=1)
    for row in (0, 1):
        for column in (0, 1):
            x, y = (4 + (column + 0.5) * 8) / 4 - 0.5, (8 + (row + 0.5) * 4) / 4 - 0.5  # centres of cells
            left, top = int(x), int(y)
            plane = feature[0, 2 * row + column, top : top + 2, left : left + 2]
            across, down = torch.tensor([1 - (x - left), x - left]), torch.tensor([1 - (y - top), y - top])
            assert float(pooled[0, 0, row, column]) == pytest.approx(float(down @ plane @ across), rel=1e-5)


def _head(classes: int = 2) -> ThunderNetHead:
    row = replace(HEADS["thundernet"], anchor_sizes=(16.0, 32.0), anchor_ratios=(1.0,), box_width=16)  # pyright: ignore[reportArgumentType] (fields of the row)
    head = row.build([49], [16], classes)
    assert isinstance(head, ThunderNetHead)
    return head


def test_objectness_is_the_softmax_of_two_logits():
    head = _head()
    raw = {key: tensor.detach() for key, tensor in head([torch.randn(1, 49, 4, 5)]).items()}
    objectness, deltas, anchors = head._first_stage(head._with_objectness(raw), (64, 80))
    assert objectness.shape == (1, 40) and deltas.shape == (1, 40, 4) and anchors.shape == (40, 4)
    for row in range(4):
        for column in range(5):
            for anchor in (0, 1):
                at = (row * 5 + column) * 2 + anchor
                pair = raw["logits16"][0, [anchor, 2 + anchor], row, column]
                assert float(objectness[0, at].sigmoid()) == pytest.approx(float(pair.softmax(0)[1]), rel=1e-5)
                expected = raw["deltas16"][0, 4 * anchor : 4 * anchor + 4, row, column]
                assert torch.equal(deltas[0, at], expected)
                side, x, y = (16, 32)[anchor], column * 16, row * 16
                assert anchors[at].tolist() == [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def test_first_stages_loss_is_that_of_a_loop():
    """All anchors are sampled here, so that nothing is random."""
    head = _head()
    raw = head([torch.randn(2, 49, 4, 5)])
    raw = {key: (3 * tensor).detach() for key, tensor in raw.items()}
    targets = Targets(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([[8.0, 9, 24, 25], [30, 20, 70, 60]]))
    parts = head.loss(raw, targets, (64, 80))
    _, deltas, anchors = head._first_stage(head._with_objectness(raw), (64, 80))
    classes, boxes, counted = 0.0, 0.0, 0
    logits = raw["logits16"].view(2, 2, 2, 4, 5)  # image, background and object, anchor, row, column
    for image in (0, 1):
        mine = targets.boxes_xyxy[targets.image_index == image]
        overlaps = torch.zeros(len(anchors), max(1, len(mine)))
        for a, anchor in enumerate(anchors):
            for o, box in enumerate(mine):
                wide = max(0, float(min(anchor[2], box[2]) - max(anchor[0], box[0])))
                high = max(0, float(min(anchor[3], box[3]) - max(anchor[1], box[1])))
                areas = float((anchor[2:] - anchor[:2]).prod() + (box[2:] - box[:2]).prod())
                overlaps[a, o] = wide * high / (areas - wide * high)
        best = overlaps.max(0).values
        for a in range(len(anchors)):
            top = float(overlaps[a].max())
            positive = bool(len(mine)) and (top >= 0.7 or bool((overlaps[a] == best).any()))
            if not positive and top >= 0.3:
                continue
            counted += 1
            cell, anchor = divmod(a, 2)
            pair = logits[image, :, anchor, cell // 5, cell % 5]
            classes -= float(pair.log_softmax(0)[int(positive)])
            if positive:
                box, own = mine[int(overlaps[a].argmax())], anchors[a]
                size, goal = own[2:] - own[:2], box[2:] - box[:2]
                wanted = torch.cat([(box[:2] + goal / 2 - own[:2] - size / 2) / size, (goal / size).log()])
                off = (deltas[image, a] - wanted).abs()
                boxes += float(torch.where(off < 1 / 9, 4.5 * off**2, off - 1 / 18).sum())
    assert float(parts["objectness"]) == pytest.approx(classes / counted, rel=1e-4)
    assert float(parts["proposals"]) == pytest.approx(boxes / counted, rel=1e-4)


@pytest.mark.parametrize("objects", [0, 2])
def test_every_parameter_learns_and_losses_are_finite(objects):
    model = crossstage.create_model("thundernet_snet49", num_classes=2).train()
    boxes = torch.tensor([[4.0, 4, 60, 60], [20, 10, 50, 50]])[:objects]
    targets = Targets(torch.zeros(objects, dtype=torch.long), torch.arange(objects), boxes)
    parts = model.loss(torch.rand(2, 3, 64, 96), targets)
    assert list(parts) == ["objectness", "proposals", "classes", "boxes"]
    total = torch.stack(list(parts.values())).sum()
    assert total.isfinite()
    total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    if objects:
        assert float(gradients["head.roi_heads.box_head.1.weight"].abs().sum()) > 0
        assert float(gradients["head.attend.conv.weight"].abs().sum()) > 0


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="has none of these"):
        crossstage.create_model("thundernet_snet49", box_convs=2)
    with pytest.raises(ConfigError, match="a multiple of 49"):
        crossstage.create_model("thundernet_snet49", context_channels=240)
    with pytest.raises(ConfigError, match="expected two strides"):
        ContextConfig(reads=(8, 16, 32))
    with pytest.raises(WeightsError, match="has no place"):
        from_authors("thundernet_snet146", {"RCNN_base.else.weight": torch.zeros(1)})


def test_it_is_composed_with_csp_backbones():
    model = crossstage.create_model("thundernet_csppeleenet", num_classes=2).eval()
    with torch.inference_mode():
        raw = model(torch.rand(1, 3, 64, 96))
        (found,) = model.detect(raw, (64, 96))
    assert raw["map16"].shape == (1, 245, 4, 6) and len(found.boxes_xyxy) <= 100


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory):
    """A training of a narrow network that was stopped after half of its epochs, and went on."""
    folder = tmp_path_factory.mktemp("thundernet")
    published: DetectorConfig = FAMILIES["thundernet_{}"].of(
        replace(BACKBONES["snet49"], widths=(32, 48, 64), depths=(1, 1, 1), last=None)
    )
    DETECTORS["thundernet_narrow"] = replace(
        published,
        neck=ContextConfig(context_channels=98),
        head=ThunderNetConfig(
            anchor_sizes=(16.0, 32.0), anchor_ratios=(1.0,), proposal_channels=32, box_width=64,
            loss=RCNNLoss(proposals=(200, 50), rois_sampled=32),
        ),
    )  # fmt: skip
    options = TrainOptions(
        "thundernet_narrow", str(shapes), imgsz=64, epochs=4, batch=8, workers=0, out=str(folder), name="run",
        loss={"box_gain": 1.5}, lr=0.02, burn_in=4, ema=0.5, val_every=2, sample_every=0,
        augment=Augmentation(mosaic=0, scale=0, translate=0, hue=0, saturation=0, brightness=0),
    )  # fmt: skip
    whole = train(replace(options, name="whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 2)
        train(options)
    yield whole, resume(folder / "run")
    del DETECTORS["thundernet_narrow"]


def test_it_trains_and_goes_on_bit_for_bit(run):
    whole, resumed = run
    first, last = resumed.history[0], resumed.history[-1]
    assert last["objectness"] < first["objectness"] and last["classes"] < first["classes"]
    mine, other = (crossstage.load(each.folder).state_dict() for each in (whole, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())


def test_weights_carry_over_to_other_classes(run):
    started = start_model(run[1].folder, ("square", "triangle"))
    mine = started.model.head.roi_heads.box_predictor
    theirs = crossstage.load(run[1].folder).head.roi_heads.box_predictor
    assert torch.equal(mine.cls_score.weight[0], theirs.cls_score.weight[0])  # background
    assert torch.equal(mine.cls_score.weight[1], theirs.cls_score.weight[2])  # after "circle" came "square"
    assert torch.equal(mine.bbox_pred.weight, theirs.bbox_pred.weight)


def test_fused_it_computes_the_same(run):
    detector = crossstage.load(run[1].folder)
    fused, images = crossstage.fuse(detector), torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        plain, folded = detector(images), fused(images)
        (first, _), (same, _) = detector.detect(plain, (64, 96)), fused.detect(folded, (64, 96))
    for name, expected in plain.items():
        torch.testing.assert_close(folded[name], expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    torch.testing.assert_close(same.scores, first.scores, rtol=1e-3, atol=1e-4)


def test_exported_files_run_elsewhere(run, tmp_path):
    detector, photo = crossstage.load(run[1].folder), PHOTOS / "000000000471.jpg"
    done = export(detector, "thunder", "onnx", tmp_path / "thunder.onnx")
    assert done.difference is not None and done.difference < 1e-4
    (mine,) = detector.predict(photo, conf=0.05, max_detections=20)
    for runtime in ("onnxruntime", "openvino"):
        pytest.importorskip(runtime)
        (theirs,) = crossstage.open_model(done.path, runtime=runtime).predict(photo, conf=0.05, max_detections=20)
        assert len(mine) and len(theirs) == len(mine)
        np.testing.assert_allclose(np.sort(theirs.confidence), np.sort(mine.confidence), atol=1e-3)
        np.testing.assert_allclose(np.sort(theirs.xyxy, 0), np.sort(mine.xyxy, 0), atol=0.5)
