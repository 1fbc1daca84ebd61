"""RefineDet: its port's outputs, matches and losses, VoVNet's table 4, and what users do with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossstage
from crossstage.analysis import count_flops
from crossstage.deploy.export import export
from crossstage.errors import ConfigError, WeightsError
from crossstage.models.backbones import BACKBONES
from crossstage.models.heads.refinedet import EPSILON, RefineDetConfig, RefineDetHead, RefineDetLoss
from crossstage.models.necks.ssd_extras import SSDExtrasConfig
from crossstage.models.published import DETECTORS, FAMILIES
from crossstage.ops.multibox import encode_boxes, match_priors
from crossstage.ops.nms import NMS
from crossstage.structures import Targets
from crossstage.training import resume, train
from crossstage.weights.authors.refinedet import AUTHORS
from crossstage.weights.from_authors import from_authors
from crossstage.weights.starting import start_model
from tests.conftest import PHOTOS
from tests.models.test_ssd import BOXES, NARROW, options, spread, targets
from tests.parity import Digest, digest, places

NAME = "refinedet320_vgg16"
SIZE = (320, 320)


@pytest.fixture(scope="module")
def authors() -> Digest:
    return digest(NAME)


@pytest.fixture(scope="module")
def port(authors: Digest) -> tuple[nn.Module, dict[str, Tensor]]:
    """The detector with the digest's weights, and its raw tensors."""
    model = from_authors(NAME, authors.state)
    assert sum(parameter.numel() for parameter in model.parameters()) == authors.entry["parameters"]
    images = model.preprocessing.normalise(authors.image.float() / 255)
    return model, model(images)


def given(authors: Digest) -> Targets:
    rows = [(image, *row) for image, objects in enumerate(authors.entry["targets"]["value"]) for row in objects]
    table = torch.tensor(rows, dtype=torch.float32)
    return Targets(table[:, 0].long(), table[:, 1].long(), table[:, 2:])


def test_raw_outputs_and_boxes_are_those_of_the_port(authors, port):
    model, raw = port
    head = model.head
    for name, part, values in (
        ("arm_loc", "arm_boxes", 4),
        ("arm_conf", "arm_objects", 2),
        ("odm_loc", "boxes", 4),
        ("odm_conf", "classes", 21),
    ):
        assert authors.error(f"eval/{name}", head._flat(raw, part, values)) < 1e-4
    priors = head.priors(raw, SIZE) / 320
    centred = torch.cat([(priors[:, :2] + priors[:, 2:]) / 2, priors[:, 2:] - priors[:, :2]], 1)
    assert authors.error("priors", centred) < 1e-6
    assert authors.error("eval/arm_boxes", head.refined(raw, SIZE) / 320) < 2e-5
    assert authors.error("eval/odm_boxes", head.decode(raw, SIZE)[0] / 320) < 3e-5


def test_detections_are_those_of_the_port(authors, port):
    model, raw = port
    found = model.detect(raw, SIZE, replace(model.nms, max_detections=100_000))
    counts = [torch.bincount(each.class_ids + 1, minlength=21).tolist() for each in found]
    assert counts == authors.arrays["eval/detect/count"].tolist()
    for image, each in enumerate(found):
        stored = torch.from_numpy(authors.arrays[f"eval/detect/{image}"])
        torch.testing.assert_close(each.scores[:200], stored[:, 0], rtol=0, atol=1e-5)
        rows = torch.cat([each.boxes_xyxy / 320, each.class_ids.unsqueeze(1) + 1], 1)[:220]
        nearest = torch.cdist(stored[:, 1:], rows.detach(), compute_mode="donot_use_mm_for_euclid_dist").amin(
            1
        )  # of equal scores, either may come first
        assert nearest.max() < 1e-4


