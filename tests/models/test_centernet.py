"""CenterNet: its authors' outputs, its loss against loops, and what users do with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossstage
from crossstage.data.augment import Augmentation
from crossstage.deploy.export import export
from crossstage.errors import ConfigError, WeightsError
from crossstage.models.backbones import BACKBONES
from crossstage.models.heads import HEADS
from crossstage.models.heads.centernet import CenterNetConfig, CenterNetHead, CenterNetLossConfig
from crossstage.models.necks.deconv import DeconvConfig
from crossstage.models.published import DETECTORS, FAMILIES
from crossstage.ops.heatmaps import best, centre_focal_loss, draw, gaussian_radii, locate, peaks
from crossstage.ops.nms import NMS
from crossstage.structures import Targets
from crossstage.training import resume, train
from crossstage.training.options import TrainOptions
from crossstage.weights.authors.centernet import AUTHORS
from crossstage.weights.from_authors import from_authors
from crossstage.weights.starting import start_model
from tests.conftest import PHOTOS
from tests.parity import Digest, digest, places

NAME = "centernet_resnet18"


@pytest.fixture(scope="module")
def authors() -> Digest:
    return digest("centernet_resdcn18")


def _input(authors: Digest) -> Tensor:
    images = authors.image.flip(1).float() / 255  # stored as BGR
    return DETECTORS[NAME].preprocessing.normalise(images)


def _targets(authors: Digest, images: tuple[int, ...] = (0, 1)) -> Targets:
    rows = [(i, *row) for i in images for row in authors.entry["targets"]["value"][i]]
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
    return Targets(table[:, 0].long(), table[:, 1].long(), table[:, 2:])


def _frozen(model: nn.Module) -> nn.Module:
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def test_it_has_the_authors_parameters():
    for name, parameters in ((NAME, 14_437_349), ("centernet_dla34", 19_634_164)):
        assert crossstage.model_info(name).parameters == parameters


def test_outputs_are_the_authors(authors):
    model = from_authors(NAME, authors.state)
    found: dict[str, Tensor] = {}
    layers = model.neck.layers
    watched = {f"layer{i + 1}": stage for i, stage in enumerate(model.backbone.stages)} | {
        "deconv_layers.0.conv_offset_mask": layers[0].conv.offsets,
        "deconv_layers.0": layers[0].conv,
        "deconv_layers.3": layers[1].conv,
        "deconv_layers": layers,
    }
    for name, module in watched.items():
        module.register_forward_hook(lambda _m, _i, output, name=name: found.__setitem__(name, output.clone()))
    with torch.inference_mode():
        raw = model(_input(authors))
        boxes, scores = model.decode(raw, tuple(authors.image.shape[2:]))
    for name, feature in found.items():
        assert authors.error(f"eval/feature/{name}", feature) < 1e-5, name
    for theirs, ours in (("hm", "heatmap"), ("wh", "size"), ("reg", "offset")):
        assert authors.error(f"eval/{theirs}", raw[ours]) < 5e-5
    score, class_id = scores.max(2)
    mine = torch.cat([boxes / 4, score.unsqueeze(2), class_id.unsqueeze(2)], dim=2)
    mine = torch.stack([rows[rows[:, 4].argsort(descending=True, stable=True)] for rows in mine])
    assert authors.error("eval/decoded", mine) < 1e-5
    assert (scores > 0).sum() == 200


def test_targets_are_the_authors(authors):
    targets = _targets(authors)
    centres = locate(targets, 4, (48, 64))
    maps = draw(centres, targets.class_ids, (2, 80, 48, 64))
    assert maps.nonzero().tolist() == authors.arrays["target/hm_nonzero_index"].tolist()
    assert authors.error("target/hm_nonzero_value", maps[maps > 0]) < 1e-6
    expected = [row[2] for row in authors.entry["targets"]["gaussian_radius"]]
    assert centres.radii.tolist() == expected
    for image in (0, 1):
        mine = centres.image_index == image
        count = int(mine.sum())
        assert np.array_equal(authors.arrays["target/wh"][image, :count], centres.sizes[mine].numpy())
        assert np.array_equal(authors.arrays["target/reg"][image, :count], centres.offsets[mine].numpy())
        assert np.array_equal(authors.arrays["target/ind"][image, :count], (centres.row * 64 + centres.column)[mine])


@pytest.mark.parametrize(
    ("mode", "images"), [("bn_frozen", (0, 1)), ("bn_train", (0, 1)), ("one_empty", (0,)), ("all_empty", ())]
)
def test_losses_and_gradients_are_the_authors(authors, mode, images):
    model = from_authors(NAME, authors.state)
    model = model.train() if mode == "bn_train" else _frozen(model)
    parts = model.loss(_input(authors), _targets(authors, images))
    expected = authors.entry["losses"][mode]
    gains = {"heatmap": ("hm", 1), "size": ("wh", 0.1), "offset": ("off", 1)}
    for ours, (theirs, gain) in gains.items():
        assert float(parts[ours].detach()) == pytest.approx(gain * expected[theirs], rel=4e-4, abs=1e-6), ours
    if f"{mode}/grad_norm" not in authors.arrays:
        return
    sum(parts.values()).backward()
    names = places(AUTHORS[NAME].adapt, authors.state)
    assert authors.gradient_error(f"{mode}/grad_norm", model, names) < 2e-3


def test_running_statistics_follow_a_batch(authors):
    model, images = from_authors(NAME, authors.state).train(), _input(authors)
    first = model.backbone.stem[0]
    before, batch = first.bn.running_mean.clone(), first.conv(images).mean((0, 2, 3))
    model(images)
    torch.testing.assert_close(first.bn.running_mean, 0.9 * before + 0.1 * batch)


def _slow_loss(raw: dict[str, Tensor], targets: Targets, stride: int) -> dict[str, float]:
    """CenterNet's loss in loops, straight from the paper's equations 1 to 3 and the release's clamps."""
    heat = raw["heatmap"].sigmoid().clamp(1e-4, 1 - 1e-4)
    height, width = heat.shape[2:]
    target = torch.zeros_like(heat)
    size = offset = 0.0
    for i, c, box in zip(
        targets.image_index.tolist(), targets.class_ids.tolist(), targets.boxes_xyxy.tolist(), strict=True
    ):
        x1, x2 = (min(max(v / stride, 0), width - 1) for v in box[::2])
        y1, y2 = (min(max(v / stride, 0), height - 1) for v in box[1::2])
        w, h = x2 - x1, y2 - y1
        cw, ch = math.ceil(w), math.ceil(h)
        linear = -1.4 * (cw + ch)
        radius = int((linear + math.sqrt(linear**2 + 4.8 * 0.7 * cw * ch)) / 2)
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        sigma = (2 * radius + 1) / 6
        for row in range(height):
            for column in range(width):
                dx, dy = column - int(x), row - int(y)
                if max(abs(dx), abs(dy)) <= radius:
                    value = math.exp(-(dx * dx + dy * dy) / (2 * sigma**2))
                    target[i, c, row, column] = max(value, float(target[i, c, row, column]))
        at = (i, slice(None), int(y), int(x))
        size += float((raw["size"][at] - torch.tensor([w, h])).abs().sum())
        offset += float((raw["offset"][at] - torch.tensor([x - int(x), y - int(y)])).abs().sum())
    loss, centres = 0.0, 0
    for p, y in zip(heat.flatten().tolist(), target.flatten().tolist(), strict=True):
        centres += y == 1
        loss -= (1 - p) ** 2 * math.log(p) if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
    values = 2 * len(targets.class_ids) + 1e-4
    return {"heatmap": loss / max(1, centres), "size": 0.1 * size / values, "offset": offset / values}


