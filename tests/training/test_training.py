"""Trainings that run to their end, what they leave behind, and what stops them."""

import csv
import json
import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import crossstage
from crossstage.cli import main
from crossstage.data.augment import Augmentation
from crossstage.data.find import find_data
from crossstage.data.loading import train_loader
from crossstage.errors import ConfigError, DataError, TrainingError
from crossstage.training import TrainOptions, load_recipe, recipe_names, train
from crossstage.training.options import RunOptions
from crossstage.training.schedule import MovingAverage, build_optimizer, burn_in_steps, rate_factor
from crossstage.training.tasks import DetectionTask, balanced
from crossstage.weights.model_file import read_spec
from crossstage.weights.starting import start_model
from tests.sweep import sweep

DETECTOR = TrainOptions(
    model="cspdarknet53_tiny_yolo.coco", data="", epochs=2, imgsz=96, batch=8, workers=0, burn_in=2, accelerator="cpu"
)
WHOLE = RunOptions.plain("m", lr=0.1, epochs=2)
CLASSIFIER = replace(DETECTOR, model="resnet18", imgsz=64, lr=0.02)


@pytest.fixture(scope="module")
def detector_run(shapes, tmp_path_factory) -> Path:
    options = replace(DETECTOR, data=str(shapes), out=str(tmp_path_factory.mktemp("runs")), name="d", epochs=8, lr=0.01)
    return train(options).folder


@pytest.fixture(scope="module")
def classifier_run(colours, tmp_path_factory) -> Path:
    augment = crossstage.training.options.Augmentation(cutmix=0.3, mixup=0.3, mosaic_labels=0.3, last_epochs_plain=2)
    options = replace(CLASSIFIER, model="resnet10", data=str(colours), epochs=6)
    options = replace(options, out=str(tmp_path_factory.mktemp("runs")), name="c")
    return train(replace(options, augment=augment, label_smoothing=0.1, schedule="poly")).folder


def rows_of(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_detector_learns(detector_run):
    rows = rows_of(detector_run)
    total = [row["box"] + row["objectness"] + row["classes"] for row in rows]
    assert total[-1] < 0.5 * total[0]
    assert max(row["AP50"] for row in rows) > 0.5


def test_a_classifier_learns(classifier_run):
    assert max(row["top1"] for row in rows_of(classifier_run)) > 0.9


@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_a_run_leaves_all_there_is_to_know(kind, request):
    run = request.getfixturevalue(f"{kind}_run")
    names = {path.name for path in run.iterdir()}
    expected = {"config.yaml", "best.safetensors", "last.safetensors", "state.ckpt", "metrics.csv", "report.json"}
    expected |= {"confidence.csv", "confidence.png"}
    expected |= {"curves.png", "confusion.png", "per_class.csv", "README.md", "samples", "tensorboard", "plan.json"}
    assert names == expected | ({"pr_curve.png"} if kind == "detector" else set())
    for image in [*run.glob("*.png"), *run.glob("samples/*.jpg")]:
        assert np.asarray(Image.open(image)).std() > 1
    assert len(list(run.glob("samples/*.jpg"))) >= 3
    best = max(rows_of(run), key=lambda row: row["AP" if kind == "detector" else "top1"])
    report = json.loads((run / "report.json").read_text())
    assert report["ap" if kind == "detector" else "top1"] == pytest.approx(best["AP" if kind == "detector" else "top1"])
    card = (run / "README.md").read_text()
    assert f"epoch {int(best['epoch'])}" in card
    assert crossstage.__version__ in card
    spec = read_spec(run / "best.safetensors")
    assert spec.class_names == (("circle", "square") if kind == "detector" else ("blue", "green", "red"))
    assert spec.preprocessing.size == ((96, 96) if kind == "detector" else (64, 64))


def test_the_configuration_of_a_run_runs_again(detector_run, tmp_path):
    config = detector_run / "config.yaml"
    assert yaml.safe_load(config.read_text())["model"] == DETECTOR.model
    words = ["train", "--config", str(config), "--name", "again", "--out", str(tmp_path), "--epochs", "1"]
    assert main(words) == 0
    assert yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())["epochs"] == 1


