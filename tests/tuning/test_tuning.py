"""What tune tries, what it leaves early, how it goes on, and the command that it ends with."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from crossstage.cli import main
from crossstage.errors import ConfigError, TrainingError
from crossstage.training import TrainOptions
from crossstage.training.facts import read_data
from crossstage.tuning import Space, space_of, tune
from crossstage.tuning.results import command_of, print_results, save_results

BASE = TrainOptions(model="cspdarknet53_tiny_yolo.coco", epochs=10, imgsz=64, batch=8, accelerator="cpu", workers=0)


@pytest.fixture(scope="module")
def space(shapes) -> Space:
    base = replace(BASE, data=str(shapes), imgsz=None)
    return space_of(base, read_data(base), sizes=[64, 96])


def nearer_to_twice_the_rate(options: TrainOptions, watch) -> float:
    score = 1 / (1 + abs(options.lr / 0.002 - 2))
    folder = Path(options.out) / options.name
    folder.mkdir()
    (folder / "config.yaml").write_text(options.to_yaml())
    for epoch in range(1, 11):
        watch({"epoch": epoch, "AP": score * epoch / 10})
    return score


def test_the_first_trial_is_the_plan_and_values_stay_in_their_bounds(space, tmp_path):
    tried: list[TrainOptions] = []

    def noted(options: TrainOptions, watch) -> float:
        tried.append(options)
        return 0.5

    done = tune(space, tmp_path / "s", trials=6, train_one=noted)
    plan = space.networks[0].plan
    assert (tried[0].imgsz, tried[0].lr, tried[0].weight_decay) == (64, plan.lr, plan.weight_decay)
    assert tried[0].augment["mosaic"] == plan.augment.mosaic
    assert {options.imgsz for options in tried} <= {64, 96} and len({options.lr for options in tried}) == 6
    assert all(0.19 * plan.lr <= options.lr <= 5.1 * plan.lr for options in tried)
    assert done.best.folder == "trial_0" and len(done.trials) == 6


def test_what_is_behind_is_left_and_the_best_is_told(space, tmp_path):
    done = tune(space, tmp_path / "s", trials=14, train_one=nearer_to_twice_the_rate)
    states = [trial.state for trial in done.trials]
    assert len(states) == 14 and "pruned" in states and states[:4] == ["complete"] * 4
    assert done.best.score == max(trial.score for trial in done.trials if trial.state == "complete")
    assert {"trials.csv", "best.yaml", "history.png"} <= set(save_results(done))
    console = Console(record=True, width=200, file=(tmp_path / "out").open("w"))
    print_results(done, console)
    assert command_of(done.options) in console.export_text()


def test_a_killed_study_goes_on_with_the_trial_that_it_was_at(space, tmp_path):
    class Killed(BaseException):
        pass

    seen: list[tuple[str, float]] = []

    def killed(options: TrainOptions, watch) -> float:
        seen.append((options.name, options.lr))
        if len(seen) == 2:
            raise Killed
        return 0.5

    with pytest.raises(Killed):
        tune(space, tmp_path / "s", trials=3, train_one=killed)
    done = tune(space, tmp_path / "s", trials=3, train_one=killed)
    assert seen[1] == seen[2] and len(done.trials) == 3
    assert tune(space, tmp_path / "s", trials=3, train_one=killed).best == done.best and len(seen) == 4


def test_a_study_of_something_else_is_refused(space, tmp_path):
    tune(space, tmp_path / "s", trials=1, train_one=lambda *_: 0.5)
    with pytest.raises(ConfigError, match="epochs: 10"):
        tune(replace(space, base=replace(space.base, epochs=3)), tmp_path / "s", trials=1, train_one=lambda *_: 0.5)


def test_trainings_that_fail_are_told(space, tmp_path):
    def diverging(options: TrainOptions, watch) -> float:
        raise TrainingError("the loss is not finite")

    with pytest.raises(TrainingError, match="no trial came to its end; the last one: the loss is not finite"):
        tune(space, tmp_path / "s", trials=2, train_one=diverging)


def test_networks_that_cost_too_much_are_left_out(shapes):
    base = replace(BASE, data=str(shapes), imgsz=None)
    data = read_data(base)
    few = space_of(base, data, sizes=[64, 128], max_gflops=0.3)
    assert [network.plan.imgsz for network in few.networks] == [64] and few.networks[0].gflops < 0.3
    with pytest.raises(ConfigError, match=r"max_gflops is 0\.001; expected"):
        space_of(base, data, sizes=[64], max_gflops=0.001)


def test_the_command_says_the_options(space, tmp_path):
    options, _ = space.drawn(
        type("T", (), {"suggest_float": lambda *_, **__: 1.0, "suggest_categorical": lambda _, __, c: c[1]})()
    )
    words = command_of(options).split()
    assert words[:2] == ["crossstage", "train"] and words[words.index("--imgsz") + 1] == "96"
    assert f"{options.lr:g}" == words[words.index("--lr") + 1] and "--augment.mosaic" in words and "--out" not in words


@pytest.mark.slow
def test_two_trials_on_small_data(shapes, tmp_path, capsys):
    words = ["tune", "--data", str(shapes), "--model", "cspdarknet53_tiny_yolo.coco", "--imgsz", "64", "--epochs", "1"]
    words += ["--trials", "2", "--out", str(tmp_path), "--batch", "8"]
    assert main([*words, "--quiet"]) == 0
    out = capsys.readouterr().out
    study = tmp_path / shapes.name
    assert (
        "crossstage train --model cspdarknet53_tiny_yolo.coco" in out and (study / "trial_1" / "report.json").is_file()
    )
    assert main([*words, "--quiet"]) == 0  # there is nothing left to do
    assert len(list(study.glob("trial_*"))) == 2