def _head(classes: int = 2) -> CenterNetHead:
    head = HEADS["centernet"].build([8], [4], classes)
    assert isinstance(head, CenterNetHead)
    return head


def _raw(images: int = 2, height: int = 9, width: int = 12, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.randn(images, 2, height, width, generator=generator, dtype=dtype)
        for name in ("heatmap", "size", "offset")
    }


_OBJECTS = Targets(
    torch.tensor([0, 0, 1, 1]),
    torch.tensor([0, 0, 1, 0]),
    torch.tensor([[2.0, 3, 30, 27], [8, 3, 40, 31], [-4, 5, 60, 41], [20.5, 1, 24, 3]]),
)


def test_loss_is_that_of_slow_loops():
    raw = _raw()
    parts = _head().loss(raw, _OBJECTS, (36, 48))
    for name, expected in _slow_loss(raw, _OBJECTS, 4).items():
        assert float(parts[name]) == pytest.approx(expected, rel=1e-5), name


def test_gradients_are_those_of_finite_differences():
    raw = {name: tensor.requires_grad_() for name, tensor in _raw(1, 4, 5, torch.float64).items()}
    objects = Targets(*(tensor[:2] for tensor in _OBJECTS[:3]))

    def total(*tensors: Tensor) -> Tensor:
        return torch.stack(list(_head().loss(dict(zip(raw, tensors, strict=True)), objects, (16, 20)).values())).sum()

    assert torch.autograd.gradcheck(total, tuple(raw.values()))