def test_matches_are_those_of_the_port(authors, port):
    model, raw = port
    head, objects = model.head, given(authors)
    refined = head.refined(raw, SIZE).detach()
    for name, priors in (("arm", head.priors(raw, SIZE).expand_as(refined)), ("odm", refined)):
        matched = match_priors(priors, objects, 2, 0.5)
        for image in range(2):
            chosen = (matched[image] >= 0).nonzero().squeeze(1)
            key = f"match/{name}/{image}"
            assert chosen.tolist() == authors.arrays[f"{key}/anchor"].tolist()
            wanted = matched[image][chosen]
            labels = objects.class_ids[wanted] + 1 if name == "odm" else torch.ones_like(wanted)
            assert labels.tolist() == authors.arrays[f"{key}/label"].tolist()
            codes = encode_boxes(objects.boxes_xyxy[wanted], priors[image][chosen], EPSILON)
            assert authors.error(f"{key}/loc_target", codes) < (2e-4 if name == "odm" else 1e-5)
            if name == "odm":
                kept = head._objects(raw)[image][chosen]
                assert kept.int().tolist() == authors.arrays[f"{key}/kept"].tolist()


def test_losses_and_gradients_are_those_of_the_port(authors, port):
    model, raw = port
    parts = model.head.loss(raw, given(authors), SIZE)
    stored = authors.entry["losses"]["train"]
    theirs = {"arm_boxes": "arm_loc", "arm_objects": "arm_conf", "boxes": "odm_loc", "classes": "odm_conf"}
    for name, part in parts.items():
        assert float(part.detach()) == pytest.approx(stored[theirs[name]], rel=1e-5)
    sum(parts.values()).backward()
    scales = {f"conv{layer}_3_L2Norm.weight": torch.ones(1) for layer in (4, 5)}  # which no rule filled
    names = places(AUTHORS[NAME].adapt, {**authors.state, **scales})
    assert authors.gradient_error("grad_norm", model, names) < 20 * authors.entry["sensitivity"]["arrays"]["grad_norm"]


