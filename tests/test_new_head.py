"""A head that this file defines: everything else works with it, and no other file knows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

import crossstage
from crossstage.data.augment import Augmentation
from crossstage.data.find import find_data
from crossstage.deploy.export import export
from crossstage.errors import ConfigError, ExportError
from crossstage.evaluation import evaluate
from crossstage.models.heads import HEADS, Head, HeadConfig
from crossstage.models.rows import decode
from crossstage.ops.boxes import cell_grid
from crossstage.ops.nms import NMS, for_evaluation
from crossstage.structures import Targets
from crossstage.training import resume, train
from crossstage.training.options import TrainOptions
from crossstage.weights.starting import start_model
from tests.conftest import PHOTOS
from tests.sweep import sweep


@dataclass(frozen=True)
class DotLoss:
    """How the head is trained."""

    box_gain: float = 2.0


@dataclass(frozen=True, kw_only=True)
class DotConfig(HeadConfig):
    """One prediction for each cell: distances to the four sides, in strides, and a score for each class."""

    smallest: float = 2.0  # of an object at a map, in strides, but for the finest map
    largest: float = float("inf")
    loss: DotLoss = field(default_factory=DotLoss)

    @cached_property
    def signs(self) -> tuple[float, ...]:
        """No field, and so nothing that a file holds."""
        return (-1.0, -1.0, 1.0, 1.0)

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> DotHead:
        return DotHead(self, channels, strides, num_classes)


class DotHead(Head):
    shared_rows = "sides"
    row: DotConfig

    def __init__(self, row: DotConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        self.sides = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in channels)
        self.classes = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in channels)

    @property
    def raw_names(self) -> tuple[str, ...]:
        return tuple(f"{part}{stride}" for stride in self.strides for part in ("sides", "classes"))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        raw = {}
        for stride, feature, sides, classes in zip(self.strides, features, self.sides, self.classes, strict=True):
            raw[f"sides{stride}"], raw[f"classes{stride}"] = sides(feature), classes(feature)
        return raw

    def decode(self, raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        boxes, scores = [], []
        for stride in self.strides:
            sides = raw[f"sides{stride}"]
            column, row = cell_grid(sides.shape[2], sides.shape[3], sides)
            centre = torch.stack([column, row, column, row]) + 0.5
            signed = sides.clamp(max=8).exp() * sides.new_tensor(self.row.signs).view(1, 4, 1, 1)
            boxes.append(((centre + signed) * stride).flatten(2).transpose(1, 2))
            scores.append(raw[f"classes{stride}"].sigmoid().flatten(2).transpose(1, 2))
        return torch.cat(boxes, 1), torch.cat(scores, 1)

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        rows = [[class_id] for class_id in range(num_classes)]
        return {f"classes.{n}.{part}": rows for n in range(len(self.strides)) for part in ("weight", "bias")}

    def loss(self, raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        boxes, _ = self.decode(raw, image_size)
        logits = torch.cat([raw[f"classes{stride}"].flatten(2).transpose(1, 2) for stride in self.strides], 1)
        wanted = torch.zeros_like(logits)
        sides = (targets.boxes_xyxy[:, 2:] - targets.boxes_xyxy[:, :2]).amax(1)
        centres = (targets.boxes_xyxy[:, 2:] + targets.boxes_xyxy[:, :2]) / 2
        first, cells, image, of = 0, [], [], []
        for number, stride in enumerate(self.strides):
            height, width = raw[f"sides{stride}"].shape[2:]
            low = self.row.smallest * stride if number else 0
            high = self.row.smallest * self.strides[number + 1] if number + 1 < len(self.strides) else self.row.largest
            mine = ((sides >= low) & (sides < high)).nonzero().squeeze(1)
            column = (centres[mine, 0] / stride).long().clamp(0, width - 1)
            row = (centres[mine, 1] / stride).long().clamp(0, height - 1)
            cells.append(first + row * width + column)
            image.append(targets.image_index[mine])
            of.append(mine)
            first += height * width
        at = torch.cat(image), torch.cat(cells)
        of = torch.cat(of)
        wanted[(*at, targets.class_ids[of])] = 1
        box = generalized_box_iou_loss(boxes[at], targets.boxes_xyxy[of], reduction="sum")
        objects = max(1, len(of))
        return {
            "sides": self.row.loss.box_gain * box / objects,
            "scores": F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / objects,
        }


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    HEADS["dot"] = DotConfig()
    yield
    del HEADS["dot"]


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    """A training that was stopped after half of its epochs, and went on."""
    folder = tmp_path_factory.mktemp("dot")
    options = TrainOptions(
        "cspdarknet53_tiny_tiny_fpn_dot", str(shapes), imgsz=64, epochs=8, batch=8, workers=0, out=str(folder),
        name="run", loss={"box_gain": 1.5}, optimizer="adamw", lr=0.003, burn_in=0, ema=0.5, val_every=4,
        sample_every=0, weight_decay=0.0005, schedule="cosine",
        augment=Augmentation(mosaic=0, scale=0, translate=0, hue=0, saturation=0, brightness=0),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 4)
        train(options)
    return resume(folder / "run")


@pytest.mark.parametrize(("backbone", "neck"), [("csppeleenet", "efm"), ("vovnet19_slim_dw_v2", "panet")])
def test_it_is_named_and_composed_with_any_backbone_and_neck(backbone, neck):
    detector = crossstage.create_detector(backbone, neck, head="dot", num_classes=3)
    same = crossstage.create_model(f"{backbone}_{neck}_dot", num_classes=3, smallest=3.0)
    assert isinstance(detector.head, DotHead) and same.head.row.smallest == 3.0
    raw = detector(torch.rand(1, 3, 64, 64))
    assert list(raw) == ["sides8", "classes8", "sides16", "classes16", "sides32", "classes32"]
    assert crossstage.model_info(f"{backbone}_{neck}_dot").parameters > 0


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="did you mean smallest"):
        crossstage.create_model("csppeleenet_efm_dot", smalest=1.0)
    with pytest.raises(ConfigError, match="head 'dots' is unknown; did you mean dot"):
        crossstage.create_detector("csppeleenet", "efm", head="dots")


def test_it_trains_and_goes_on_from_a_checkpoint(run):
    assert [row["epoch"] for row in run.history] == list(range(1, 9))
    assert run.history[-1]["sides"] < run.history[0]["sides"]
    assert {"sides", "scores"} < run.history[0].keys()
    assert run.best > 0.02


def test_loss_settings_are_the_heads_own(shapes, tmp_path):
    options = TrainOptions("cspdarknet53_tiny_tiny_fpn_dot", str(shapes), imgsz=64, epochs=1, batch=8, workers=0)
    for change, message in (
        ({"loss": {"objectness_gain": 1}}, "loss has no setting 'objectness_gain' for DotConfig; expected one of box"),
        ({"class_weights": "balanced"}, "class_weights: the loss of a DotHead does not weigh classes"),
        ({"fit_anchors": True}, "has no anchors"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(TrainOptions(**{**vars(options), **change, "out": str(tmp_path)}))


def test_weights_are_saved_loaded_and_carried_over_to_other_classes(run):
    stored = crossstage.load(run.folder)
    assert stored.class_names == ("circle", "square") and isinstance(stored.head, DotHead)
    started = start_model(run.folder, ("square", "triangle"))
    assert re.search("classes.0.weight .1 class(es)? of the same name", str(started.transfer))
    mine, theirs = started.model.head.classes[0], stored.head.classes[0]
    assert torch.equal(mine.weight[0], theirs.weight[1]) and not torch.equal(mine.weight[1], theirs.weight[0])
    assert torch.equal(started.model.head.sides[1].weight, stored.head.sides[1].weight)


def test_it_predicts_and_is_evaluated(run, shapes):
    detector = crossstage.load(run.folder)
    (found,) = detector.predict(PHOTOS / "000000000471.jpg", conf=0.001, max_detections=7)
    assert len(found) == 7 and set(found.data["class_name"]) <= {"circle", "square"}
    report = evaluate(detector, find_data(shapes).read("val"))
    assert report.ap == pytest.approx(run.best, abs=1e-6)


def test_fused_it_computes_the_same(run):
    detector = crossstage.load(run.folder)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        plain, fused = detector(images), crossstage.fuse(detector)(images)
    for name, expected in plain.items():
        torch.testing.assert_close(fused[name], expected, rtol=1e-4, atol=1e-4)


def test_it_is_profiled():
    cost = crossstage.profile("csppeleenet_efm_dot", 64)
    assert cost.bflops > crossstage.profile("csppeleenet", 64).bflops * 0.9
    assert any(layer.name.startswith("head.sides") for layer in cost.layers)


@pytest.mark.parametrize(
    "way",
    sweep(
        [(kind, format) for format in ("onnx", "openvino") for kind in ("nms", "raw", "decode")],
        lambda way: way[1],
        always=[("raw", "onnx")],
    ),
)
def test_exported_files_run_elsewhere(run, tmp_path, way):
    kind, format = way
    pytest.importorskip("onnxruntime" if format == "onnx" else "openvino")
    detector = crossstage.load(run.folder)
    nms = NMS(0.05, 0.45)
    done = export(detector, "dot", format, tmp_path / f"dot{'.onnx' if format == 'onnx' else '_openvino'}",
                  decode=kind == "decode", nms=nms if kind == "nms" else None)  # fmt: skip
    image = np.asarray(crossstage.inference.images.load_image(PHOTOS / "000000000471.jpg"))
    opened = crossstage.open_model(done.path)
    (mine,) = detector.predict(image, conf=0.05, max_detections=20)
    (theirs,) = opened.predict(image, conf=0.05, max_detections=20)
    assert len(mine) and len(theirs) == len(mine)
    np.testing.assert_allclose(np.sort(theirs.confidence), np.sort(mine.confidence), atol=1e-3)
    np.testing.assert_allclose(np.sort(theirs.xyxy, 0), np.sort(mine.xyxy, 0), atol=1.0)


def test_an_exported_files_score_is_the_models(run, shapes, tmp_path):
    pytest.importorskip("onnxruntime")
    detector = crossstage.load(run.folder)
    done = export(detector, "dot", "onnx", tmp_path / "dot.onnx")
    val = find_data(shapes).read("val")
    theirs = crossstage.open_model(done.path).detector
    assert evaluate(theirs, val, nms=for_evaluation(NMS())).ap == pytest.approx(evaluate(detector, val).ap, abs=1e-4)


def test_rows_that_files_cannot_tell_apart_are_refused(run, monkeypatch):
    @dataclass(frozen=True)
    class YoloLossConfig:
        gain: float = 1.0

    @dataclass(frozen=True, kw_only=True)
    class Other(DotConfig):
        loss: YoloLossConfig = field(default_factory=YoloLossConfig)

    Other.__annotations__["loss"] = YoloLossConfig
    monkeypatch.setitem(HEADS, "other", Other())
    with pytest.raises(ConfigError, match=r"YoloLossConfig.*which files cannot tell apart"):
        _ = decode({"DotLoss": {"box_gain": 1.0}})


def test_a_raw_tensor_named_as_the_input_is_refused(run, tmp_path, monkeypatch):
    detector = crossstage.load(run.folder)
    names = detector.head.raw_names
    monkeypatch.setattr(DotHead, "raw_names", property(lambda head: ("images", *names[1:])))
    with pytest.raises(ExportError, match="has an output 'images', which is the input's name"):
        export(detector, "dot", "onnx", tmp_path / "dot.onnx")