def test_objects_of_no_area_and_images_without_objects_are_no_centres():
    thin = Targets(torch.tensor([0]), torch.tensor([0]), torch.tensor([[5.0, 5, 5, 20]]))
    none = Targets(torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long), torch.empty(0, 4))
    head, raw = _head(), _raw()
    for targets in (thin, none):
        parts = head.loss(raw, targets, (36, 48))
        assert parts["size"] == parts["offset"] == 0 and parts["heatmap"].isfinite()
    heat = raw["heatmap"].sigmoid()
    assert float(head.loss(raw, none, (36, 48))["heatmap"]) == pytest.approx(
        float((-heat.square() * (1 - heat).log()).sum()), rel=1e-5
    )


def test_radii_keep_the_overlap():
    sizes = torch.tensor([[10.0, 10], [40, 12], [7, 90], [1, 1], [300, 200]])
    radii = gaussian_radii(sizes)
    expected = [
        math.floor((-1.4 * (w + h) + math.sqrt((1.4 * (w + h)) ** 2 + 3.36 * w * h)) / 2) for w, h in sizes.tolist()
    ]
    assert radii.tolist() == expected


def test_peaks_are_local_maxima_and_the_best_are_found():
    maps = torch.rand(2, 3, 7, 9)
    kept = peaks(maps)
    for i, c, y, x in np.ndindex(*maps.shape):
        around = maps[i, c, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        assert (kept[i, c, y, x] > 0) == (maps[i, c, y, x] == around.max())
    values, class_ids, cells = best(kept, 5)
    for image in (0, 1):
        assert (
            sorted(values[image].tolist(), reverse=True) == kept[image].flatten().sort(descending=True)[0][:5].tolist()
        )
        for value, class_id, cell in zip(values[image], class_ids[image], cells[image], strict=True):
            assert kept[image, class_id, cell // 9, cell % 9] == value
    few = torch.zeros(1, 2, 2, 2)
    few[0, 1, 1, 0], few[0, 0, 0, 1] = 3, 2
    assert [found.tolist() for found in best(few, 100)] == [[[2, 3, *[0] * 6]], [[0, 1, *[0] * 6]], [[1, 2, *[0] * 6]]]


def test_one_heat_map_cell_counts_one_centre_for_two_objects():
    target = torch.tensor([[[[1.0, 0.0]]]])
    logits = torch.zeros(1, 1, 1, 2)
    assert float(centre_focal_loss(logits, target)) == pytest.approx(2 * 0.25 * math.log(2))


def test_detections_are_peaks_in_pixels():
    head = _head()
    raw = {
        "heatmap": torch.full((1, 2, 9, 12), -9.0),
        "size": torch.zeros(1, 2, 9, 12),
        "offset": torch.zeros(1, 2, 9, 12),
    }
    raw["heatmap"][0, 1, 4, 6], raw["heatmap"][0, 1, 4, 7], raw["heatmap"][0, 0, 4, 6] = 3, 2.9, 2
    raw["size"][0, :, 4, 6] = torch.tensor([4.0, 2.0])
    raw["offset"][0, :, 4, 6] = torch.tensor([0.25, 0.5])
    (found,) = head.detect(raw, (36, 48))
    assert found.class_ids.tolist() == [1, 0]  # two classes at one place; the neighbour is no peak
    assert found.boxes_xyxy.tolist() == [[17.0, 14.0, 33.0, 22.0]] * 2
    assert found.scores.tolist() == pytest.approx([1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-2))])


