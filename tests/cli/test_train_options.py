"""The options of a training on the command line and in files."""

import json
from dataclasses import asdict, dataclass, fields

import pytest
import yaml

from crossstage.cli import VERBS, main, parser_of
from crossstage.cli.declared import loss_settings, type_of
from crossstage.cli.train import _merged
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError
from crossstage.models.heads import HEADS
from crossstage.models.heads.yolo import YoloLossConfig
from crossstage.nn import Partial
from crossstage.training import TrainOptions, recipe_names

START = ("--model", "m", "--data", "d")


def options(*words: str) -> TrainOptions:
    verb = VERBS["train"]
    assert isinstance(verb, Verb)
    given = parser_of("crossstage train", verb).read([*START, *words]).given
    return TrainOptions.from_mapping(_merged(given), "train")


def test_what_is_not_given_is_the_default():
    assert options() == TrainOptions("m", "d")


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_means_the_same_on_the_command_line(recipe):
    assert options("--config", recipe) == TrainOptions.from_recipe(recipe, model="m", data="d")


def test_words_become_values_of_their_types():
    found = options(
        *("--lr", "1e-3", "--imgsz", "null", "--steps", "0.5,0.6", "--fit-anchors", "--precision", "16", "--ema", "0"),
        *("--augment.mosaic", "0", "--augment.randaugment", "9", "--partial.gamma", "0.75", "--name", "007"),
    )
    assert (found.lr, found.imgsz, found.steps, found.fit_anchors) == (0.001, None, (0.5, 0.6), True)
    assert (found.precision, found.name, found.partial) == ("16", "007", Partial(0.75))
    assert type(found.ema) is float and type(found.augment["mosaic"]) is float
    assert found.augment == {"mosaic": 0.0, "randaugment": 9}  # the rest is planned


@pytest.mark.parametrize("words", [["0.5", "0.6"], ["0.5,0.6"], ["[0.5, 0.6]"]])
def test_a_list_may_be_written_in_many_ways(words):
    assert options("--steps", *words).steps == (0.5, 0.6)


def test_the_later_word_counts():
    assert options("--epochs", "3", "--config", "coco").epochs == 271
    assert options("--config", "coco", "--epochs", "3").epochs == 3
    mixed = options("--config", "coco", "--augment.mosaic", "0.25", "--loss.box", "giou")
    assert (mixed.augment.mosaic, mixed.augment.hue, mixed.loss["box"], mixed.loss["ignore_iou"]) == (
        *(0.25, 0.1),
        *("giou", 0.7),
    )


@pytest.mark.parametrize(
    ("words", "partial"),
    [
        (["null"], None),
        (["published"], "published"),
        (['{"gamma": 0.25, "fusion": "last"}'], Partial(0.25, "last")),
    ],
)
def test_partial_is_a_word_or_settings(words, partial):
    assert options("--partial", *words).partial == partial


def test_settings_of_a_loss_are_typed_and_open_to_other_heads():
    known = options("--loss.box_gain", "5", "--loss.focal-gamma", "2").loss
    assert known == {"box_gain": 5.0, "focal_gamma": 2.0} and type(known["box_gain"]) is float
    other = options("--loss.centre_gain", "2", "--loss.sigma", "1e-2", "--loss.kind", "smooth", "--loss.sure", "true")
    assert other.loss == {"centre_gain": 2, "sigma": 0.01, "kind": "smooth", "sure": True}


def test_a_head_of_ones_own_may_name_its_settings_as_another_does(monkeypatch):
    @dataclass(frozen=True)
    class OwnLoss:
        box: str = "smooth"

    @dataclass(frozen=True)
    class Row:
        loss: OwnLoss = OwnLoss()

    monkeypatch.setitem(HEADS, "own", Row())
    assert options("--loss.box", "l1", "--loss.box_gain", "3").loss == {"box": "l1", "box_gain": 3.0}


def test_a_file_of_0_1_0_holds_all_settings_of_the_loss(tmp_path):
    file = tmp_path / "config.yaml"
    loss = {**asdict(YoloLossConfig()), "box_gain": 4}
    file.write_text(yaml.safe_dump({"model": "m", "data": "d", "epochs": 2, "lr": "1e-3", "loss": loss}))
    found = options("--config", str(file), "--loss", json.dumps({"class_gain": 2}))
    assert found.epochs == 2 and found.lr == 0.001
    assert YoloLossConfig(**found.loss) == YoloLossConfig(box_gain=4.0, class_gain=2.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", "unknown option 'epoch'; did you mean epochs"),
        ("epochs: many", "epochs is 'many'; expected a whole number"),
        ("augment: {mosiac: 1}", "augment: unknown option 'mosiac'; did you mean mosaic"),
        ("optimizer: sdg", "optimizer is 'sdg'; expected one of sgd, adamw; did you mean sgd?"),
    ],
)
def test_faults_of_a_file_are_named(content, message, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(content)
    assert main(["train", "--config", str(file), *START]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {file}: ") and message in printed and printed.count("\n") == 1


def test_printed_options_can_be_read_again(tmp_path, capsys):
    words = ["--config", "coco", "--epochs", "3", "--loss.box", "giou", "--partial.gamma", "0.25"]
    assert main(["train", *START, *words, "--print_config"]) == 0
    file = tmp_path / "config.yaml"
    file.write_text(capsys.readouterr().out)
    assert options("--config", str(file)) == options(*words)
    assert main(["train", "--epochs", "3", "--accumulate", "1", "--print_config=skip_default"]) == 0
    assert capsys.readouterr().out == "epochs: 3\n"


def test_options_read_from_source_are_those_of_the_class():
    declared = {field.name: field for field in type_of("crossstage.training.options", "TrainOptions").fields}
    assert list(declared) == [field.name for field in fields(TrainOptions)]
    assert all(field.text for field in declared.values())
    whole = TrainOptions()
    for name, field in declared.items():
        assert field.required or field.hint.fields or field.hint.mapping or field.default == getattr(whole, name)
    assert {field.name for field in loss_settings()["YoloLossConfig"]} == {f.name for f in fields(YoloLossConfig)}


def test_a_wrong_value_of_a_nested_setting_is_refused():
    with pytest.raises(ConfigError, match=r"Partial\.gamma is 2"):
        options("--partial.gamma", "2")
