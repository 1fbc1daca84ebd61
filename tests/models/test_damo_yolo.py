"""DAMO-YOLO: sizes as published, outputs of the release's graph by the release's names, and its loss against loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import crossstage
from crossstage.data.augment import Augmentation
from crossstage.errors import ConfigError
from crossstage.models.backbones.tinynas import BACKBONES
from crossstage.models.heads.zero import ZeroConfig, ZeroHead, ZeroLoss
from crossstage.nn import Partial
from crossstage.nn.residual import rounded
from crossstage.structures import Targets
from crossstage.training.options import TrainOptions
from crossstage.weights.from_authors import from_authors

SIZES = ("ns", "nm", "nl")
EXPANSIONS = (3.5, 4, 4.5, 5, 5.5)


def test_parameters_are_the_published():
    for size, millions in zip(SIZES, (1.406, 2.707, 5.689), strict=True):
        with torch.device("meta"):
            model = crossstage.create_model(f"damo_yolo_{size}", num_classes=80)
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=5e-4)


def test_multiply_adds_are_the_published():
    assert crossstage.profile("damo_yolo_ns", (416, 416)).bflops == pytest.approx(1.56, rel=0.05)  # theirs count norms


def _names(size: str, classes: int) -> dict[str, tuple[int, ...]]:
    """Spell all tensors of the release, with their shapes, as its modules are nested."""
    row = BACKBONES[f"tinynas_{size}"]
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{leaf}"] = (width,)

    def conv(name: str, i: int, o: int, k: int = 1) -> None:
        shapes[f"{name}.weight"] = (o, i, k, k)

    def both(name: str, i: int, o: int) -> None:
        conv(f"{name}.conv", i, o)
        norm(f"{name}.bn", o)

    def block(name: str, i: int, o: int, hidden: int, places: tuple[int, ...]) -> None:
        conv(f"{name}.{places[0]}", i, hidden)
        norm(f"{name}.{places[1]}", hidden)
        conv(f"{name}.{places[2]}", 1, hidden, 5)
        norm(f"{name}.{places[3]}", hidden)
        conv(f"{name}.{places[4]}", hidden, o)
        norm(f"{name}.{places[5]}", o)

    conv("backbone.block_list.0.conv.conv1", 3, row.stem, 3)
    norm("backbone.block_list.0.conv.bn1", row.stem)
    before = row.stem
    for stage, (width, depth) in enumerate(zip(row.widths, row.depths, strict=True), 1):
        hidden = int(math.ceil(width * EXPANSIONS[stage - 1]) + 4) // 8 * 8
        place = 0
        for _ in range(depth):
            block(f"backbone.block_list.{stage}.block_list.{place}.conv", before, width, hidden, (0, 1, 3, 4, 7, 8))
            before, place = width, place + 1
            if stage == 5 and place == 1:
                both("backbone.block_list.5.block_list.1.conv1", width, width // 2)
                both("backbone.block_list.5.block_list.1.conv2", width * 2, width)
                place = 2
    a, b, c = row.widths[1], row.widths[3], row.widths[4]
    for name, width in (("13", b), ("24", a), ("57", a), ("46", b), ("76", b)):
        conv(f"neck.bu_conv{name}.depthwise", 1, width, 3)
        norm(f"neck.bu_conv{name}.dwnorm", width)
        conv(f"neck.bu_conv{name}.pointwise", width, width)
        norm(f"neck.bu_conv{name}.pwnorm", width)
    for name, i, o in (("3", b + c, c), ("4", a + b + c, b), ("5", a + b, a), ("7", a + b, b), ("6", b + b + c, c)):
        half = o // 2
        both(f"neck.merge_{name}.conv1", i, half)
        both(f"neck.merge_{name}.conv2", i, half)
        both(f"neck.merge_{name}.conv3", 3 * half, o)
        for number in range(2):
            hidden = int(3 * half + 4) // 8 * 8
            block(f"neck.merge_{name}.convs.{number}.conv.conv", half, half, hidden, (0, 1, 3, 4, 6, 7))
    for level, width in enumerate((a, b, c)):
        for name, out in (("gfl_cls", classes), ("gfl_reg", 32)):
            conv(f"head.{name}.{level}", width, out)
            shapes[f"head.{name}.{level}.bias"] = (out,)
        shapes[f"head.scales.{level}.scale"] = ()
    return shapes


def _drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if len(shape) == 4:
            state[name] = torch.randn(shape, generator=draw) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        elif name.endswith("running_var") or name.endswith("weight") or not shape:
            state[name] = torch.rand(shape, generator=draw) + 0.5
        else:
            state[name] = torch.randn(shape, generator=draw) * 0.1
    return state


class _Release:
    """The release's graph on tensors by its names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, x: Tensor, conv: str, norm: str, stride: int = 1, *, act: bool = True) -> Tensor:
        s = self.state
        weight = s[f"{conv}.weight"]
        groups = len(weight) if weight.shape[1] == 1 else 1
        x = F.conv2d(x, weight, None, stride, weight.shape[2] // 2, groups=groups)
        statistics = (s[f"{norm}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *statistics, eps=1e-3)
        return F.silu(x) if act else x

    def both(self, x: Tensor, name: str) -> Tensor:
        return self.conv(x, f"{name}.conv", f"{name}.bn")

    def block(self, x: Tensor, name: str, places: tuple[int, ...], stride: int = 1) -> Tensor:
        names = [f"{name}.{place}" for place in places]
        y = self.conv(x, names[0], names[1])
        y = self.conv(y, names[2], names[3], stride)
        y = self.conv(y, names[4], names[5], act=False)
        return x + y if x.shape == y.shape else y

    def halved(self, x: Tensor, name: str) -> Tensor:
        x = self.conv(x, f"neck.{name}.depthwise", f"neck.{name}.dwnorm", 2)
        return self.conv(x, f"neck.{name}.pointwise", f"neck.{name}.pwnorm")

    def stage(self, maps: list[Tensor], name: str) -> Tensor:
        x = torch.cat(maps, 1)
        kept, y = [self.both(x, f"neck.{name}.conv1")], self.both(x, f"neck.{name}.conv2")
        for number in range(2):
            y = self.block(y, f"neck.{name}.convs.{number}.conv.conv", (0, 1, 3, 4, 6, 7))
            kept.append(y)
        return self.both(torch.cat(kept, 1), f"neck.{name}.conv3")

    def backbone(self, x: Tensor, depths: tuple[int, ...]) -> list[Tensor]:
        x = self.conv(x, "backbone.block_list.0.conv.conv1", "backbone.block_list.0.conv.bn1", 2)
        maps = []
        for stage, (depth, stride) in enumerate(zip(depths, (2, 2, 2, 1, 2), strict=True), 1):
            places = [0, *range(1 + (stage == 5), depth + (stage == 5))]
            for place in places:
                name = f"backbone.block_list.{stage}.block_list.{place}.conv"
                x = self.block(x, name, (0, 1, 3, 4, 7, 8), 1 if place else stride)
                if stage == 5 and place == 0:
                    y = self.both(x, "backbone.block_list.5.block_list.1.conv1")
                    pooled = [F.max_pool2d(y, k, 1, k // 2) for k in (5, 9, 13)]
                    x = self.both(torch.cat([y, *pooled], 1), "backbone.block_list.5.block_list.1.conv2")
            maps.append(x)
        return [maps[1], maps[3], maps[4]]

    def outputs(self, x: Tensor, depths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Boxes and scores, level after level."""
        x2, x1, x0 = self.backbone(x, depths)
        x3 = self.stage([x0, self.halved(x1, "bu_conv13")], "merge_3")
        x4 = self.stage([x1, self.halved(x2, "bu_conv24"), F.interpolate(x3, scale_factor=2)], "merge_4")
        x5 = self.stage([x2, F.interpolate(x4, scale_factor=2)], "merge_5")
        x7 = self.stage([x4, self.halved(x5, "bu_conv57")], "merge_7")
        x6 = self.stage([x3, self.halved(x4, "bu_conv46"), self.halved(x7, "bu_conv76")], "merge_6")
        boxes, scores = [], []
        for level, (feature, stride) in enumerate(zip((x5, x7, x6), (8, 16, 32), strict=True)):
            s = self.state
            logits = F.conv2d(feature, s[f"head.gfl_cls.{level}.weight"], s[f"head.gfl_cls.{level}.bias"])
            sides = F.conv2d(feature, s[f"head.gfl_reg.{level}.weight"], s[f"head.gfl_reg.{level}.bias"])
            sides = (sides * s[f"head.scales.{level}.scale"]).unflatten(1, (4, 8)).softmax(2)
            left, top, right, low = ((sides * torch.arange(8.0).view(8, 1, 1)).sum(2) * stride).unbind(1)
            y, x = torch.meshgrid(*(stride * torch.arange(float(n)) for n in feature.shape[2:]), indexing="ij")
            boxes.append(torch.stack([x - left, y - top, x + right, y + low], -1).flatten(1, 2))
            scores.append(logits.sigmoid().flatten(2).transpose(1, 2))
        return torch.cat(boxes, 1), torch.cat(scores, 1)


@pytest.mark.parametrize("size", SIZES)
def test_outputs_are_those_of_the_releases_graph_and_names(size):
    state = _drawn(_names(size, 7))
    given = {**state, "head.integral.project": torch.arange(8.0)}
    model = from_authors(f"damo_yolo_{size}", given)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = _Release(state).outputs(images, BACKBONES[f"tinynas_{size}"].depths)
        found = model.decode(model(images), (64, 96))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)
    assert expected[1].std() > 0.01


def test_widths_are_rounded_to_multiples():
    assert [rounded(width) for width in (3, 11.4, 12, 60, 84, 100)] == [8, 16, 16, 64, 88, 104]


def _targets(*rows: tuple[int, int, tuple[float, ...]]) -> Targets:
    image, classes, boxes = zip(*rows, strict=True) if rows else ((), (), ())
    return Targets(
        torch.tensor(image, dtype=torch.int64),
        torch.tensor(classes, dtype=torch.int64),
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
    )


def _head(classes: int = 3, bins: int = 6) -> tuple[ZeroHead, dict[str, Tensor]]:
    head = ZeroHead(ZeroConfig(bins=bins), (4, 4), (8, 16), classes)
    draw = torch.Generator().manual_seed(3)
    raw = {
        f"{part}{stride}": torch.randn(2, channels, 48 // stride, 64 // stride, generator=draw, dtype=torch.float64)
        for stride in (8, 16)
        for part, channels in (("classes", classes), ("boxes", 4 * bins))
    }
    return head, raw


def _slow_loss(head: ZeroHead, raw: dict[str, Tensor], targets: Targets, found: Tensor) -> dict[str, float]:
    """The release's loss for points that find the objects that they were given, in loops over numbers."""
    points = [
        (x, y, stride, raw[f"classes{stride}"][:, :, y // stride, x // stride],
         raw[f"boxes{stride}"][:, :, y // stride, x // stride])
        for stride in (8, 16) for y in range(0, 48, stride) for x in range(0, 64, stride)
    ]  # fmt: skip
    bins, count, weights = head.row.bins, 0, 0.0
    parts = {"classes": 0.0, "boxes": 0.0, "distances": 0.0}
    for image in range(2):
        for k, (x, y, stride, logits, sides) in enumerate(points):
            scores = [1 / (1 + math.exp(-v)) for v in logits[image].tolist()]
            quality = [0.0] * len(scores)
            m = int(found[image, k])
            if m >= 0:
                count += 1
                wanted = targets.boxes_xyxy[m].tolist()
                means, blurred = [], 0.0
                distances = [x - wanted[0], y - wanted[1], wanted[2] - x, wanted[3] - y]
                for side, distance in enumerate(distances):
                    values = [math.exp(v) for v in sides[image, side * bins : (side + 1) * bins].tolist()]
                    share = [v / sum(values) for v in values]
                    means.append(stride * sum(i * p for i, p in enumerate(share)))
                    target = min(max(distance / stride, 0), bins - 1 - 0.1)
                    low = int(target)
                    blurred -= (low + 1 - target) * math.log(share[low]) + (target - low) * math.log(share[low + 1])
                box = [x - means[0], y - means[1], x + means[2], y + means[3]]
                inter = max(min(box[2], wanted[2]) - max(box[0], wanted[0]), 0) * max(
                    min(box[3], wanted[3]) - max(box[1], wanted[1]), 0
                )
                area = (box[2] - box[0]) * (box[3] - box[1]) + (wanted[2] - wanted[0]) * (wanted[3] - wanted[1]) - inter
                hull = (max(box[2], wanted[2]) - min(box[0], wanted[0])) * (
                    max(box[3], wanted[3]) - min(box[1], wanted[1])
                )
                quality[int(targets.class_ids[m])] = inter / area
                weight = max(scores)
                weights += weight
                parts["boxes"] += 2 * weight * (1 - inter / area + (hull - area) / hull)
                parts["distances"] += 0.25 * weight * blurred / 4
            for p, q in zip(scores, quality, strict=True):
                parts["classes"] -= (q - p) ** 2 * (q * math.log(p) + (1 - q) * math.log(1 - p))
    over = {"classes": max(count, 1), "boxes": max(weights, 1), "distances": max(weights, 1)}
    return {name: value / over[name] for name, value in parts.items()}


def test_its_loss_is_the_releases():
    head, raw = _head()
    targets = _targets((0, 1, (5.0, 6, 39, 33)), (0, 0, (30, 10, 60, 44)), (1, 2, (0, 0, 9, 12)))
    found = head.match(raw, targets, (48, 64))[0].object_index
    assert (found >= 0).sum() >= 3
    slow, parts = _slow_loss(head, raw, targets, found), head.loss(raw, targets, (48, 64))
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(slow, rel=1e-5)


def test_images_without_objects_have_a_loss_of_classes_alone():
    head, raw = _head()
    raw = {name: tensor.requires_grad_() for name, tensor in raw.items()}
    parts = head.loss(raw, _targets(), (48, 64))
    assert parts["boxes"] == parts["distances"] == 0 and parts["classes"] > 0
    torch.stack(list(parts.values())).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in raw.values())


def test_its_backbone_is_a_classifier_and_has_a_partial_form():
    row = {"stem": 8, "widths": (8, 8, 16, 16, 16), "depths": (1, 2, 1, 2, 2)}
    for partial in (None, Partial(), Partial(split="slice", fusion="last")):
        model = crossstage.create_model("tinynas_ns", num_classes=4, partial=partial, **row)
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    with pytest.raises(ConfigError, match="strides are"):
        crossstage.create_model("tinynas_ns", strides=(2, 2, 2, 3, 2))


def test_its_recipe_is_as_published():
    options = TrainOptions.from_recipe("damo_yolo", model="damo_yolo_nl", data="here")
    assert (options.epochs, options.batch, options.imgsz, options.burn_in_epochs) == (300, 256, 416, 5)
    assert (options.optimizer, options.nominal_batch, options.weight_decay) == ("adamw", 256, 0.01)
    assert options.lr == pytest.approx(256 * 0.001 / 64)
    assert options.flat_end * 300 == pytest.approx(16, abs=0.05)
    augment = options.augment
    assert isinstance(augment, Augmentation)
    assert (augment.mixup, augment.degrees, augment.shear, augment.last_epochs_plain) == (0.15, 10, 0.2, 16)


def test_rows_of_classes_are_named():
    head, _ = _head()
    rows, state = head.class_rows(3), head.state_dict()
    assert sorted(rows) == [f"classes.{level}.{leaf}" for level in (0, 1) for leaf in ("bias", "weight")]
    assert all(len(state[name]) == 3 and each == [[0], [1], [2]] for name, each in rows.items())


def test_settings_are_refused_that_do_not_fit():
    with pytest.raises(ConfigError, match="bins is 1"):
        ZeroConfig(bins=1)
    with pytest.raises(ConfigError, match=r"loss\.top is 0"):
        ZeroLoss(top=0)
    with pytest.raises(ConfigError, match=r"loss\.box_gain is -1"):
        ZeroLoss(box_gain=-1)
    with pytest.raises(ConfigError, match="at least two, which it joins"):
        crossstage.create_model("damo_yolo_ns", reads=(32,))


@pytest.mark.parametrize("name", ["cspdarknet53_tiny_giraffe_zero", "csppeleenet_prn_zero", "csppeleenet_efm_zero"])
def test_its_parts_go_with_others_and_all_parameters_learn(name):
    model = crossstage.create_model(name, num_classes=2)
    parts = model.loss(torch.rand(1, 3, 64, 96), _targets((0, 1, (8, 8, 40, 50))))
    torch.stack(list(parts.values())).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    with torch.inference_mode():
        boxes, scores = model.decode(model.eval()(torch.rand(1, 3, 64, 96)), (64, 96))
    assert boxes.shape[1] == scores.shape[1] and boxes.isfinite().all()


def test_weights_are_fused_and_the_same():
    model = crossstage.create_model("damo_yolo_ns", num_classes=2).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        plain, fused = model(images), crossstage.fuse(model)(images)
    for name, expected in plain.items():
        torch.testing.assert_close(fused[name], expected, rtol=1e-4, atol=1e-4)
