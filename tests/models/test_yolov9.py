"""YOLOv9: its authors' outputs, what its head and its auxiliary branch do, and what users do with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

import crossstage
from crossstage.data.augment import Augmentation
from crossstage.deploy.export import export
from crossstage.deploy.graph import plan
from crossstage.errors import ConfigError, WeightsError
from crossstage.models.auxiliary import CompositeConfig, TopDownConfig
from crossstage.models.backbones import BACKBONES, About
from crossstage.models.backbones.gelan import GelanConfig
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.heads import HEADS
from crossstage.models.heads.yolov9 import YoloV9Config, YoloV9Head, YoloV9LossConfig
from crossstage.models.necks.gelan import GelanPanConfig, widths_of
from crossstage.models.published import DETECTORS
from crossstage.ops.nms import NMS
from crossstage.ops.task_aligned import assign_by_task
from crossstage.structures import Targets
from crossstage.training import resume, train
from crossstage.training.options import RunOptions
from crossstage.training.recipe_files import load_recipe
from crossstage.weights.authors import AUTHORS
from crossstage.weights.from_authors import from_authors, import_checkpoint
from crossstage.weights.model_file import read_model
from crossstage.weights.starting import start_model
from crossstage.weights.stored import pack
from tests.conftest import PHOTOS
from tests.parity import Digest, digest, places

NAME = "yolov9_t"
BINS = 48  # numbers of the release that nothing trains: 16 for each of three maps
STRIDES = (8, 16, 32)


@pytest.fixture(scope="module")
def authors() -> Digest:
    return digest(NAME)


@pytest.fixture(scope="module")
def model(authors: Digest) -> nn.Module:
    return from_authors(NAME, authors.state)


def _images(authors: Digest) -> Tensor:
    return authors.image.float() / 255


def _targets(authors: Digest, images: tuple[int, ...] = (0, 1)) -> Targets:
    rows = [(i, *row) for i in images for row in authors.entry["targets"]["value"][i] if row[0] >= 0]
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
    return Targets(table[:, 0].long(), table[:, 1].long(), table[:, 2:])


def _training(authors: Digest, mode: str) -> nn.Module:
    model = from_authors(NAME, authors.state).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and mode == "bn_frozen":
            module.eval()
    return model


def test_parameters_are_those_of_the_authors(authors, model):
    without = crossstage.create_model(NAME)
    assert _count(model) == authors.entry["parameters_trainable"]
    assert _count(without) + BINS == authors.entry["parameters_without_aux"] == 2_442_672
    assert _count(crossstage.fuse(model)) + BINS == _count(crossstage.fuse(without)) + BINS == 2_407_664


@pytest.mark.parametrize(
    ("size", "millions", "giga", "trained"),
    [("s", 7.1, 26.4, 9.804), pytest.param("m", 20.0, 76.3, None, marks=pytest.mark.slow), ("c", 25.3, 102.1, None)],
)
def test_other_sizes_have_the_published_parameters_and_cost(size, millions, giga, trained):
    with torch.device("meta"):
        detector = crossstage.create_model(f"yolov9_{size}")
        cost = crossstage.profile(crossstage.fuse(detector), (640, 640))
        detector.prepare_training()
    assert round(cost.parameters / 1e6, 1) == millions and round(cost.bflops, 1) == giga
    assert trained is None or round(_count(detector) / 1e6, 3) == trained


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_raw_outputs_and_boxes_are_those_of_the_authors(authors, model):
    images = _images(authors)
    with torch.inference_mode():
        features = model.backbone(images)
        maps = {**dict(zip(("B3", "B4", "B5"), features, strict=True))}
        maps |= dict(zip(("P3", "P4", "P5"), model.neck(features), strict=True))
        maps |= dict(zip(("A3", "A4", "A5"), model.auxiliary.pyramid(images, features), strict=True))
        raws = {"Main": model(images), "AUX": model.auxiliary(images, features)}
    assert max(authors.error(f"eval/feature/{name}", value) for name, value in maps.items()) < 2e-5
    for which, raw in raws.items():
        for level, stride in enumerate(STRIDES):
            sides = raw[f"boxes{stride}"].unflatten(1, (4, 16)).transpose(1, 2)
            assert authors.error(f"eval/{which}/{level}/cls", raw[f"classes{stride}"]) < 2e-5
            assert authors.error(f"eval/{which}/{level}/dfl", sides) < 2e-5
        boxes, scores = model.decode(raw, (192, 256))
        assert authors.error(f"eval/{which}/boxes", boxes) < 2e-5
        assert authors.error(f"eval/{which}/scores", scores) < 2e-5


def test_folded_outputs_are_the_unfolded_ones(authors, model):
    fused, images = crossstage.fuse(model), _images(authors)
    with torch.inference_mode():
        plain, folded = model(images), fused(images)
    assert fused.auxiliary is None
    for name, expected in plain.items():
        assert float((folded[name] - expected).abs().max()) < 2e-5 * float(expected.abs().max())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.parametrize("mode", ["bn_frozen", "bn_train"])
def test_matches_are_those_of_the_authors(authors, mode):
    detector, images, targets = _training(authors, mode), _images(authors), _targets(authors)
    with torch.no_grad():
        features = detector.backbone(images)
        raws = {"Main": detector.head(detector.neck(features)), "AUX": detector.auxiliary(images, features)}
    for which, raw in raws.items():
        logits = torch.cat([raw[f"classes{stride}"].flatten(2).transpose(1, 2) for stride in STRIDES], 1)
        boxes, _ = detector.decode(raw, (192, 256))
        found = assign_by_task(logits, boxes, targets, [(24, 32), (12, 16), (6, 8)], STRIDES, reach=16 - 1.01)
        for image in (0, 1):
            name, mine = f"{mode}/{which}/match/{image}", (found.image_index == image).nonzero().squeeze(1)
            mine = mine[found.cell[mine].argsort()]
            objects = found.object_index[mine]
            assert np.array_equal(found.cell[mine], authors.arrays[f"{name}/anchor"])
            assert np.array_equal(targets.class_ids[objects], authors.arrays[f"{name}/class"])
            assert np.array_equal(targets.boxes_xyxy[objects], authors.arrays[f"{name}/box"])
            assert authors.error(f"{name}/target_score", found.score[mine]) < 2e-3


@pytest.mark.parametrize("mode", ["bn_frozen", pytest.param("bn_train", marks=pytest.mark.slow)])
def test_losses_and_gradients_are_those_of_the_authors(authors, mode):
    detector = _training(authors, mode)
    parts = detector.loss(_images(authors), _targets(authors))
    torch.stack(list(parts.values())).sum().backward()
    expected = authors.entry["losses"][mode]
    names = {"boxes": ("iou", 7.5), "distances": ("dfl", 1.5), "classes": ("cls", 0.5)}
    for ours, (theirs, weight) in names.items():
        assert parts[ours].item() == pytest.approx(weight * expected[f"Main/{theirs}"], rel=2e-3)
        assert parts[f"auxiliary_{ours}"].item() == pytest.approx(weight * expected[f"AUX/{theirs}"] / 4, rel=2e-3)
    assert sum(part.item() for part in parts.values()) == pytest.approx(expected["total"], rel=2e-3)
    known = places(AUTHORS[NAME].adapt, authors.state)
    assert authors.gradient_error(f"{mode}/grad_norm", detector, known) < 4e-3
    build = authors.entry["build"]
    norms = {(norm.eps, norm.momentum) for norm in detector.modules() if isinstance(norm, nn.BatchNorm2d)}
    assert norms == {(build["bn_eps"], build["bn_momentum"])}


@pytest.mark.parametrize(("images", "mode"), [((0,), "one_empty"), ((), "all_padding")])
def test_images_without_objects_count_as_the_authors_count_them(authors, images, mode):
    detector = _training(authors, "bn_frozen")
    with torch.no_grad():
        parts = detector.loss(_images(authors), _targets(authors, images))
    expected = authors.entry["losses"][mode]
    assert sum(part.item() for part in parts.values()) == pytest.approx(expected["total"], rel=1e-4)
    boxes = parts["boxes"] + parts["auxiliary_boxes"]
    assert boxes.item() == pytest.approx(expected["Loss/BoxLoss"], rel=1e-4)


def test_files_may_lack_the_branch_of_training_or_name_it_otherwise(authors, model):
    main = {key: tensor for key, tensor in authors.state.items() if int(key.split(".")[1]) <= 22}
    plain = from_authors(NAME, {key.removeprefix("model."): tensor for key, tensor in main.items()})
    assert plain.auxiliary is None
    images = _images(authors)
    with torch.inference_mode():
        assert all(torch.equal(tensor, model(images)[name]) for name, tensor in plain(images).items())
    trainers = {f"model.{key}": torch.zeros_like(tensor) for key, tensor in main.items()}
    trainers |= {f"ema.{key}": tensor for key, tensor in main.items()}
    averaged = from_authors(NAME, trainers)
    assert all(torch.equal(tensor, averaged.state_dict()[name]) for name, tensor in plain.state_dict().items())
    with pytest.raises(WeightsError, match="has no place in this network"):
        from_authors(NAME, {**main, "model.31.conv.weight": torch.zeros(1)})
    del main["model.9.conv1.conv.weight"]
    with pytest.raises(WeightsError, match="is missing"):
        from_authors(NAME, main)


@pytest.mark.parametrize("size", ["s", pytest.param("m", marks=pytest.mark.slow), "c"])
def test_names_of_other_sizes_lead_to_places_of_their_own(size):
    with torch.device("meta"):
        ours = crossstage.create_model(f"yolov9_{size}", num_classes=3)
        ours.prepare_training()
    state = _their_names(size, {key: torch.empty_like(tensor) for key, tensor in ours.state_dict().items()})
    with torch.device("meta"):
        loaded = from_authors(f"yolov9_{size}", state)
    assert loaded.auxiliary is not None and loaded.head.num_classes == 3
    assert AUTHORS[f"yolov9_{size}"].adapt(state, "file").keys() == ours.state_dict().keys()


def test_an_imported_file_is_loaded_without_the_branch_and_trained_with_it(authors, model, tmp_path):
    torch.save({"model_state_dict": authors.state}, tmp_path / "v9-t.pt")
    written = import_checkpoint(tmp_path / "v9-t.pt", NAME, half=False)
    loaded, images = crossstage.load(written), _images(authors)
    assert loaded.auxiliary is None and loaded.class_names[0] == "person"
    with torch.inference_mode():
        assert all(torch.equal(tensor, model(images)[name]) for name, tensor in loaded(images).items())
    started = start_model(written, loaded.class_names)
    assert started.transfer is not None and not started.transfer.fresh
    assert torch.equal(started.model.auxiliary.head.boxes[0][2].bias, model.auxiliary.head.boxes[0][2].bias)


def _their_names(size: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Spell our names as the release's configuration numbers its layers."""
    down = {"down.convolved": "conv1", "down.pooled": "conv2"} if size == "c" else {"down.1": "conv"}
    aux_backbone = {"stem": 26, "0.down": 27, "0.block": 28, "1.down": 29, "1.block": 31, "2.down": 32, "2.block": 34,
                    "3.down": 35, "3.block": 37}  # fmt: skip
    backbone = {"stem": 0, "0.down": 1, "0.block": 2, "1.down": 3, "1.block": 4, "2.down": 5, "2.block": 6,
                "3.down": 7, "3.block": 8}  # fmt: skip
    neck = {"top_down.pool": 9, "top_down.blocks.1": 12, "top_down.blocks.0": 15, "down.0": 16, "blocks.0": 18,
            "down.1": 19, "blocks.1": 21}  # fmt: skip
    places = {f"backbone.{'' if key == 'stem' else 'stages.'}{key}": number for key, number in backbone.items()}
    places |= {f"neck.{key}": number for key, number in neck.items()} | {"head": 22}
    if size == "s":
        top = {"top_down.pool": 23, "top_down.blocks.1": 26, "top_down.blocks.0": 29}
        places |= {f"auxiliary.pyramid.{key}": number for key, number in top.items()} | {"auxiliary.head": 30}
    else:
        second = {f"second.{'' if key == 'stem' else 'stages.'}{key}": number for key, number in aux_backbone.items()}
        places |= {f"auxiliary.pyramid.{key}": number for key, number in second.items()} | {"auxiliary.head": 38}
        places |= {f"auxiliary.pyramid.projections.{level}": 23 + level for level in range(3)}
    words = {
        "reduce": "conv1", "expand": "conv5", "merge": "conv4", "blocks.0": "conv2", "blocks.1": "conv3",
        "split.processed": "conv1", "split.carried": "conv2",
    }  # fmt: skip
    renamed = {}
    for key, tensor in state.items():
        place = max((place for place in places if key.startswith(f"{place}.")), key=len)
        rest = key.removeprefix(f"{place}.")
        if place.endswith("head"):
            kind, level, tail = rest.split(".", 2)
            rest = f"heads.{level}.{'anchor' if kind == 'boxes' else 'class'}_conv.{tail}"
        elif ".projections." in place:
            rest = f"conv.{rest}"
        elif (".down" in place and not place.endswith("0.down")) or place.startswith("neck.down"):
            first, tail = rest.split(".", 1)
            rest = f"{down[f'down.{first}']}.{tail}"
        elif not place.endswith(("stem", "0.down")):
            for ours in ("reduce", "expand", "merge", "blocks.0", "blocks.1"):
                if rest.startswith(f"{ours}."):
                    tail = rest.removeprefix(f"{ours}.")
                    if tail.startswith("0.") and not (size == "s" and "stages.0" in place):
                        inner = tail.removeprefix("0.")
                        inner = inner.replace("split.processed", "conv1").replace("split.carried", "conv2")
                        inner = inner.replace("merge.", "conv3.").replace("blocks.", "bottleneck.")
                        inner = inner.replace("body.0.spatial", "conv1.conv1").replace(
                            "body.0.pointwise", "conv1.conv2"
                        )
                        tail = f"0.{inner.replace('body.1', 'conv2')}"
                    rest = f"{words[ours]}.{tail}"
                    break
        renamed[f"{places[place]}.{rest}"] = tensor
    assert len(renamed) == len(state)
    return renamed


