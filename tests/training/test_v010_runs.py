"""Runs that version 0.1.0 left behind: they load, and those that it did not finish go on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import crossstage
from crossstage.training import resume
from crossstage.training.start import options_of, result_of

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0.1.0"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())["files"]


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    shutil.copytree(FIXTURES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize("name", ["detection", "classification"])
def test_a_finished_run_is_read(old, name):
    run = f"runs/{name}"
    result, expected = result_of(run), EXPECTED[run]["progress"]
    assert result is not None
    assert (result.best, result.best_epoch) == (expected["best"], expected["best_epoch"] + 1)
    assert crossstage.load(run).class_names == tuple(EXPECTED[run]["class_names"])


@pytest.mark.parametrize(("name", "epochs"), [("detection", 60), ("classification", 16)])
def test_an_interrupted_run_goes_on(old, name, epochs):
    """Its epochs are kept; those that follow see images resized by the one rule, which 0.1.0's training did not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = resume(f"runs/{name}_interrupted")
    finally:
        torch.set_num_threads(before)
    whole = result_of(f"runs/{name}")
    assert whole is not None
    assert [row["epoch"] for row in result.history] == list(range(1, epochs + 1))
    done = 52 if name == "detection" else 11
    timed = {"images_per_second", "seconds"}
    for mine, theirs in zip(result.history[:done], whole.history[:done], strict=True):
        assert {key: value for key, value in mine.items() if key not in timed} == {
            key: value for key, value in theirs.items() if key not in timed
        }
    assert result.best >= whole.best
    mine, theirs = (load_file(f"runs/{run}/last.safetensors") for run in (f"{name}_interrupted", name))
    weights = torch.cat([theirs[key].flatten().double() for key in theirs])
    difference = torch.cat([(mine[key].double() - theirs[key].double()).flatten() for key in theirs])
    assert mine.keys() == theirs.keys() and difference.norm() < 0.05 * weights.norm()


def test_an_old_configuration_of_a_loss_is_that_of_the_head(old):
    loss = options_of("runs/detection").loss
    assert (loss["box"], loss["box_gain"], loss["assign"]) == ("diou", 3.5, "iou")