@pytest.mark.parametrize("name", ["centernet_csppeleenet", "centernet_dla34", "resnet18_torchvision_deconv_centernet"])
def test_it_is_composed_with_any_backbone_and_all_parameters_learn(name):
    model = crossstage.create_model(name, num_classes=2)
    raw = model(torch.rand(1, 3, 64, 96))
    assert {key: tensor.shape[1:] for key, tensor in raw.items()} == {
        "heatmap": (2, 16, 24), "size": (2, 16, 24), "offset": (2, 16, 24)
    }  # fmt: skip
    sum(tensor.square().mean() for tensor in raw.values()).backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert silent == []


def test_settings_are_refused_that_do_not_fit():
    with pytest.raises(ConfigError, match="one stride, which can be halved"):
        crossstage.create_model(NAME, deconv_channels=(64, 64, 64, 64, 64, 64))
    with pytest.raises(ConfigError, match=r"loss\.beta is -1"):
        CenterNetLossConfig(beta=-1)
    with pytest.raises(WeightsError, match="has no place in this network"):
        from_authors(NAME, {"hm.2.weight": torch.zeros(80, 64, 1, 1), "else.weight": torch.zeros(1)})


def test_dla34_takes_the_authors_names():
    ours = crossstage.create_model("centernet_dla34", num_classes=3)
    theirs = _dla_names(ours.state_dict())
    theirs |= {"module.base.level3.project.0.weight": torch.zeros(128, 64, 1, 1), "module.base.fc.bias": torch.zeros(9)}
    loaded = from_authors("centernet_dla34", theirs).state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in ours.state_dict().items())