@pytest.mark.parametrize(
    ("name", "strides"),
    [("csppeleenet_efm_yolov9", STRIDES), ("csppeleenet_gelan_pan_yolov9", STRIDES), ("resnet10_prn_yolov9", (16, 32))],
)
def test_it_is_composed_with_any_backbone_and_neck_and_all_parameters_learn(name, strides):
    detector = crossstage.create_model(name, num_classes=3)
    detector.prepare_training()
    assert detector.head.strides == strides and detector.auxiliary is None
    targets = Targets(torch.tensor([0, 0]), torch.tensor([0, 2]), torch.tensor([[4.0, 8, 40, 56], [30, 2, 60, 20]]))
    parts = detector.loss(torch.rand(2, 3, 64, 64), targets)
    torch.stack(list(parts.values())).sum().backward()
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("size", ["t", "c"])
def test_all_of_the_auxiliary_branch_learns_and_inference_does_without(size):
    row = _narrow(size)
    detector = row.build(["a", "b"])
    images = torch.rand(2, 3, 64, 64)
    before = detector.eval()(images)
    detector.prepare_training()
    branch = detector.auxiliary
    detector.prepare_training()
    assert detector.auxiliary is branch
    assert all(torch.equal(before[name], tensor) for name, tensor in detector(images).items())
    targets = Targets(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([[4.0, 8, 40, 56], [20, 2, 60, 40]]))
    parts = detector.train().loss(images, targets)
    assert set(parts) == {f"{kind}{name}" for kind in ("", "auxiliary_") for name in ("boxes", "classes", "distances")}
    sum(part for name, part in parts.items() if name.startswith("auxiliary_")).backward()
    learned = {name.split(".")[0] for name, p in detector.named_parameters() if p.grad is not None and p.grad.any()}
    assert learned == {"backbone", "auxiliary"}
    assert [name for name, p in branch.named_parameters() if p.grad is None] == []