def test_predict_and_val_take_the_folder_of_a_run(detector_run, classifier_run, shapes, colours, capsys, tmp_path):
    assert main(["val", "--model", str(detector_run), "--data", str(shapes), "--json", str(tmp_path / "d.json")]) == 0
    report = json.loads((tmp_path / "d.json").read_text())
    assert report["ap"] == pytest.approx(max(row["AP"] for row in rows_of(detector_run)), abs=1e-3)
    images = shapes / "images" / "val"
    assert main(["predict", str(images), "--model", str(detector_run), "--save", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*"))) == 12
    assert (
        main(["val", "--model", str(classifier_run), "--data", str(colours), "--json", str(tmp_path / "c.json")]) == 0
    )
    report = json.loads((tmp_path / "c.json").read_text())
    assert report["top1"] == pytest.approx(max(row["top1"] for row in rows_of(classifier_run)), abs=1e-6)
    lines = tmp_path / "c.jsonl"
    red = colours / "val" / "red"
    assert main(["predict", str(red), "--model", str(classifier_run), "--json", str(lines)]) == 0
    assert "7 images: 7 red" in capsys.readouterr().out
    assert json.loads(lines.read_text().splitlines()[0])["classes"][0]["class_name"] == "red"
    (first, *_) = crossstage.load(classifier_run).predict(red, top=2)
    assert first.class_names[0] == "red"
    assert len(first.probabilities) == 2
    assert main(["val", "--model", str(classifier_run), "--data", str(shapes)]) == 2
    copies = tmp_path / "copies"
    assert main(["predict", str(red), "--model", str(classifier_run), "--save", str(copies)]) == 0
    assert len(list(copies.iterdir())) == 7


def test_what_was_learnt_is_where_another_training_starts(detector_run, shapes, tmp_path):
    options = replace(DETECTOR, model=str(detector_run), data=str(shapes), out=str(tmp_path), epochs=1, lr=0.0001)
    result = train(options)
    assert result.folder.name == "d-shapes0" or result.folder.name.startswith("d-shapes")
    assert result.best > 0.5 * max(row["AP"] for row in rows_of(detector_run))


def test_a_task_must_be_the_models(shapes, colours, tmp_path):
    with pytest.raises(ConfigError, match=r"holds boxes, and resnet18 is a classifier"):
        train(replace(CLASSIFIER, data=str(shapes), out=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"holds labels, and cspdarknet53_tiny_yolo\.coco is a detector"):
        train(replace(DETECTOR, data=str(colours), out=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"resize is 'crop', which cuts objects off"):
        train(replace(DETECTOR, data=str(shapes), out=str(tmp_path), resize="crop"))
    assert list(tmp_path.iterdir()) == []


def test_broken_labels_are_refused_or_skipped_and_counted(tmp_path, shapes, capfd):
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text())
    content["annotations"][0]["bbox"][2] = -5
    (tmp_path / "annotations").mkdir()
    (tmp_path / "images").symlink_to(shapes / "images")
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    (tmp_path / "annotations" / "instances_val.json").symlink_to(shapes / "annotations" / "instances_val.json")
    words = ["train", "--model", "cspdarknet53_tiny_yolo", "--data", str(tmp_path), "--imgsz", "64", "--epochs", "1"]
    words += ["--out", str(tmp_path / "runs"), "--workers", "0", "--accelerator", "cpu"]
    assert main(words) == 2
    assert "annotation 1: bbox" in capfd.readouterr().err
    assert main([*words, "--on-bad-label", "skip"]) == 0
    assert "1 broken labels are skipped" in capfd.readouterr().err


def poison(monkeypatch, epoch: int) -> None:
    """A loss that is not finite, in the batch of one image in one epoch."""
    original = DetectionTask.losses

    def poisoned(self, model, batch, step):
        parts = original(self, model, batch, step)
        bad = batch.epoch == epoch and any(name.endswith("/3.png") for name in batch.names)
        return {name: part * float("nan") for name, part in parts.items()} if bad else parts

    monkeypatch.setattr(DetectionTask, "losses", poisoned)


def test_a_loss_that_is_not_finite_stops_with_step_and_files(shapes, tmp_path, monkeypatch):
    poison(monkeypatch, 1)
    with pytest.raises(TrainingError, match=r"the loss of step \d \(epoch 2\) is not finite; its images: .*/3\.png"):
        train(replace(DETECTOR, data=str(shapes), out=str(tmp_path), name="nan"))
    assert (tmp_path / "nan" / "state.ckpt").exists()  # of epoch 1


def test_a_loss_that_is_not_finite_can_be_skipped(shapes, tmp_path, monkeypatch, capfd):
    poison(monkeypatch, 0)
    result = train(replace(DETECTOR, data=str(shapes), out=str(tmp_path), name="nan", on_nan="skip"))
    assert "skipped: the loss of step" in capfd.readouterr().err
    assert len(result.history) == 2
    weights = load_file(tmp_path / "nan" / "last.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values() if tensor.is_floating_point())
    assert "1 steps skipped" in (tmp_path / "nan" / "README.md").read_text()


def test_a_frozen_backbone_stays_as_it_was(shapes, tmp_path):
    options = replace(DETECTOR, data=str(shapes), out=str(tmp_path), name="f", freeze_backbone=True, epochs=1, lr=0.1)
    train(options)
    before = crossstage.load("cspdarknet53_tiny_yolo.coco").state_dict()
    after = load_file(tmp_path / "f" / "last.safetensors")
    for name, tensor in after.items():
        if name.startswith("backbone."):
            torch.testing.assert_close(tensor, before[name], msg=name)
    assert any(not torch.equal(after[name], before[name]) for name in after if name.startswith("neck."))


def test_training_stops_when_nothing_improves(colours, tmp_path, capfd):
    options = replace(CLASSIFIER, data=str(colours), out=str(tmp_path), name="p", epochs=50, patience=2, lr=1e-9, ema=0)
    result = train(options)
    assert len(result.history) == result.best_epoch + 2 < 50
    assert "stopped early" in capfd.readouterr().err


@pytest.mark.parametrize(
    "change",
    sweep(
        [
            {"optimizer": "adamw", "schedule": "step", "steps": (0.5,), "clip": 0.0},
            {"accumulate": 2, "multi_scale": 0.4, "class_weights": "balanced", "fit_anchors": False},
            {"precision": "bf16", "schedule": "constant", "ema": 0.0, "act": "mish"},
            {"fit_anchors": True, "val_every": 2, "resize": "letterbox"},
        ],
        lambda change: "val_every" in change,
    ),
)
def test_options_train(shapes, tmp_path, change):
    options = replace(DETECTOR, model="cspdarknet53_tiny_yolo", data=str(shapes), out=str(tmp_path), name="o", **change)
    result = train(options)
    assert len(result.history) == 2
    spec = read_spec(tmp_path / "o" / "best.safetensors")
    assert spec.overrides.get("act") == change.get("act")
    assert ("levels" in spec.overrides) == change.get("fit_anchors", True)  # the plan's choice from scratch
    assert ("AP" in result.history[0]) == (change.get("val_every", 1) == 1)
    assert spec.preprocessing.resize == change.get("resize", "stretch")
    crossstage.load(tmp_path / "o")


def test_the_processes_that_prepare_images_end_with_the_training(colours, tmp_path, monkeypatch):
    """They heed no signal: a program that left them would never end."""
    options = replace(CLASSIFIER, data=str(colours), out=str(tmp_path), epochs=1, imgsz=32, workers=1, sample_every=0)
    train(options)
    assert multiprocessing.active_children() == []
    monkeypatch.setattr("crossstage.training.loop.Loop._finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        train(options)
    assert multiprocessing.active_children() == [] and caught.tb  # which keeps the frames of the training


def test_runs_without_a_name_get_one_of_their_own(colours, tmp_path):
    options = replace(CLASSIFIER, data=str(colours), out=str(tmp_path), epochs=1)
    first, second = train(options).folder, train(options).folder
    assert first.name.startswith("resnet18-colours")
    assert second.name == f"{first.name}-2"


def test_every_recipe_is_a_set_of_options(capsys):
    assert recipe_names() == sorted(recipe_names())
    assert {"coco", "coco_optimal", "finetune", "imagenet", "centernet", "thundernet"} < set(recipe_names())
    for name in recipe_names():
        TrainOptions.from_mapping({"model": "m", "data": "d", **load_recipe(name)}, name)
    options = TrainOptions.from_recipe("imagenet_omega", model="cspresnet50", data="d", epochs=3)
    assert (options.model, options.epochs, options.act, options.augment.cutmix) == ("cspresnet50", 3, "mish", 0.33)
    assert load_recipe("imagenet_omega") == {**load_recipe("imagenet_gamma"), "act": "mish"}
    assert load_recipe("imagenet_densenet") == {**load_recipe("imagenet"), "epochs": 160}
    assert main(["train", "--config", "no_such", "--model", "m", "--data", "d"]) == 2
    assert "coco, coco_optimal" in capsys.readouterr().err


def test_command_line_overrides_a_recipe(tmp_path, capsys):
    words = [
        "train",
        "--config",
        "imagenet_gamma",
        "--model",
        "resnet18",
        "--data",
        str(tmp_path / "no"),
        "--epochs",
        "1",
    ]
    assert main(words) == 2
    assert "no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"batch": 9, "accumulate": 2}, r"batch is 9; expected a multiple of 2 \(devices x nodes x accumulate\)"),
        ({"lr": 0.0}, "lr is 0.0; expected more than 0"),
        ({"momentum": 1.5}, "momentum is 1.5; expected 0 to 1"),
        ({"steps": (1.5,)}, r"steps are \(1.5,\); expected shares"),
        ({"strategy": "fsdp", "ema": 0.9}, "expected ema=0"),
        ({"multi_scale": 1.0}, "expected 0 to below 1"),
        ({"patience": -1}, "patience is -1; expected 0 or more"),
        ({"resize": "letterboxx"}, "resize is 'letterboxx'; expected one of .*did you mean letterbox"),
        ({"optimizer": "adam"}, "optimizer is 'adam'; expected one of sgd, adamw; did you mean adamw"),
    ],
)
def test_options_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(DETECTOR, **change)


def test_a_device_that_is_not_there_is_refused(shapes, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match=r"1 x cuda, auto: "):
        train(replace(DETECTOR, data=str(shapes), out=str(tmp_path), accelerator="cuda"))
    assert list(tmp_path.iterdir()) == []


def test_yaml_of_options_is_read_back():
    options = replace(DETECTOR, steps=(0.5, 0.7), loss={"box": "giou", "box_gain": 2.5})
    assert TrainOptions.from_mapping(yaml.safe_load(options.to_yaml()), "x") == options
    with pytest.raises(ConfigError, match="x: unknown option 'epoch'"):
        TrainOptions.from_mapping({"model": "a", "data": "b", "epoch": 1}, "x")
    with pytest.raises(ConfigError, match=r"x: augment has no 'mosaik'; did you mean mosaic"):
        TrainOptions.from_mapping({"model": "a", "data": "b", "augment": {"mosaik": 1}}, "x")


def test_rates_rise_then_fall_as_the_sources_say():
    options = replace(WHOLE, burn_in=10, burn_in_power=4)
    assert rate_factor(4, 100, options) == pytest.approx((5 / 10) ** 4)
    assert rate_factor(50, 100, replace(options, schedule="poly")) == pytest.approx(0.5**4)
    assert rate_factor(50, 100, replace(options, schedule="cosine", final_lr=0.1)) == pytest.approx(0.55)
    steps = replace(options, schedule="step", steps=(0.8, 0.9))
    assert [rate_factor(at, 100, steps) for at in (79, 80, 90)] == pytest.approx([1, 0.1, 0.01])
    assert rate_factor(99, 100, replace(options, schedule="constant")) == 1
    linear = replace(options, schedule="linear", final_lr=0.2)
    assert [rate_factor(at, 100, linear) for at in (50, 100)] == pytest.approx([0.6, 0.2])
    flat = replace(options, schedule="flat_cosine", final_lr=0.05)  # RTMDet
    assert [rate_factor(at, 100, flat) for at in (10, 49, 75, 100)] == pytest.approx([1, 1, 0.525, 0.05])
    yolox = replace(options, final_lr=0.05, flat_end=0.05, burn_in_epochs=0.05, epochs=1, burn_in_power=2)
    assert rate_factor(1, 100, yolox) == pytest.approx((2 / 5) ** 2)
    assert [rate_factor(at, 100, yolox) for at in (95, 99)] == pytest.approx([0.05, 0.05])
    assert rate_factor(94, 100, yolox) > 0.05


def test_the_rate_never_rises_for_more_than_a_tenth_of_a_training():
    """16 images in batches of 16 never left a burn-in of 100 steps."""
    options = replace(WHOLE, burn_in=100)
    assert [burn_in_steps(total, options) for total in (8, 40, 2000)] == [1, 4, 100]
    assert rate_factor(4, 40, options) < 1 and rate_factor(3, 40, options) == 1
    assert rate_factor(39, 40, options) < 0.02


def test_norms_and_biases_do_not_decay():
    model = crossstage.create_model("resnet18", num_classes=3)
    decaying, still = build_optimizer(model, WHOLE).param_groups
    assert decaying["weight_decay"] == WHOLE.weight_decay == 0.0005
    assert still["weight_decay"] == 0
    assert all(parameter.dim() > 1 for parameter in decaying["params"])
    assert all(parameter.dim() == 1 for parameter in still["params"])
    assert len(decaying["params"]) + len(still["params"]) == len(list(model.parameters()))


def test_a_moving_average_is_what_its_formula_says():
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    average, expected = MovingAverage(layer, 0.9), 0.0
    for step in range(1, 40):
        layer.weight.data.fill_(float(step))
        average.update(layer)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.module.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_the_decay_of_an_average_comes_in_over_its_ramp():
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(0.0)
    average, expected = MovingAverage(layer, 0.99, ramp=20), 0.0
    for step in range(1, 40):
        layer.weight.data.fill_(float(step))
        average.update(layer)
        decay = 0.99 * (1 - math.exp(-step / 20)) if step > 1 else 0.0  # the first is a copy
        expected = decay * expected + (1 - decay) * step
    assert float(average.module.weight.detach()) == pytest.approx(expected, rel=1e-5)


def test_momentum_is_nesterovs_if_it_is_to_be():
    model = torch.nn.Linear(2, 2)
    (group, *_) = build_optimizer(model, replace(WHOLE, nesterov=True)).param_groups
    assert group["nesterov"] and group["momentum"] == 0.9
    assert not build_optimizer(model, replace(WHOLE, nesterov=True, momentum=0.0)).param_groups[0]["nesterov"]
    (group, *_) = build_optimizer(model, replace(WHOLE, lr=0.01, nominal_batch=64, batch=16)).param_groups
    assert group["lr"] == pytest.approx(0.0025)


def test_the_last_epochs_have_a_loss_of_their_own(shapes):
    data = find_data(shapes).read("train")
    started = start_model("cspdarknet53_tiny_yolo", ("circle", "square"), imgsz=64)
    augment = Augmentation(mosaic=0, last_epochs_plain=1)
    options = replace(WHOLE, augment=augment, loss={"box_gain": 2.0}, plain_loss={"box": "giou"})
    task = DetectionTask(started.model, data, data, options)
    loader, _ = train_loader(data, started.spec.preprocessing, augment, batch=4, seed=0, epochs=2, workers=0)
    batch = next(iter(loader))
    seen = []
    for epoch in (0, 1, 0):
        task.losses(started.model, batch._replace(epoch=epoch), 0)
        seen.append((started.model.head.row.loss.box, started.model.head.row.loss.box_gain))
    assert seen == [("ciou", 2.0), ("giou", 2.0), ("ciou", 2.0)]
    with pytest.raises(ConfigError, match="loss has no setting 'l2'"):
        DetectionTask(started.model, data, data, replace(options, plain_loss={"l2": 1}))


def test_balanced_weights_give_each_class_the_same_share():
    weights = balanced(torch.tensor([10, 30, 60]))
    torch.testing.assert_close(weights * torch.tensor([10.0, 30, 60]), torch.full((3,), 100 / 3))
    assert balanced(torch.tensor([0, 2000, 2000])).tolist() == [1, 1, 1]  # what does not occur changes nothing
    torch.testing.assert_close(balanced(torch.tensor([10, 0, 30, 60]))[[0, 2, 3]], weights)
    assert balanced(torch.zeros(3, dtype=torch.int64)).tolist() == [1, 1, 1]


def test_a_multi_scale_training_scales_boxes_with_images(shapes):
    data = find_data(shapes).read("train")
    started = start_model("cspdarknet53_tiny_yolo", ("circle", "square"), imgsz=128)
    task = DetectionTask(started.model, data, data, replace(WHOLE, multi_scale=0.5))
    sizes = {task.size_at(step, (128, 128)) for step in range(0, 400, 10)}
    assert {(64, 64), (192, 192)} <= sizes
    assert len({task.size_at(step, (128, 128)) for step in range(20, 30)}) == 1
    loader, _ = train_loader(data, started.spec.preprocessing, Augmentation(), batch=4, seed=0, epochs=1, workers=0)
    batch, seen = next(iter(loader)), []
    started.model.loss = lambda images, targets: seen.append((images, targets)) or {}
    step = next(step for step in range(0, 400, 10) if task.size_at(step, (128, 128)) == (64, 64))
    task.losses(started.model, batch, step)
    torch.testing.assert_close(seen[0][1].boxes_xyxy * 2, batch.targets.boxes_xyxy)
    assert seen[0][0].shape[-2:] == (64, 64)


def test_rows_of_boxes_and_of_classes_of_the_same_name_are_carried_over():
    started = start_model("cspdarknet53_tiny_yolo.coco", ("zebra", "unicorn", "person"))
    coco = crossstage.load("cspdarknet53_tiny_yolo.coco")
    for level in range(2):
        old, new = (model.head.predict[level].weight.detach() for model in (coco, started.model))
        for anchor in range(3):
            mine, theirs = new[anchor * 8 : anchor * 8 + 8], old[anchor * 85 : anchor * 85 + 85]
            assert torch.equal(mine[:5], theirs[:5])
            assert torch.equal(mine[5], theirs[5 + coco.class_names.index("zebra")])
            assert torch.equal(mine[7], theirs[5 + coco.class_names.index("person")])
            assert not (theirs[5:] == mine[6]).all(1).any()
    told = str(started.transfer)
    assert told.startswith(
        "114 of 118 tensors from cspdarknet53_tiny_yolo.coco; in part: head.predict.0.weight (boxes,"
    )
    assert "2 classes of the same name" in told


def test_a_classifier_carries_over_classes_of_the_same_name(classifier_run):
    started = start_model(classifier_run, ("red", "pink"))
    stored = load_file(classifier_run / "best.safetensors")
    assert torch.equal(started.model.fc.weight.detach()[0], stored["fc.weight"][2])
    assert "fc.weight (1 classes of the same name)" in str(started.transfer)
    same = start_model(classifier_run, ("blue", "green", "red"))
    assert same.transfer.fresh == same.transfer.partly == ()


def test_an_empty_dataset_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no dataset was recognised"):
        train(replace(DETECTOR, data=str(tmp_path / "empty"), out=str(tmp_path / "runs")))
