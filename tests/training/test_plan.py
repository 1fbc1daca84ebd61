"""What a training does that nobody said anything about: it follows from the data, is told with reasons, and fits."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import crossstage
from crossstage.cli import main
from crossstage.data.augment import Augmentation
from crossstage.data.records import Boxes, ClassificationData, DetectionData, ImageRef
from crossstage.errors import ConfigError
from crossstage.training import TrainOptions, options_of, plan_of, resume, train
from crossstage.training.facts import TrainingData, facts_of
from crossstage.training.loop import Loop
from crossstage.training.options import OPEN, RunOptions
from crossstage.training.plan import STARTS, Pace, as_they_stand, plan_training
from crossstage.training.run import run_training
from crossstage.training.schedule import MOST_BURN_IN, burn_in_steps
from crossstage.weights.starting import start_model

OWN = TrainOptions(data="d")
COCO = replace(OWN, model="cspdarknet53_tiny_yolo.coco")


def detection(images: int, side: int = 640, box: float = 100.0, val: int = 10) -> TrainingData:
    """A dataset of square images, each with two boxes of about one size."""

    def part(count: int) -> DetectionData:
        refs = tuple(ImageRef(number, Path(f"{number}.png"), side, side) for number in range(count))
        sizes = box * np.linspace(0.9, 1.1, 2 * count)
        xywh = np.stack([np.zeros(2 * count), np.zeros(2 * count), sizes, sizes * 1.2], 1)
        columns = Boxes(
            np.arange(0, 2 * count + 1, 2),
            xywh,
            np.arange(2 * count) % 2,
            np.zeros(2 * count, bool),
            xywh[:, 2] * xywh[:, 3],
        )
        return DetectionData(Path("d"), ("a", "b"), refs, columns, (1, 2))

    return TrainingData("coco", "", part(images), part(val), 0)


def classification(images: int) -> TrainingData:
    def part(count: int) -> ClassificationData:
        names = [f"{number}.png" for number in range(count)]
        return ClassificationData(Path("d"), ("a", "b"), names, np.arange(count) % 2, [Path(name) for name in names])

    return TrainingData("folder", "", part(images), part(10), 0)


def why(plan, option: str) -> str:
    return next(choice.why for choice in plan.choices if choice.option == option)


@pytest.mark.parametrize("images", [1, 2, 9, 31, 100, 1000, 20_000])
@pytest.mark.parametrize("model", [None, "cspdarknet53_tiny_yolo"])
def test_a_plan_leaves_nothing_open_and_rises_for_a_tenth_at_most(images, model):
    options = plan_training(replace(OWN, model=model), detection(images)).options
    assert all(getattr(options, name) is not None for name in OPEN)
    assert 1 <= options.batch <= images
    steps = images // options.batch
    total = steps * options.epochs
    assert steps >= min(8, images // 4) or options.batch == 4
    assert burn_in_steps(total, options) <= MOST_BURN_IN * total + 0.5
    assert burn_in_steps(total, replace(options, burn_in=10**6)) <= MOST_BURN_IN * total + 0.5
    assert options.val_every <= max(1, options.epochs // 10)
    assert 1 / (1 - options.ema) <= max(10.01, 0.06 * total)


def test_fewer_images_are_seen_more_often_and_a_start_from_weights_is_shorter():
    epochs = [plan_training(COCO, detection(images)).options.epochs for images in (20, 200, 2000, 20_000)]
    assert epochs == sorted(epochs, reverse=True)
    scratch = plan_training(replace(OWN, model="cspdarknet53_tiny_yolo"), detection(200)).options
    backbone = replace(OWN, model="cspdarknet53_tiny_efm", backbone="cspdarknet53_tiny_yolo.coco")
    assert epochs[1] <= plan_training(backbone, detection(200)).options.epochs < scratch.epochs
    assert (scratch.optimizer, scratch.fit_anchors) == ("adamw", True)


def test_the_start_is_that_of_the_task():
    assert plan_training(OWN, detection(50)).options.model == STARTS["detect"].model
    assert plan_training(OWN, classification(50)).options.model == STARTS["classify"].model


@pytest.mark.parametrize(
    ("side", "box", "imgsz", "reason"),
    [(640, 100.0, 416, "the model's own"), (1920, 15.0, 640, "smaller than"), (200, 50.0, 320, "are enough")],
)
def test_the_input_follows_images_and_boxes(side, box, imgsz, reason):
    plan = plan_training(COCO, detection(50, side, box))
    assert plan.options.imgsz == imgsz and reason in why(plan, "imgsz")


def test_what_is_given_is_kept_and_not_in_the_table():
    given = {"epochs": 7, "batch": 2, "lr": 0.5, "optimizer": "adamw", "imgsz": (64, 96), "ema": 0.0, "val_every": 3}
    plan = plan_training(replace(OWN, **given, augment={"mosaic": 0.25}), detection(50))
    assert {name: getattr(plan.options, name) for name in given} == given
    assert plan.options.augment.mosaic == 0.25 and plan.options.augment.last_epochs_plain == 1
    told = [choice.option for choice in plan.choices]
    assert not {*given, "augment.mosaic"} & set(told) and "augment.scale" in told
    whole = Augmentation(degrees=3)
    assert plan_training(replace(OWN, augment=whole), detection(50)).options.augment == whole


def test_the_rate_follows_the_batch_and_the_optimiser():
    rates = [plan_training(replace(COCO, batch=batch), detection(500)).options.peak_lr for batch in (8, 16, 32)]
    assert rates == pytest.approx([0.001, 0.002, 0.004])
    assert plan_training(replace(COCO, optimizer="adamw"), detection(500)).options.lr == 0.001
    recipe = RunOptions.plain("m", lr=0.01, nominal_batch=64, batch=16)
    assert recipe.peak_lr == pytest.approx(0.0025)


def test_a_published_recipe_is_what_it_says_and_nothing_else():
    options = TrainOptions.from_recipe("coco", model="cspdarknet53_tiny_yolo", data="d")
    plan = plan_training(options, detection(500))
    assert {choice.option for choice in plan.choices} <= {"imgsz", "val_every"}
    assert (plan.options.nesterov, plan.options.label_smoothing, plan.options.momentum) == (False, 0.0, 0.9)


def test_batch_norms_of_a_short_training_follow_as_fast_as_its_average():
    def momentum(epochs: int, model: str = "cspdarknet53_tiny_yolo") -> float | None:
        return plan_training(replace(OWN, model=model, epochs=epochs), detection(160)).options.norm_momentum

    assert momentum(30) == pytest.approx(20 / 300, abs=1e-4)  # 10 steps an epoch, an average over a twentieth of them
    assert momentum(1) == 0.1
    assert momentum(300) is None  # 3,000 steps: the model's own 0.01 is fast enough
    assert momentum(30, "cspdarknet_x_micro_pafpn_rtmdet") == momentum(30)
    assert momentum(100, "cspdarknet_x_micro_pafpn_rtmdet") is None  # so is its 0.03 for 1,000
    given = plan_training(replace(OWN, model="cspdarknet53_tiny_yolo", norm_momentum=0.5), detection(160))
    assert given.options.norm_momentum == 0.5


def test_a_training_has_the_momentum_of_its_plan(shapes, tmp_path, monkeypatch):
    class Begun(Exception):
        """The training would begin now."""

    def begin(loop: Loop) -> None:
        raise Begun({m.momentum for m in loop.inner.modules() if isinstance(m, torch.nn.BatchNorm2d)})

    monkeypatch.setattr(Loop, "run", begin)
    options = RunOptions.plain(
        "cspdarknet53_tiny_prn_rtmdet", str(shapes), imgsz=64, workers=0, out=str(tmp_path), norm_momentum=0.05
    )
    with pytest.raises(Begun) as begun:
        run_training(options, tmp_path / "run", quiet=True)
    (momenta,) = begun.value.args
    assert momenta == {0.05, 0.1}  # the backbone's had 0.01; norms that are faster stay so


def test_a_plan_is_planned_once():
    plan = plan_training(OWN, detection(50))
    again = plan_training(TrainOptions.from_mapping(yaml.safe_load(plan.options.to_yaml()), "x"), detection(50))
    assert again.choices == () and again.options == plan.options


def test_time_chooses_the_epochs():
    pace = Pace(step=0.5, val=2.0)
    options = plan_training(replace(OWN, minutes=10), detection(160, val=40), pace).options
    spent = options.epochs * (10 * 0.5 + 2.0 / options.val_every)
    assert 0.9 * 600 < spent < 600 - 2 * 2.0
    assert plan_training(replace(OWN, minutes=10, epochs=3), detection(160), pace).options.epochs == 3
    costly = plan_training(replace(OWN, minutes=60), detection(160), Pace(step=0.1, val=10.0)).options
    assert costly.val_every > 1


def test_anchors_that_fit_badly_are_fitted_anew():
    wide = detection(50)
    wide.train.boxes.xywh[:, 3] /= 12
    assert plan_training(COCO, wide).options.fit_anchors
    assert not plan_training(COCO, detection(50)).options.fit_anchors
    none = detection(50)
    none.train.boxes.crowd[:] = True
    assert not plan_training(COCO, none).options.fit_anchors


def test_facts_are_counted():
    facts = facts_of(detection(100, 500, 50.0))
    assert (facts.images, facts.val_images, facts.classes, facts.image_side, facts.boxes) == (100, 10, 2, 500, 200)
    assert facts.box_share == pytest.approx(0.1 * 1.2**0.5, rel=0.1)


def test_options_that_are_open_make_no_run():
    with pytest.raises(ConfigError, match="is open; expected the options of a plan"):
        as_they_stand(OWN, "detect")


def test_a_dry_run_prints_the_plan_and_trains_nothing(shapes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(shapes), "--plan", "--batch", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["model", STARTS["detect"].model] for line in lines)
    assert not any(line.startswith("batch") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_the_dataset_alone_is_enough(shapes, tmp_path, capsys):
    few = ["--epochs", "1", "--imgsz", "64", "96", "--workers", "0", "--accelerator", "cpu", "--out", str(tmp_path)]
    assert main(["train", *few, str(shapes), "--name", "run"]) == 0
    assert "recipe scratch" in capsys.readouterr().err
    run = tmp_path / "run"
    table = json.loads((run / "plan.json").read_text())
    assert {"option", "value", "why"} == set(table[0]) and table[0]["option"] == "model"
    assert options_of(run).imgsz == (64, 96) and options_of(run).model == STARTS["detect"].model
    assert crossstage.load(run).preprocessing.size == (64, 96)
    assert main(["val", "--data", str(shapes), "--model", str(run), "--imgsz", "96,64"]) == 0
    told = capsys.readouterr().out
    assert "kept: score 0.001 (--conf), IoU 0.65 (iou; --iou, --nms), 100 of an image (--max-detections)" in told
    assert "YOLOX test_conf 0.01, nmsthre 0.65" in told
    assert main(["train"]) == 2
    assert "the dataset is missing" in capsys.readouterr().err


def test_a_training_has_the_epochs_that_fit(colours, tmp_path, monkeypatch):
    monkeypatch.setattr("crossstage.training.start.pace_of", lambda options, data: Pace(step=0.5, val=1.0))
    monkeypatch.setattr("crossstage.training.start._run", lambda options, folder, **_: options)
    options = train(TrainOptions("resnet18", str(colours), minutes=5, out=str(tmp_path), name="m"))
    assert isinstance(options, RunOptions) and vars(options) == vars(options_of(tmp_path / "m"))
    spent = options.epochs * (0.5 * (48 // options.batch) + 1.0 / options.val_every)
    assert 250 < spent < 300


@pytest.mark.slow
def test_a_training_keeps_to_its_minutes(colours, tmp_path):
    options = TrainOptions(
        "resnet18", str(colours), minutes=0.35, imgsz=32, workers=0, accelerator="cpu", sample_every=0
    )
    began = time.monotonic()
    result = train(replace(options, out=str(tmp_path), name="m"))
    assert time.monotonic() - began < 60
    known = options_of(result.folder)
    assert known.epochs == len(result.history) > 1
    assert resume(result.folder).history == result.history


def test_the_plan_of_python_is_that_of_the_command_line(shapes):
    plan = plan_of(TrainOptions(data=str(shapes)))
    assert plan.lines() and json.loads(plan.to_json())


@pytest.mark.parametrize(
    "parts", ["efm_yolox", "csp_pafpn_rtmdet", "tiny_fpn_yolo", "retina_fpn_fcos", "deconv_centernet"]
)
def test_the_coco_start_starts_any_neck_and_head_on_its_backbone(parts):
    """The backbone gives the very maps that it gave, for images of any preprocessing."""
    coco = crossstage.load("cspdarknet53_tiny_yolo.coco")
    name = f"cspdarknet53_tiny_{parts}" if parts != "tiny_fpn_yolo" else "cspdarknet53_tiny_yolo"
    started = start_model(name, ("a", "b"), backbone="cspdarknet53_tiny_yolo.coco", imgsz=64)
    assert not [name for name in started.transfer.fresh if name.startswith("backbone.")]
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        own = started.model.eval().backbone(started.spec.preprocessing.normalise(images))
        theirs = coco.backbone(coco.preprocessing.normalise(images))
    torch.testing.assert_close(own[-1], theirs[-1], atol=1e-3, rtol=1e-3)