def test_other_checkpoints_are_refused(authors):
    state = dict(authors.state)
    state["tcb2.12.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"'tcb2\.12\.weight' has no place"):
        from_authors(NAME, state)


@pytest.mark.parametrize(
    ("backbone", "parameters", "gmac", "settings"),
    [  # VoVNet's table 4; where there is a setting, of the form that the paper measured
        ("resnet50", 63.46e6, 25.43, {"stride_first": True}),
        ("densenet201", 56.13e6, 24.65, {}),
        ("vovnet39", 56.28e6, 32.6, {"stem_stride": "pool"}),
        ("resnet101", 82.45e6, 33.02, {"stride_first": True}),
        ("densenet161", 66.76e6, 32.74, {}),
        ("vovnet57", 70.32e6, 36.45, {"stem_stride": "pool"}),
    ],
)
def test_sizes_and_costs_are_those_of_vovnets_table(backbone, parameters, gmac, settings):
    with torch.device("meta"):
        model = crossstage.create_model(f"refinedet320_{backbone}", **settings).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(parameters, abs=5.1e3)
    assert count_flops(model, (1, 3, 320, 320)) / 2e9 == pytest.approx(gmac, rel=3e-3)


@pytest.mark.parametrize(("size", "anchors"), [(320, 6375), (512, 16320)])
def test_there_are_as_many_anchors_as_published(size, anchors):
    model = crossstage.create_model(f"refinedet{size}_vgg16", num_classes=2, **NARROW, transfer_width=8).eval()
    with torch.no_grad():
        boxes, scores = model.decode(model(torch.zeros(1, 3, size, size)), (size, size))
    assert boxes.shape == (1, anchors, 4) and scores.shape == (1, anchors, 2)


def small_head(dtype: torch.dtype = torch.float32, **settings: object) -> tuple[RefineDetHead, dict[str, Tensor]]:
    row = RefineDetConfig(transfer_width=8, residual_width=None, transfer_norm="none", **settings)
    head = RefineDetHead(row, (4, 4), (32, 64), 3).to(dtype)
    raw = head([torch.randn(2, 4, 8, 8, dtype=dtype), torch.randn(2, 4, 4, 4, dtype=dtype)])
    return head, {name: torch.randn_like(tensor) for name, tensor in raw.items()}


def test_anchors_that_are_background_find_nothing():
    head, raw = small_head()
    raw["arm_objects32"][0] = torch.tensor([9.0, -9.0]).repeat(3).view(6, 1, 1)
    boxes, scores = head.decode(raw, (256, 256))
    assert (scores[0, : 8 * 8 * 3] == 0).all() and (scores[0, 8 * 8 * 3 :] > 0).all() and (scores[1] > 0).all()
    refined = head.refined(raw, (256, 256))
    codes = torch.cat([raw[f"boxes{s}"].view(2, 3, 4, -1).permute(0, 3, 1, 2).reshape(2, -1, 4) for s in (32, 64)], 1)
    sides = refined[..., 2:] - refined[..., :2]
    centre = (refined[..., :2] + refined[..., 2:]) / 2 + codes[..., :2] * 0.1 * sides
    half = (codes[..., 2:] * 0.2).exp() * sides / 2
    torch.testing.assert_close(boxes, torch.cat([centre - half, centre + half], -1), rtol=1e-4, atol=1e-3)


def test_the_loss_counts_the_hardest_of_what_is_left():
    head, raw = small_head()
    objects = targets(BOXES, [0, 2, 1, 1], [0, 0, 1, 1])
    found = head.loss(raw, objects, (256, 256))
    refined, kept = head.refined(raw, (256, 256)), head._objects(raw)
    matched = match_priors(refined, objects, 2, 0.5)
    logits, codes = head._flat(raw, "classes", 4), head._flat(raw, "boxes", 4)
    classes = boxes = count = 0.0
    for image in range(2):
        positive = [k for k in range(240) if matched[image, k] >= 0 and kept[image, k]]
        label = [int(objects.class_ids[o]) + 1 if o >= 0 else 0 for o in matched[image].tolist()]
        entropy = [-float(logits[image, k].log_softmax(0)[label[k]]) for k in range(240)]
        rest = sorted((entropy[k] for k in range(240) if k not in positive), reverse=True)[: 3 * len(positive)]
        classes += sum(entropy[k] for k in positive) + sum(rest)
        count += len(positive)
        for k in positive:
            box, prior = objects.boxes_xyxy[matched[image, k]], refined[image, k]
            sides, own = prior[2:] - prior[:2], box[2:] - box[:2]
            offset = (box[:2] + box[2:] - prior[:2] - prior[2:]) / 2 / sides / 0.1
            wanted = torch.cat([offset, (own / sides + EPSILON).log() / 0.2])
            distance = (codes[image, k] - wanted).abs()
            boxes += float(torch.where(distance < 1, 0.5 * distance**2, distance - 0.5).sum())
    assert count >= 4
    assert float(found["boxes"]) == pytest.approx(boxes / count, rel=1e-4)
    assert float(found["classes"]) == pytest.approx(classes / count, rel=1e-4)


def test_gradients_of_the_loss_are_its_slopes():
    head, raw = small_head(torch.float64)
    objects = targets(BOXES.double(), [0, 2, 1, 1], [0, 0, 1, 1])
    names = list(raw)
    inputs = [tensor.requires_grad_() for tensor in raw.values()]
    parts = head.loss(dict(zip(names, inputs, strict=True)), objects, (256, 256))
    sum(parts.values()).backward()
    for name, tensor in zip(names, inputs, strict=True):
        assert tensor.grad is not None
        own = ("arm_boxes", "arm_objects") if name.startswith("arm") else ("boxes", "classes")
        place = int(tensor.grad.abs().argmax())
        step = (
            torch.zeros(tensor.numel(), dtype=torch.float64).index_fill_(0, torch.tensor(place), 1e-6).view_as(tensor)
        )
        ends = []
        for sign in (1, -1):  # the second module does not send gradients through the refined anchors
            moved = {
                key: value + sign * step if key == name else value for key, value in zip(names, inputs, strict=True)
            }
            with torch.no_grad():
                ends.append(float(sum(head.loss(moved, objects, (256, 256))[part] for part in own)))
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(tensor.grad.flatten()[place]), rel=1e-4, abs=1e-8)


def test_images_without_objects_give_a_finite_loss():
    head, raw = small_head()
    parts = head.loss(raw, targets(torch.zeros(0, 4), [], []), (256, 256))
    assert all(float(part) == 0 for part in parts.values())