def test_a_composite_branch_adds_the_deeper_maps():
    detector = _narrow("c").build(["a"])
    detector.prepare_training()
    pyramid = detector.eval().auxiliary.eval().pyramid
    images = torch.rand(1, 3, 64, 64)
    features = detector.backbone(images)
    parts = [p(f).split(given, 1) for p, f, given in zip(pyramid.projections, features, pyramid.given, strict=True)]
    stages = pyramid.second.stages
    x = stages[1].down(stages[0](pyramid.second.stem(images)))
    for deeper in parts:
        times = x.shape[2] // deeper[0].shape[2]
        x = x + deeper[0].repeat_interleave(times, 2).repeat_interleave(times, 3)
    torch.testing.assert_close(pyramid(images, features)[0], stages[1].block(x))


def test_what_does_not_fit_is_told():
    head = HEADS["yolov9"].build([8, 8], [16, 32], 1)
    backbone = crossstage.create_model("gelan_t", out_indices=(1, 2, 3))
    with pytest.raises(ConfigError, match=r"reads the backbone's maps at strides \[8, 16, 32\]"):
        TopDownConfig().build(backbone, head)
    other = crossstage.create_model("resnet10", out_indices=(1, 2, 3))
    with pytest.raises(ConfigError, match="is for GELAN"):
        CompositeConfig().build(other, HEADS["yolov9"].build([8, 8, 8], STRIDES, 1))
    with pytest.raises(ConfigError, match="expected as many of each"):
        crossstage.create_model("gelan_t", depths=(1, 1))
    with pytest.raises(ConfigError, match="sampling is 'pool'"):
        crossstage.create_model("gelan_t", sampling="pool")
    with pytest.raises(ConfigError, match=r"pan_widths are \(30, 32, 32\)"):
        crossstage.create_model(NAME, pan_widths=(30, 32, 32))
    with pytest.raises(ConfigError, match=r"loss\.box_gain is -1"):
        YoloV9LossConfig(box_gain=-1)
    with pytest.raises(ConfigError, match="bins is 1"):
        YoloV9Config(bins=1)