def _dla_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Spell our names as the authors' modules are called (pose_dla_dcn.py)."""
    words = {"project": "proj", "enlarge": "up", "smooth": "node"}
    renamed = {}
    for key, tensor in state.items():
        parts = key.split(".")
        match parts:
            case ["head", branch, *rest]:
                name = [{"heatmap": "hm", "size": "wh", "offset": "reg"}[branch], *rest]
            case ["neck", *rest]:
                whole, rest = (f"dla_up.ida_{rest[1]}", rest[2:]) if rest[0] == "steps" else ("ida_up", rest[1:])
                kind, number, *tail = rest
                tail = ".".join(tail).replace("conv.offsets", "conv.conv_offset_mask").replace("bn.", "actf.0.")
                name = [whole, f"{words[kind]}_{int(number) + 1}", tail]
            case ["backbone", "stem", number, layer, *rest]:
                level = {"0": "base_layer", "1": "level0", "2": "level1"}[number]
                name = ["base", level, {"conv": "0", "bn": "1"}[layer], *rest]
            case ["backbone", "stages", number, *rest]:
                tail = ".".join(rest)
                for part in (0, 1):
                    tail = tail.replace(f"parts.{part}.", f"tree{part + 1}.")
                    tail = tail.replace(f"body.{part}.conv", f"conv{part + 1}").replace(
                        f"body.{part}.bn", f"bn{part + 1}"
                    )
                tail = tail.replace("tree1.shortcut.1.conv", "project.0").replace("tree1.shortcut.1.bn", "project.1")
                name = ["base", f"level{int(number) + 2}", tail]
            case _:
                raise AssertionError(key)
        renamed[".".join(["module", *name])] = tensor
    return renamed


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory):
    """A training of a narrow network that was stopped after half of its epochs, and went on."""
    folder = tmp_path_factory.mktemp("centernet")
    small = replace(BACKBONES["resnet10"], widths=(16, 32, 32, 64), momentum=0.1)
    narrow = FAMILIES["centernet_{}"].of(small)
    DETECTORS["centernet_narrow"] = replace(
        narrow, neck=DeconvConfig(reads=(8,), deconv_channels=(32,)), head=CenterNetConfig(branch_channels=32)
    )
    options = TrainOptions(
        "centernet_narrow", str(shapes), imgsz=64, epochs=4, batch=8, workers=0, out=str(folder), name="run",
        loss={"size_gain": 0.2}, optimizer="adamw", weight_decay=0, lr=0.003, burn_in=0, ema=0.5, val_every=2,
        sample_every=0, augment=Augmentation(mosaic=0, scale=0, translate=0, hue=0, saturation=0, brightness=0),
    )  # fmt: skip
    whole = train(replace(options, name="whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 2)
        train(options)
    yield whole, resume(folder / "run")
    del DETECTORS["centernet_narrow"]


def test_it_trains_and_goes_on_bit_for_bit(run):
    whole, resumed = run
    assert {"heatmap", "size", "offset"} < resumed.history[0].keys()
    assert all(resumed.history[-1][part] < 0.9 * resumed.history[0][part] for part in ("heatmap", "size"))
    mine, other = (crossstage.load(each.folder).state_dict() for each in (whole, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())


def test_weights_carry_over_to_other_classes(run):
    started = start_model(run[1].folder, ("square", "triangle"))
    mine, theirs = started.model.head, crossstage.load(run[1].folder).head
    assert torch.equal(mine.heatmap[2].weight[0], theirs.heatmap[2].weight[1])  # "circle", "square" before
    assert torch.equal(mine.heatmap[0].weight, theirs.heatmap[0].weight)
    assert torch.equal(mine.size[2].weight, theirs.size[2].weight)


def test_fused_it_computes_the_same(run):
    detector = crossstage.load(run[1].folder)
    fused, images = crossstage.fuse(detector), torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        plain, folded = detector(images), fused(images)
    for name, expected in plain.items():
        torch.testing.assert_close(folded[name], expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


def test_it_is_profiled_with_its_deformable_convolutions():
    cost = crossstage.profile(NAME, (96, 64))
    counted = {layer.name: layer for layer in cost.layers}
    deform = counted["neck.layers.0.conv"]
    assert deform.macs == 256 * 512 * 9 * 3 * 2 and deform.kernel == (3, 3)
    assert counted["neck.layers.1.conv"].macs == 256 * 256 * 16 * 3 * 2
    whole = crossstage.profile("resnet18_torchvision", (96, 64)).bflops
    assert cost.bflops > 1.3 * whole


@pytest.mark.parametrize("decode", [False, True])
def test_exported_files_run_elsewhere(run, tmp_path, decode):
    detector, photo = crossstage.load(run[1].folder), PHOTOS / "000000000471.jpg"
    done = export(detector, "centernet", "onnx", tmp_path / "centernet.onnx", decode=decode)
    assert done.difference is not None and done.difference < 1e-4
    (mine,) = detector.predict(photo, conf=0.02, max_detections=20)
    for runtime in ("onnxruntime", "openvino"):
        pytest.importorskip(runtime)
        (theirs,) = crossstage.open_model(done.path, runtime=runtime).predict(photo, conf=0.02, max_detections=20)
        assert len(mine) and len(theirs) == len(mine)
        np.testing.assert_allclose(np.sort(theirs.confidence), np.sort(mine.confidence), atol=1e-3)
        np.testing.assert_allclose(np.sort(theirs.xyxy, 0), np.sort(mine.xyxy, 0), atol=0.5)


def test_suppression_inside_a_file_is_refused_by_name(run, tmp_path):
    detector = crossstage.load(run[1].folder)
    with pytest.raises(ConfigError, match="suppression of kind 'none' cannot lie inside a graph"):
        export(detector, "centernet", "onnx", tmp_path / "centernet.onnx", nms=NMS(kind="none"))
