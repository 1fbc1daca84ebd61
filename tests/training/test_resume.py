"""Interrupted trainings: nothing is lost, and what goes on ends as what was never interrupted."""

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from crossstage.cli import main
from crossstage.errors import ConfigError, TrainingError
from crossstage.training import TrainOptions, resume, train
from crossstage.training.checkpoint import WholeFiles
from tests.sweep import sweep
from tests.training.processes import Command

MODELS = Path(__file__).parents[1] / "fixtures" / "v0.1.0" / "models"
OPTIONS = ["--model", str(MODELS / "start_detector.safetensors"), "--imgsz", "64", "--batch", "8", "--workers", "0"]
OPTIONS += ["--burn-in", "2", "--sample-every", "0", "--accelerator", "cpu", "--multi_scale", "0.5"]
EPOCHS = 4


def start(data: Path, out: Path, name: str, *more: str, epochs: int = EPOCHS) -> Command:
    words = ["train", *OPTIONS, "--data", str(data), "--out", str(out), "--name", name, "--epochs", str(epochs), *more]
    return Command(words, out / f"{name}.txt")


def go_on(run: Path) -> Command:
    return Command(["train", "--resume", str(run)], run.with_suffix(".again.txt"))


def ended(command: Command) -> str:
    """What a command printed that carried out all it was asked for."""
    assert command.wait() == 0, command.printed()
    return command.printed()


@pytest.fixture(scope="module")
def uninterrupted(shapes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    ended(start(shapes, out, "run"))
    return out / "run"


def assert_same_end(run: Path, whole: Path) -> None:
    for name in ("best.safetensors", "last.safetensors"):
        mine, theirs = load_file(run / name), load_file(whole / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
    rows, expected = ((path / "metrics.csv").read_text().splitlines() for path in (run, whole))
    assert len(rows) == len(expected) == EPOCHS + 1
    timed = {"images_per_second", "seconds"}
    names = expected[0].split(",")
    for row, other in zip(rows, expected, strict=True):
        pairs = zip(names, row.split(","), other.split(","), strict=True)
        assert all(a == b for name, a, b in pairs if name not in timed)


def wait_for(condition, process: Command, seconds: float = 120, pause: float = 0.01) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.printed()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(pause)


@pytest.mark.parametrize("moment", sweep(["writing a checkpoint", "first checkpoint"], bool))
def test_a_killed_training_ends_bit_for_bit_as_one_that_was_not(shapes, uninterrupted, tmp_path, moment):
    run = tmp_path / "run"
    process = start(shapes, tmp_path, "run", "--checkpoint_minutes", "1e-9")  # after every step
    wait_for((run / "state.ckpt").exists, process)
    if moment == "writing a checkpoint":
        wait_for(lambda: any(run.glob(".state.ckpt.*.part")), process, pause=0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert WholeFiles().load_checkpoint(run / "state.ckpt")["progress"]["step"] >= 1
    assert "going on in epoch" in ended(go_on(run))
    assert_same_end(run, uninterrupted)
    assert not any(run.glob(".state.ckpt.*"))


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_the_step_saves_and_exits_with_its_code(shapes, uninterrupted, tmp_path, number, code):
    process = start(shapes, tmp_path, "run")
    wait_for((tmp_path / "run" / "state.ckpt").exists, process)
    process.send_signal(number)
    assert process.wait() == code, process.printed()
    told = process.printed()
    assert f"the state is saved; go on with: crossstage train --resume {tmp_path / 'run'}" in told
    assert "Traceback" not in told
    ended(go_on(tmp_path / "run"))
    assert_same_end(tmp_path / "run", uninterrupted)


def test_a_training_goes_on_in_the_middle_of_an_epoch(shapes, uninterrupted, tmp_path, monkeypatch):
    """Saved after every step, killed after the first checkpoint."""
    process = start(shapes, tmp_path, "run", "--checkpoint_minutes", "1e-9")
    wait_for((tmp_path / "run" / "state.ckpt").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = WholeFiles().load_checkpoint(tmp_path / "run" / "state.ckpt")["progress"]
    assert 0 < state["batches"] <= 4
    ended(go_on(tmp_path / "run"))
    assert_same_end(tmp_path / "run", uninterrupted)


@pytest.mark.slow
def test_a_training_survives_being_killed_at_any_moment(shapes, tmp_path):
    """Killed a dozen times, at moments that nobody chose, checkpoints being written after every step."""
    often = "--checkpoint_minutes=1e-9"
    ended(start(shapes, tmp_path, "whole", often))
    random = np.random.default_rng()
    process = start(shapes, tmp_path, "run", often)
    wait_for((tmp_path / "run" / "state.ckpt").exists, process)
    for kill in range(12):
        time.sleep(random.uniform(0, 1.5) if kill == 0 else random.uniform(0.5, 4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = go_on(tmp_path / "run")
    ended(process)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_no_run_is_overwritten(shapes, uninterrupted, capsys):
    words = [*OPTIONS, "--data", str(shapes), "--out", str(uninterrupted.parent), "--name", "run"]
    before = (uninterrupted / "state.ckpt").read_bytes()
    assert main(["train", *words]) == 2
    assert "exists; choose another name" in capsys.readouterr().err
    assert (uninterrupted / "state.ckpt").read_bytes() == before


def test_a_run_that_is_over_goes_on_to_nothing(uninterrupted):
    before = load_file(uninterrupted / "best.safetensors")
    assert resume(uninterrupted, accelerator="cpu").history[-1]["epoch"] == EPOCHS
    assert all(
        torch.equal(tensor, before[key]) for key, tensor in load_file(uninterrupted / "best.safetensors").items()
    )


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(TrainingError, match=r"no config\.yaml"):
        resume(tmp_path)


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(shapes, uninterrupted, tmp_path):
    process = start(shapes, tmp_path, "run")
    wait_for((tmp_path / "run" / "config.yaml").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "state.ckpt").exists()
    ended(go_on(tmp_path / "run"))
    assert_same_end(tmp_path / "run", uninterrupted)


def test_a_checkpoint_that_would_execute_something_is_refused(tmp_path, uninterrupted):
    path = tmp_path / "state.ckpt"
    torch.save({"model": os.system}, path)
    with pytest.raises(TrainingError, match="not a checkpoint"):
        WholeFiles().load_checkpoint(path)


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    """Files that may not grow fail as on a full disk."""
    target = tmp_path / "state.ckpt"
    WholeFiles().save_checkpoint({"epoch": 1}, target)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"cannot be written: File too large; the last good one is kept"):
            WholeFiles().save_checkpoint({"tensor": torch.zeros(1_000_000)}, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert WholeFiles().load_checkpoint(target) == {"epoch": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.ckpt"]


def test_a_training_that_never_began_leaves_no_folder(shapes, tmp_path):
    with pytest.raises(ConfigError, match="expected a multiple of 32"):
        train(TrainOptions(model="cspdarknet53_tiny_yolo", data=str(shapes), imgsz=50, out=str(tmp_path), name="run"))
    assert not (tmp_path / "run").exists()
