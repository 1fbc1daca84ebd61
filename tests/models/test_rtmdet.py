"""RTMDet: its authors' outputs, matches and losses, sizes as published, and parts that go with any others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import crossstage
from crossstage.data.augment import Augmentation
from crossstage.errors import ConfigError, WeightsError
from crossstage.models.heads.rtmdet import RTMDetConfig, RTMDetHead, RTMDetLoss
from crossstage.models.published import DETECTORS
from crossstage.nn import Partial
from crossstage.structures import Targets
from crossstage.training.options import TrainOptions
from crossstage.weights.authors.rtmdet import AUTHORS
from crossstage.weights.from_authors import from_authors
from tests.parity import Digest, digest, places

NAME = "rtmdet_tiny"
SIZES = ("tiny", "s", "m", "l", "x")


@pytest.fixture(scope="module")
def authors() -> Digest:
    return digest(NAME)


def _input(authors: Digest) -> Tensor:
    preprocessing = DETECTORS[NAME].preprocessing
    assert preprocessing is not None
    return preprocessing.normalise(authors.image.flip(1).float() / 255)  # stored as BGR


def _targets(authors: Digest, images: tuple[int, ...] = (0, 1)) -> Targets:
    rows = [(i, *row) for i in images for row in authors.entry["targets"]["value"][i]]
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
    return Targets(table[:, 0].long(), table[:, 1].long(), table[:, 2:])


def _frozen(model: Any) -> Any:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def _on_paper(name: str) -> Any:
    """Build a model that takes no memory."""
    with torch.device("meta"):
        return crossstage.create_model(name)


def test_parameters_are_the_published():
    published = {"tiny": 4.896, "s": 8.887, "m": 24.709, "l": 52.316, "x": 94.856}
    backbones = {"tiny": 2.349, "s": 4.378, "m": 12.279, "l": 26.139, "x": 47.570}
    for size in SIZES:
        model = _on_paper(f"rtmdet_{size}")
        assert _millions(model) == pytest.approx(published[size], abs=5e-4)
        assert _millions(model.backbone) == pytest.approx(backbones[size], abs=5e-4)
    for size, millions in (("tiny", 2.73), ("s", 4.89)):
        assert _millions(_on_paper(f"cspnext_{size}")) == pytest.approx(millions, abs=5e-3)


def _millions(model: nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def test_multiply_adds_are_the_published():
    for size, gmacs in (("tiny", 0.339), ("s", 0.664)):  # theirs count norms as well
        assert crossstage.profile(f"cspnext_{size}", (224, 224)).bflops / 2 == pytest.approx(gmacs, rel=0.015)


@pytest.mark.slow
def test_multiply_adds_of_the_detector_are_the_published():
    assert crossstage.profile(NAME, (640, 640)).bflops / 2 == pytest.approx(8.1, rel=0.01)


def test_outputs_are_the_authors(authors):
    model = from_authors(NAME, authors.state)
    images = _input(authors)
    with torch.inference_mode():
        features = model.backbone(images)
        maps = model.neck(features)
        raw = model(images)
        boxes, scores = model.decode(raw, tuple(authors.image.shape[2:]))
    for index, (feature, fused, stride) in enumerate(zip(features, maps, (8, 16, 32), strict=True)):
        assert authors.error(f"eval/backbone/c{index + 3}", feature) < 2e-4
        assert authors.error(f"eval/neck/p{index + 3}", fused) < 2e-4
        assert authors.error(f"eval/raw/{index}/cls", raw[f"classes{stride}"]) < 2e-4
        assert authors.error(f"eval/raw/{index}/reg", raw[f"distances{stride}"] * stride) < 2e-4
    assert authors.error("eval/boxes", boxes) < 1e-4
    assert authors.error("eval/scores", scores) < 4e-4


def test_detections_are_the_authors(authors):
    model = from_authors(NAME, authors.state)
    settings = crossstage.NMS(score=0.1, iou=0.65, max_detections=100)
    with torch.inference_mode():
        found = model.detect(model(_input(authors)), tuple(authors.image.shape[2:]), settings)
    for image, instances in enumerate(found):
        theirs = torch.from_numpy(authors.arrays[f"eval/postprocess/{image}"])
        ours = torch.cat([instances.boxes_xyxy, instances.scores[:, None], instances.class_ids[:, None]], dim=1)
        apart = torch.cdist(theirs, ours, compute_mode="donot_use_mm_for_euclid_dist")
        pairs = apart.min(1)  # near-ties of scores may swap
        assert len(ours) == len(theirs) and len(set(pairs.indices.tolist())) == len(ours)
        assert float(pairs.values.max()) < 0.02


@pytest.mark.parametrize(
    ("mode", "images"), [("bn_frozen", (0, 1)), ("bn_train", (0, 1)), ("one_empty", (0,)), ("all_empty", ())]
)
def test_matches_losses_and_gradients_are_the_authors(authors, mode, images):
    model = from_authors(NAME, authors.state)
    model = model.train() if mode == "bn_train" else _frozen(model)
    targets, size = _targets(authors, images), tuple(authors.image.shape[2:])
    raw = model(_input(authors))
    parts = model.head.loss(raw, targets, size)
    expected = authors.entry["losses"][mode]
    for ours, theirs in (("classes", "loss_cls"), ("boxes", "loss_bbox")):
        assert float(parts[ours].detach()) == pytest.approx(expected[theirs], rel=1e-3, abs=1e-6), ours
    if f"{mode}/grad_norm" not in authors.arrays:
        return
    matches, _ = model.head.match(raw, targets, size)
    for image in images:
        point = (matches.object_index[image] >= 0).nonzero().squeeze(1)
        mine = matches.object_index[image, point] - (targets.image_index < image).sum()
        assert point.tolist() == authors.arrays[f"{mode}/match/{image}/anchor"].tolist()
        assert mine.tolist() == authors.arrays[f"{mode}/match/{image}/gt"].tolist()
        assert authors.error(f"{mode}/match/{image}/iou", matches.overlaps[image, point]) < 2e-3
    torch.stack(list(parts.values())).sum().backward()
    names = places(AUTHORS[NAME].adapt, {k: v for k, v in authors.state.items() if k not in authors.entry["aliases"]})
    assert authors.gradient_error(f"{mode}/grad_norm", model, names) < 2e-3


def _names(deepen: float, widen: float, blocks: int) -> dict[str, tuple[int, ...]]:
    """Spell all tensors of the authors' modules, with their shapes, as mmdetection nests them."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, i: int, o: int, k: int = 1, groups: int = 1) -> None:
        shapes[f"{name}.conv.weight"] = (o, i // groups, k, k)
        norm(f"{name}.bn", o)

    def norm(name: str, width: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{leaf}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def plain(name: str, i: int, o: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (o, i, 1, 1), (o,)

    def stage(name: str, i: int, o: int, depth: int, *, gated: bool) -> None:
        half = o // 2
        conv(f"{name}.main_conv", i, half)
        conv(f"{name}.short_conv", i, half)
        conv(f"{name}.final_conv", 2 * half, o)
        if gated:
            plain(f"{name}.attention.fc", o, o)
        for number in range(depth):
            conv(f"{name}.blocks.{number}.conv1", half, half, 3)
            conv(f"{name}.blocks.{number}.conv2.depthwise_conv", half, half, 5, half)
            conv(f"{name}.blocks.{number}.conv2.pointwise_conv", half, half)

    c1, c2, c3, c4, c5 = (int(width * widen) for width in (64, 128, 256, 512, 1024))
    conv("backbone.stem.0", 3, c1 // 2, 3)
    conv("backbone.stem.1", c1 // 2, c1 // 2, 3)
    conv("backbone.stem.2", c1 // 2, c1, 3)
    for number, (i, o, depth) in enumerate(((c1, c2, 3), (c2, c3, 6), (c3, c4, 6), (c4, c5, 3)), 1):
        conv(f"backbone.stage{number}.0", i, o, 3)
        if number == 4:
            conv("backbone.stage4.1.conv1", o, o // 2)
            conv("backbone.stage4.1.conv2", 2 * o, o)
        stage(f"backbone.stage{number}.{1 + (number == 4)}", o, o, max(round(depth * deepen), 1), gated=True)
    conv("neck.reduce_layers.0", c5, c4)
    conv("neck.reduce_layers.1", c4, c3)
    stage("neck.top_down_blocks.0", 2 * c4, c4, blocks, gated=False)
    stage("neck.top_down_blocks.1", 2 * c3, c3, blocks, gated=False)
    conv("neck.downsamples.0", c3, c3, 3)
    conv("neck.downsamples.1", c4, c4, 3)
    stage("neck.bottom_up_blocks.0", 2 * c3, c4, blocks, gated=False)
    stage("neck.bottom_up_blocks.1", 2 * c4, c5, blocks, gated=False)
    for level, width in enumerate((c3, c4, c5)):
        conv(f"neck.out_convs.{level}", width, c3, 3)
        for branch in ("cls", "reg"):
            for number in range(2):
                conv(f"bbox_head.{branch}_convs.{level}.{number}", c3, c3, 3)
        plain(f"bbox_head.rtm_cls.{level}", c3, 80)
        plain(f"bbox_head.rtm_reg.{level}", c3, 4)
    return shapes


@pytest.mark.parametrize(
    ("size", "scaling"),
    [
        ("tiny", (0.167, 0.375, 1)),
        ("s", (0.33, 0.5, 1)),
        ("m", (0.67, 0.75, 2)),
        ("l", (1, 1, 3)),
        ("x", (1.33, 1.25, 4)),
    ],
)
def test_all_sizes_take_the_authors_names(size, scaling):
    with torch.device("meta"):
        theirs = {name: torch.empty(shape) for name, shape in _names(*scaling).items()}
    # Levels share their convolutions, which meta tensors without values cannot tell.
    once = {
        name: x for name, x in theirs.items() if not ("_convs.1" in name or "_convs.2" in name) or "conv.w" not in name
    }
    renamed = AUTHORS[f"rtmdet_{size}"].adapt({**once, **_outputs(theirs)}, size)
    ours = _on_paper(f"rtmdet_{size}").state_dict()
    assert {name: tensor.shape for name, tensor in renamed.items()} == {name: x.shape for name, x in ours.items()}


def _outputs(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in theirs.items() if name.startswith("neck.out_convs")}


def test_the_names_are_those_of_the_digest(authors):
    assert {name: tuple(shape) for name, shape in authors.entry["keys"]} == _names(0.167, 0.375, 1)


def test_convolutions_that_are_not_shared_are_refused(authors):
    name = "bbox_head.reg_convs.2.1.conv.weight"
    with pytest.raises(WeightsError, match="expected convolutions that all levels share"):
        from_authors(NAME, {**authors.state, name: authors.state[name] + 1})
    with pytest.raises(WeightsError, match="has no place in this network"):
        from_authors(NAME, {**authors.state, "else.weight": torch.zeros(1)})


def _targets_of(*rows: tuple[int, int, tuple[float, ...]]) -> Targets:
    image, classes, boxes = zip(*rows, strict=True)
    return Targets(torch.tensor(image), torch.tensor(classes), torch.tensor(boxes, dtype=torch.float32))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("vovnet39_v2_cspnext_pafpn_rtmdet", marks=pytest.mark.slow),
        "vovnet19_slim_dw_v2_cspnext_pafpn_rtmdet",
        "cspdarknet53_tiny_pafpn_rtmdet",
        "csppeleenet_efm_rtmdet",
        "csppeleenet_prn_rtmdet",
        "cspnext_tiny_cspnext_pafpn_yolo",
    ],
)
def test_its_parts_go_with_others_and_all_parameters_learn(name):
    model = crossstage.create_model(name, num_classes=2)
    parts = model.loss(torch.rand(1, 3, 64, 96), _targets_of((0, 1, (8, 8, 40, 50))))
    torch.stack(list(parts.values())).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    with torch.inference_mode():
        boxes, scores = model.decode(model.eval()(torch.rand(1, 3, 64, 96)), (64, 96))
    assert boxes.shape[1] == scores.shape[1] and boxes.isfinite().all()


def test_its_backbone_has_other_partial_forms():
    row = {"stem": (8, 8, 8), "widths": (8, 16, 16, 16), "depths": (1, 1, 1, 1)}
    for partial in (None, Partial(split="slice"), Partial(fusion="last"), Partial(gamma=0.25, fusion="none")):
        model = crossstage.create_model("cspnext_tiny", num_classes=4, partial=partial, drop_path=0.1, **row)
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    ungated = crossstage.create_model("cspnext_tiny", num_classes=4, gated=False, **row)
    assert not any("merge.0.fc" in name for name, _ in ungated.named_parameters())


def _small(num_classes: int = 2) -> Any:
    """A narrow RTMDet."""
    return crossstage.create_model(
        NAME, num_classes=num_classes, stem=(8, 8, 16), widths=(16, 32, 32, 64), depths=(1, 1, 1, 1), out_width=32
    )


def test_fused_it_computes_the_same():
    model, images = _small().eval(), torch.rand(1, 3, 64, 96)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    fused = crossstage.fuse(model)
    with torch.inference_mode():
        plain, folded = model(images), fused(images)
    for name, expected in plain.items():
        torch.testing.assert_close(folded[name], expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


def test_training_makes_the_loss_fall():
    torch.manual_seed(0)
    model = _small().train()
    images = torch.rand(4, 3, 64, 64) * 0.2
    targets = _targets_of(*((i, i % 2, (4.0 + 8 * i, 8.0, 28 + 8 * i, 40.0)) for i in range(4)))
    for i, box in zip(targets.image_index.tolist(), targets.boxes_xyxy.int().tolist(), strict=True):
        images[i, i % 2, box[1] : box[3], box[0] : box[2]] += 0.8
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.004)
    overlaps = []
    for _ in range(10):
        raw = model(images)
        matches, _ = model.head.match(raw, targets, (64, 64))
        overlaps.append(float(matches.overlaps[matches.object_index >= 0].mean()))
        loss = torch.stack(list(model.head.loss(raw, targets, (64, 64)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert overlaps[-1] > overlaps[0] + 0.1


def _head(exp_distances: bool = False) -> tuple[RTMDetHead, dict[str, Tensor]]:
    head = RTMDetHead(RTMDetConfig(exp_distances=exp_distances), (8, 8), (8, 16), 2).eval()
    return head, head([torch.zeros(1, 8, 4, 6), torch.zeros(1, 8, 2, 3)])


def test_before_training_classes_score_a_hundredth_and_boxes_have_an_area():
    head, raw = _head()
    boxes, scores = head.decode(raw, (32, 48))
    torch.testing.assert_close(scores, torch.full((1, 30, 2), 0.01))
    assert boxes[0, 7].tolist() == [-8.0, -8.0, 24.0, 24.0]  # around the corner of a cell of the second row
    _, raw = _head(exp_distances=True)
    torch.testing.assert_close(raw["distances8"], torch.full((1, 4, 4, 6), 2.0))


def test_boxes_turned_inside_out_or_outside_of_the_image_are_not_found():
    head, raw = _head()
    raw = {name: x.clone() for name, x in raw.items()}
    raw["classes8"][:] = -9
    for row, distances in enumerate(([1, 1, 1, 1], [-2, 1, 1, 1], [1, 1, 1, -2], [4, 1, -3, 1])):
        raw["classes8"][0, 1, row, 1] = 3
        raw["distances8"][0, :, row, 1] = torch.tensor(distances, dtype=torch.float32)
    (found,) = head.detect(raw, (32, 48))
    assert found.boxes_xyxy.tolist() == [[0, 0, 16, 8]]  # clipped to the image
    assert found.class_ids.tolist() == [1]


def test_classes_may_weigh_more_than_others():
    head, raw = _head()
    raw, targets = {name: x.detach() for name, x in raw.items()}, _targets_of((0, 1, (4, 4, 28, 28)))
    plain = head.loss(raw, targets, (32, 48))
    head.class_weights = torch.tensor([1.0, 3.0])
    weighed = head.loss(raw, targets, (32, 48))
    assert float(weighed["boxes"]) == float(plain["boxes"])
    assert float(weighed["classes"].detach()) > 2 * float(plain["classes"].detach())  # objects are of the second class


@pytest.mark.parametrize(("name", "zooms", "mixup"), [("rtmdet", (0.1, 2), 1), ("rtmdet_tiny", (0.5, 2), 0.5)])
def test_recipes_are_as_published(name, zooms, mixup):
    options = TrainOptions.from_recipe(name, model=NAME, data="here")
    assert (options.epochs, options.batch, options.imgsz, options.burn_in) == (300, 256, 640, 1000)
    assert (options.optimizer, options.lr, options.nominal_batch, options.weight_decay) == ("adamw", 0.004, 256, 0.05)
    assert (options.schedule, options.final_lr, options.ema) == ("flat_cosine", 0.05, 0.9998)
    augment = options.augment
    assert isinstance(augment, Augmentation)
    assert (augment.mosaic, augment.mosaic_scale, augment.mixup, augment.last_epochs_plain) == (1, zooms, mixup, 20)


def test_rows_of_classes_are_named():
    head, _ = _head()
    rows, state = head.class_rows(2), head.state_dict()
    assert sorted(rows) == [f"classes.{level}.{leaf}" for level in (0, 1) for leaf in ("bias", "weight")]
    assert all(len(state[name]) == 2 and each == [[0], [1]] for name, each in rows.items())


def test_settings_are_refused_that_do_not_fit():
    with pytest.raises(ConfigError, match="branch_convs is -1"):
        RTMDetConfig(branch_convs=-1)
    with pytest.raises(ConfigError, match=r"loss\.focal_gamma is -1"):
        RTMDetLoss(focal_gamma=-1)
    with pytest.raises(ConfigError, match=r"loss\.top is 0"):
        RTMDetLoss(top=0)
    with pytest.raises(ConfigError, match="out_width is 0"):
        crossstage.create_model(NAME, out_width=0)
    with pytest.raises(ConfigError, match="as many of one as of the other"):
        crossstage.create_model(NAME, depths=(1, 1, 1))