@pytest.mark.parametrize("name", [NAME, "refinedet320_csppeleenet", "refinedet512_vovnet27_slim"])
def test_all_parameters_learn(name):
    settings = NARROW if name == NAME else {"residual_width": 16}
    model = crossstage.create_model(name, num_classes=2, transfer_width=16, **settings)
    objects = targets(torch.tensor([[4.0, 4, 90, 90], [10, 10, 50, 60], [1, 1, 60, 60]]), [0, 1, 0], [0, 0, 2])
    parts = model.loss(torch.rand(3, 3, 128, 64), objects)
    sum(parts.values()).backward()
    assert all(torch.isfinite(part) for part in parts.values())
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RefineDetConfig(anchor_ratios=()), "expected positive, finite numbers"),
        (lambda: RefineDetConfig(objectness=1.0), "objectness is 1.0; expected 0 to below 1"),
        (lambda: RefineDetConfig(transfer_norm="group"), "expected none or batch"),
        (lambda: RefineDetConfig(candidates=0), "expected at least 1, 1 and 4"),
        (lambda: RefineDetHead(RefineDetConfig(), (4, 4), (8, 32), 2), "expected each to be twice the one before"),
        (lambda: RefineDetLoss(arm_gain=-1), "loss.arm_gain is -1; expected 0 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_it_goes_on_any_neck_whose_maps_halve():
    model = crossstage.create_model("csppeleenet_efm_refinedet", num_classes=2, residual_width=16, transfer_width=16)
    boxes, _ = model.decode(model(torch.rand(1, 3, 64, 64)), (64, 64))
    assert boxes.shape[1] == 3 * (64 + 16 + 4)
    assert FAMILIES["refinedet512_{}"].size == 512


@pytest.fixture(scope="module")
def registered() -> Iterator[str]:
    row = FAMILIES["refinedet320_{}"].of(replace(BACKBONES["vgg16"], norm="batch", **NARROW))
    neck = SSDExtrasConfig(reads=(8, 16, 32), extras=((8, 16, 2),), extra_block="residual")
    DETECTORS["narrow_refinedet"] = replace(
        row, neck=neck, head=replace(row.head, transfer_width=16, residual_width=16)
    )
    yield "narrow_refinedet"
    del DETECTORS["narrow_refinedet"]


def test_it_trains_and_goes_on_bit_for_bit(registered, shapes, tmp_path):
    own = {"imgsz": 64, "loss": {"arm_gain": 2.0}}
    whole = train(options(registered, shapes, tmp_path, name="whole", **own))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 2)
        train(options(registered, shapes, tmp_path, name="parts", **own))
    parts = resume(tmp_path / "parts")
    one, other = (crossstage.load(folder).state_dict() for folder in (whole.folder, parts.folder))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert whole.history[-1]["classes"] < whole.history[0]["classes"]
    started = start_model(whole.folder, ("square", "triangle"))
    mine, stored = started.model.head.odm[0].classes.bias, one["head.odm.0.classes.bias"]
    assert torch.equal(mine[[1, 4, 7]], stored[[2, 5, 8]]) and torch.equal(mine[[0, 3, 6]], stored[[0, 3, 6]])


def test_fused_it_computes_the_same(registered):
    model = crossstage.create_model(registered, num_classes=2).train()
    with torch.no_grad():
        model(torch.randn(4, 3, 128, 128))
    x = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        plain, fused = model.eval()(x), crossstage.fuse(model)(x)
    for name, expected in plain.items():
        torch.testing.assert_close(fused[name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("format", "kind"), [("onnx", "raw"), ("onnx", "decode"), ("openvino", "nms")])
def test_exported_files_find_the_same(registered, tmp_path, format, kind):
    pytest.importorskip("onnxruntime" if format == "onnx" else "openvino")
    torch.manual_seed(1)
    model = crossstage.create_model(registered, num_classes=2).train()
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 64))
    model.eval()
    spread(model.head, model, torch.randn(2, 3, 64, 64))
    path = tmp_path / f"refinedet{'.onnx' if format == 'onnx' else '_openvino'}"
    done = export(model, registered, format, path, imgsz=64, decode=kind == "decode",
                  nms=NMS(0.05, 0.45) if kind == "nms" else None)  # fmt: skip
    image = np.asarray(crossstage.inference.images.load_image(PHOTOS / "000000000471.jpg"))
    (mine,) = model.predict(image, conf=0.05, iou=0.45, max_detections=50, imgsz=64)
    (other,) = crossstage.open_model(done.path).predict(image, conf=0.05, max_detections=50)
    assert len(mine) == len(other) > 10
    np.testing.assert_allclose(np.sort(other.confidence), np.sort(mine.confidence), atol=1e-4)
    np.testing.assert_allclose(np.sort(other.xyxy, 0), np.sort(mine.xyxy, 0), atol=0.5)