def test_widths_of_the_neck_follow_from_the_backbones_maps():
    for size, widths in (("t", [64, 96, 128]), ("s", [128, 192, 256]), ("m", [240, 360, 480]), ("c", [256, 512, 512])):
        assert widths_of(BACKBONES[f"gelan_{size}"].widths[1:], STRIDES) == widths
    assert widths_of([130, 1024], [16, 32]) == [136, 512]


def _head(classes: int = 2) -> YoloV9Head:
    head = HEADS["yolov9"].build([8, 8], [8, 16], classes)
    assert isinstance(head, YoloV9Head)
    return head


def _raw(images: int, dtype: torch.dtype, classes: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {
        f"{part}{stride}": torch.randn(images, channels, 48 // stride, 64 // stride, generator=generator, dtype=dtype)
        for stride in (8, 16)
        for part, channels in (("boxes", 64), ("classes", classes))
    }


_OBJECTS = Targets(
    torch.tensor([0, 0, 1]),
    torch.tensor([0, 1, 1]),
    torch.tensor([[2.0, 3, 30, 27], [8, 3, 60, 45], [20.5, 1, 24, 3]]),
)


def test_gradients_are_those_of_finite_differences():
    raw = {name: tensor.requires_grad_() for name, tensor in _raw(1, torch.float64).items()}
    objects = Targets(*(tensor[:2] for tensor in _OBJECTS[:3]))
    head = _head()
    pinned = None

    def total(*tensors: Tensor) -> Tensor:
        named = dict(zip(raw, tensors, strict=True))
        return torch.stack(list(head.loss(named, objects, (48, 64)).values())).sum()

    with pytest.MonkeyPatch.context() as patch:  # assignments and their scores are constants to the gradient

        def once(*args, **kwargs):
            nonlocal pinned
            pinned = pinned or assign_by_task(*args, **kwargs)
            return pinned

        patch.setattr("crossstage.models.heads.yolov9.assign_by_task", once)
        patch.setattr("crossstage.ops.losses.torch.no_grad", torch.enable_grad)
        assert torch.autograd.gradcheck(total, tuple(raw.values()), fast_mode=True)


def test_classes_are_weighed_and_scored_by_the_formula():
    raw, head = _raw(2, torch.float32), _head()
    head.class_weights = torch.tensor([0.5, 3.0])
    parts = head.loss(raw, _OBJECTS, (48, 64))
    logits = torch.cat([raw[f"classes{stride}"].flatten(2).transpose(1, 2) for stride in (8, 16)], 1)
    boxes, scores = head.decode(raw, (48, 64))
    found = assign_by_task(logits, boxes, _OBJECTS, [(6, 8), (3, 4)], [8, 16], reach=16 - 1.01)
    wanted = torch.zeros_like(logits)
    wanted[found.image_index, found.cell, _OBJECTS.class_ids[found.object_index]] = found.score
    plain = nn.functional.binary_cross_entropy(scores, wanted, reduction="none") * head.class_weights
    assert parts["classes"].item() == pytest.approx(0.5 * plain.sum().item() / max(1, wanted.sum().item()), rel=1e-5)


def test_scores_begin_at_five_objects_an_image():
    head = HEADS["yolov9"].build([16, 16, 16], STRIDES, 4)
    scores = head.decode(head([torch.zeros(1, 16, 640 // stride, 640 // stride) for stride in STRIDES]), (640, 640))[1]
    assert scores.sum().item() == pytest.approx(3 * 5, rel=0.05)  # five on each of three maps


def test_the_recipe_is_the_published_one():
    options = RunOptions.from_recipe("yolov9", model=NAME, data="data")
    assert options.lr / options.batch == pytest.approx(0.01)
    assert options.lr * options.weight_decay / 0.01 == pytest.approx(0.0005)
    assert load_recipe("yolov9")["epochs"] == 500


def _narrow(size: str) -> DetectorConfig:
    """Return a detector of a few thousand parameters, with the kind of branch that a size has."""
    widths = (8, 16, 16, 24)
    backbone = GelanConfig(
        about=About("narrow", "test"), stem_width=8, down_widths=widths, widths=widths, elan_widths=(8, 16, 16, 24),
        depths=(0, 1, 1, 1), momentum=0.1, sampling="adown" if size == "c" else "aconv",
    )  # fmt: skip
    row = DETECTORS[f"yolov9_{size}"]
    neck = GelanPanConfig(pan_depth=1, pan_sampling=backbone.sampling)
    auxiliary = CompositeConfig() if size == "c" else TopDownConfig(depth=1)
    return replace(row, backbone=backbone, neck=neck, auxiliary=auxiliary)


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory):
    """A training of a narrow network that was stopped after half of its epochs, and went on."""
    folder = tmp_path_factory.mktemp("yolov9")
    DETECTORS["yolov9_narrow"] = _narrow("t")
    options = RunOptions.plain(
        "yolov9_narrow", str(shapes), imgsz=64, epochs=2, batch=16, workers=0, out=str(folder), name="run",
        optimizer="adamw", weight_decay=0, lr=0.003, burn_in=0, ema=0.5, val_every=1, sample_every=0,
        augment=Augmentation(mosaic=0, scale=0, translate=0, hue=0, saturation=0, brightness=0),
    )  # fmt: skip
    whole = train(replace(options, name="whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 1)
        train(options)
    yield whole, resume(folder / "run")
    del DETECTORS["yolov9_narrow"]


def test_it_trains_with_the_branch_and_goes_on_bit_for_bit(run):
    whole, resumed = run
    parts = {f"{kind}{name}" for kind in ("", "auxiliary_") for name in ("boxes", "classes", "distances")}
    assert all(parts < row.keys() for row in resumed.history)
    (_, mine), (_, other) = (read_model(each.folder / "last.safetensors") for each in (whole, resumed))
    assert any(name.startswith("auxiliary.") for name in mine) and mine.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())


def test_a_trained_detector_is_loaded_without_the_branch_and_trained_on_with_it(run, tmp_path):
    loaded = crossstage.load(run[1].folder)
    assert loaded.auxiliary is None and not any(name.startswith("auxiliary") for name in loaded.state_dict())
    started = start_model(run[1].folder, ("square", "triangle"))
    _, stored = read_model(run[1].folder / "best.safetensors")
    branch = started.model.auxiliary
    kept = "auxiliary.pyramid.top_down.pool.reduce.conv.weight"
    assert torch.equal(started.model.state_dict()[kept], stored[kept])
    classes = "auxiliary.head.classes.0.2.weight"
    assert torch.equal(branch.head.classes[0][2].weight[0], stored[classes][1])  # "circle", "square" before
    pack(run[1].folder, tmp_path / "passed.safetensors", source="test", licence="none", trained_on="shapes")
    assert read_model(tmp_path / "passed.safetensors")[1].keys() == loaded.state_dict().keys()


def test_exported_graphs_hold_no_branch_of_training(run):
    detector = crossstage.load(run[1].folder)
    detector.prepare_training()
    for fused in (True, False):
        graph = plan(detector, "yolov9", fused=fused).graph
        names = [name for name, _ in graph.named_modules() if "auxiliary" in name or "pointwise" in name]
        assert names == []
    assert detector.auxiliary is not None


@pytest.mark.slow
@pytest.mark.parametrize("decode", [False, True])
def test_exported_files_run_elsewhere(run, tmp_path, decode):
    pytest.importorskip("onnxruntime")
    detector, photo = crossstage.load(run[1].folder), PHOTOS / "000000000471.jpg"
    done = export(detector, "yolov9", "onnx", tmp_path / "yolov9.onnx", decode=decode)
    assert done.difference is not None and done.difference < 1e-4
    _same(detector, crossstage.open_model(done.path, runtime="onnxruntime"), photo)


@pytest.mark.slow
def test_a_file_with_suppression_inside_has_folded_branches(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    detector, nms = crossstage.load(run[1].folder), NMS(score=0.0005, iou=0.7)
    done = export(detector, "yolov9", "onnx", tmp_path / "yolov9.onnx", nms=nms)
    graph = onnx.load(done.path).graph
    convolutions = sum(isinstance(module, nn.Conv2d) for module in crossstage.fuse(detector).modules())
    assert sum(node.op_type == "Conv" for node in graph.node) == convolutions
    _same(detector, crossstage.open_model(done.path, runtime="onnxruntime"), PHOTOS / "000000000471.jpg")


def _same(detector, other, photo: Path) -> None:
    (mine,) = detector.predict(photo, conf=0.0005, max_detections=20)
    (theirs,) = other.predict(photo, conf=0.0005, max_detections=20)
    assert len(mine) == len(theirs) > 0
    np.testing.assert_allclose(np.sort(theirs.confidence), np.sort(mine.confidence), rtol=1e-3)
    np.testing.assert_allclose(np.sort(theirs.xyxy, 0), np.sort(mine.xyxy, 0), atol=0.5)


@pytest.mark.slow
def test_it_learns_objects_by_heart():
    torch.manual_seed(0)
    detector = _narrow("t").build(["red", "green"])
    detector.prepare_training()
    boxes = torch.tensor([[4.0, 8, 40, 56], [34, 2, 60, 30], [20, 2, 60, 40]])
    targets = Targets(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), boxes)
    images = torch.rand(2, 3, 64, 64) * 0.2
    for image, (left, top, right, bottom), colour in zip(*(each.tolist() for each in (
        targets.image_index, boxes.long(), targets.class_ids
    )), strict=True):  # fmt: skip
        images[image, colour, top:bottom, left:right] += 0.7
    optimizer = torch.optim.AdamW(detector.train().parameters(), lr=0.03, weight_decay=0)
    for _ in range(80):
        torch.stack(list(detector.loss(images, targets).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        first, second = detector.detect(detector.eval()(images), (64, 64))
    assert (sorted(first.class_ids.tolist()), second.class_ids.tolist()) == ([0, 1], [1])
    found = torch.cat([first.boxes_xyxy[first.class_ids.argsort()], second.boxes_xyxy])
    assert box_iou(found, boxes).diagonal().min() > 0.85
