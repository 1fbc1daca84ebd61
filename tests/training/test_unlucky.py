"""What befalls a training: damaged images, too little memory, other processes, moved data, damaged states."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossstage.cli import main
from crossstage.data.verified import verdicts
from crossstage.errors import ConfigError, DataError, TrainingError
from crossstage.training import TrainOptions, options_of, resume, train
from crossstage.training.checkpoint import Progress, WholeFiles
from crossstage.training.facts import read_data
from crossstage.training.failures import in_one_line
from crossstage.training.launch import rank_timeout
from crossstage.training.lock import FolderLock, claimed, locked
from crossstage.training.loop import Loop
from crossstage.training.options import RunOptions
from crossstage.training.tasks import ClassificationTask

OPTIONS = TrainOptions(
    model="resnet10", imgsz=32, batch=4, epochs=2, lr=0.01, workers=0, sample_every=0, accelerator="cpu", val_every=1
)


def draw(folder: Path, count: int = 8) -> Path:
    """A dataset of two classes: large JPEGs of noise, so that a damaged one can be read in part."""
    random = np.random.default_rng(0)
    for split, images in (("train", count), ("val", 2)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for number in range(images):
                pixels = random.integers(0, 255, (48, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.jpg", quality=95)
    return folder


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch) -> None:
    """What a run leaves behind at its end is another file's matter, and takes longer than its steps."""
    monkeypatch.setattr("crossstage.training.run.write_artefacts", lambda *_: None)


@pytest.fixture
def noise(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path / "cache"))
    return draw(tmp_path / "noise")


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> Path:
    """A run that is over."""
    folder = tmp_path_factory.mktemp("ended")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSSTAGE_CACHE", str(folder / "cache"))
        patch.setattr("crossstage.training.run.write_artefacts", lambda *_: None)
        return train(options(draw(folder / "noise"), epochs=1)).folder


@pytest.fixture
def run(ended, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(ended, tmp_path / "run"))


def options(noise: Path, **more) -> TrainOptions:
    return replace(OPTIONS, data=str(noise), out=str(noise.parent / "runs"), name="run", **more)


def damage(noise: Path) -> None:
    """Cut one image off by 20 bytes, and leave nothing of another."""
    cut, gone = noise / "train" / "a" / "1.jpg", noise / "train" / "b" / "2.jpg"
    cut.write_bytes(cut.read_bytes()[:-20])
    gone.write_bytes(b"\xff\xd8\xff nothing")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_set_trains_by_default_and_is_told(noise, capfd, workers):
    damage(noise)
    train(options(noise, workers=workers, epochs=1))
    told = capfd.readouterr().err
    assert "15 train images, 4 val images" in told
    assert "1 train image is damaged and read as far as it goes: " in told and "1.jpg" in told
    assert "1 train image cannot be used and is left out: " in told and "2.jpg" in told


def test_damaged_images_are_left_out_or_refused_if_that_is_asked_for(noise, capfd):
    damage(noise)
    assert len(read_data(options(noise, on_bad_image="skip")).train) == 14
    words = ["train", str(noise), "--model", "resnet10", "--on-bad-image", "refuse", "--out", str(noise / "runs")]
    assert main(words) == 2
    told = capfd.readouterr().err
    assert "2 files: 2 faults" in told and "--on-bad-image repair" in told and "Traceback" not in told
    assert not (noise / "runs").exists()


def test_images_are_decoded_once_and_their_verdicts_kept(noise, monkeypatch):
    damage(noise)
    images = sorted(noise.glob("*/*/*.jpg"))
    for image in images:
        os.utime(image, (1e9, 1e9))
    first = verdicts(images)
    monkeypatch.setattr("crossstage.data.verified._verdict", lambda image: pytest.fail(f"{image} is read again"))
    assert verdicts(images) == first
    assert sorted(bool(verdict.reason) for verdict in first) == [False] * (len(images) - 2) + [True] * 2
    assert [(v.height, v.width) for v in first if not v.reason] == [(48, 64)] * (len(images) - 2)


@pytest.mark.parametrize("content", ["[]", "{", '{"by": 3, "images": 4}', "IMAGES"])
def test_a_poisoned_record_of_verdicts_is_no_verdict(noise, content):
    image = noise / "train" / "a" / "0.jpg"
    os.utime(image, (1e9, 1e9))
    expected = verdicts([image])
    (record,) = (noise.parent / "cache" / "verified").iterdir()
    known = json.loads(record.read_text())
    state = image.stat()
    known["images"]["0.jpg"] = [state.st_size, state.st_mtime_ns, "", 1, "x", None]
    record.write_text(json.dumps(known) if content == "IMAGES" else content)
    assert verdicts([image]) == expected


def test_labels_for_another_size_are_told_before_the_first_step(shapes, tmp_path):
    root = tmp_path / "shapes"
    shutil.copytree(shapes, root)
    Image.new("RGB", (50, 40)).save(root / "images" / "train" / "3.png")
    known = {"data": str(root), "model": "cspdarknet53_tiny_yolo"}
    with pytest.raises(DataError, match=r"3\.png.*\n.*50 x 40 pixels; its labels are for 100 x 80"):
        read_data(TrainOptions(**known))
    data = read_data(TrainOptions(**known, on_bad_label="skip"))
    assert len(data.train) == 31 and "whose labels are for another size" in data.remarks[0]


def lose(noise: Path, monkeypatch) -> None:
    """Take an image away after the first epoch."""
    original = Loop._finish

    def finish(self, *parts):
        (noise / "train" / "a" / "1.jpg").unlink(missing_ok=True)
        original(self, *parts)

    monkeypatch.setattr(Loop, "_finish", finish)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_lost_in_the_middle_costs_a_line(noise, monkeypatch, capfd, workers):
    lose(noise, monkeypatch)
    train(options(noise, workers=workers, epochs=3))
    told = capfd.readouterr().err
    assert told.count("lost in the middle of the training") == 1 and "a/1.jpg" in told


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_s_error_is_one_line(noise, monkeypatch, workers):
    lose(noise, monkeypatch)
    with pytest.raises((DataError, TrainingError)) as caught:
        train(options(noise, workers=workers, on_bad_image="refuse", epochs=3))
    assert str(caught.value).count("\n") == 0 and "a/1.jpg" in str(caught.value)
    assert WholeFiles().load_checkpoint(noise.parent / "runs" / "run" / "state.ckpt")["progress"]["epoch"] == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    ],
)
def test_where_memory_runs_out_a_smaller_batch_is_named(noise, monkeypatch, error, capsys):
    def fail(*_):
        raise error

    monkeypatch.setattr(ClassificationTask, "losses", fail)
    words = ["train", str(noise), "--model", "resnet10", "--imgsz", "32", "--batch", "4", "--workers", "0"]
    assert main([*words, "--accelerator", "cpu", "--out", str(noise / "runs"), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: memory ran out with a batch of 4 images of 32 pixels; try --batch 2, ")
    assert told.count("\n") == 1


def test_what_is_our_fault_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), in_one_line(RunOptions.plain("m")):
        _ = 1 / 0
    with pytest.raises(RuntimeError, match="shapes"), in_one_line(RunOptions.plain("m")):
        raise RuntimeError("shapes do not fit")


def test_batch_norm_s_single_value_is_told_before_the_first_step(noise):
    with pytest.raises(ConfigError, match=r"batch is 1, and batch norm .* expected --batch 2 or more"):
        train(options(noise, batch=1))
    with pytest.raises(ConfigError, match=r"batch is 2, 1 in a pass, .* expected --batch 4 or more"):
        train(options(noise, batch=2, accumulate=2))
    assert not (noise.parent / "runs" / "run").exists()
    train(options(noise, batch=1, imgsz=64, epochs=1))


def test_a_finished_run_trains_on(noise):
    first = train(options(noise))
    longer = resume(first.folder, epochs=4, accelerator="cpu")
    assert [row["epoch"] for row in longer.history] == [1, 2, 3, 4]
    assert longer.history[:2] == first.history
    assert longer.history[2]["lr"] > first.history[1]["lr"]  # in the middle of a fall that is longer now
    assert options_of(first.folder).epochs == 4
    with pytest.raises(TrainingError, match=r"has 4 epochs already; expected more than epochs=3"):
        resume(first.folder, epochs=3)
    assert options_of(first.folder).epochs == 4


def test_a_run_goes_on_where_its_data_lies_now(noise, capsys):
    run = train(options(noise)).folder
    moved = noise.rename(noise.with_name("moved"))
    assert main(["train", "--resume", str(run), "--epochs", "3", "--accelerator", "cpu"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert len(resume(run, data=str(moved), epochs=3).history) == 3
    Image.new("RGB", (64, 48)).save(moved / "train" / "a" / "1.jpg")
    with pytest.raises(TrainingError, match=r"its train images or labels are not those that .*run was trained on"):
        resume(run, epochs=4)


def test_a_run_remembers_whole_paths(noise, monkeypatch):
    monkeypatch.chdir(noise.parent)
    run = train(replace(options(noise), data="noise", epochs=1)).folder
    assert options_of(run).data == str(noise) and options_of(run).model == "resnet10"


def claim(out: str, barrier, name: str, answers) -> None:
    barrier.wait()
    lock = claimed(Path(out) / name)
    answers.put(lock is not None)
    barrier.wait()  # the lock is held till all have tried


@pytest.mark.parametrize("there", [False, True])
def test_of_many_that_want_one_folder_one_gets_it(tmp_path, there):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(8), context.Queue()
    for name in ("x", "y", "z"):
        if there:
            (tmp_path / name).mkdir()
        processes = [context.Process(target=claim, args=(str(tmp_path), barrier, name, answers)) for _ in range(8)]
        for process in processes:
            process.start()
        assert sum(answers.get(timeout=20) for _ in processes) == 1
        for process in processes:
            process.join()


def test_a_run_is_trained_by_one_process_at_a_time(run, monkeypatch):
    monkeypatch.setattr(FolderLock.__init__, "__defaults__", (0.1,))
    with locked(run), pytest.raises(TrainingError, match="is in use: another process trains in it"):
        resume(run)
    resume(run, accelerator="cpu")


def test_a_read_only_disk_is_one_line(noise, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(TrainingError, match=r"run: cannot be made: Read-only file system"):
        train(options(noise))


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_of_a_state_are_found(run, seed):
    content = bytearray((run / "state.ckpt").read_bytes())
    place = int(np.random.default_rng(seed).integers(len(content) // 10, len(content) * 9 // 10))
    content[place] ^= 16
    (run / "state.ckpt").write_bytes(content)
    with pytest.raises(TrainingError, match=r"state\.ckpt: (damaged|not )"):
        resume(run, epochs=2)


@pytest.mark.parametrize(
    "state",
    [
        {},
        [1],
        {"progress": 3},
        {"progress": Progress().state_dict() | {"epoch": "x"}},
        {"progress": Progress().state_dict() | {"epoch": -1}},
        {"progress": Progress().state_dict(), "model": {"weight": torch.zeros(3)}, "optimizer": 7},
    ],
)
def test_a_state_of_another_kind_is_one_line(run, state):
    torch.save(state, run / "state.ckpt")
    with pytest.raises(TrainingError, match=r"state\.ckpt: (holds|not the state of this training)") as caught:
        resume(run, epochs=2)
    assert "\n" not in str(caught.value)


def test_a_state_or_weights_of_another_network_are_one_line(run, noise):
    other = train(replace(options(noise, epochs=1), name="other", model="resnet18")).folder
    shutil.copy(other / "best.safetensors", run / "best.safetensors")
    with pytest.raises(TrainingError, match=r"best\.safetensors: not the state of this training"):
        resume(run)
    shutil.copy(other / "state.ckpt", run / "state.ckpt")
    with pytest.raises(TrainingError, match=r"state\.ckpt: not the state of this training"):
        resume(run, epochs=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": "3"}, "epochs is '3'; expected a whole number or None"),
        ({"epochs": True}, "epochs is True; expected a whole number"),
        ({"epochs": 2.5}, "epochs is 2.5; expected a whole number"),
        ({"lr": float("nan")}, "lr is nan; expected a number"),
        ({"imgsz": 0}, "imgsz is 0; expected one side"),
        ({"imgsz": -64}, "imgsz is -64; expected one side"),
        ({"imgsz": (64, 64, 64)}, "imgsz is .*; expected a whole number or height and width or None"),
        ({"imgsz": 10**6}, "imgsz is 1000000; expected .* from 1 to 16384 pixels"),
        ({"workers": -1}, "workers is -1; expected 0 to 1,024"),
        ({"schedule": "lineal"}, "schedule is 'lineal'; expected one of .*did you mean linear"),
        ({"precision": 16}, "precision is 16; expected one of 32, bf16, 16"),
        ({"on_nan": "ignore"}, "on_nan is 'ignore'; expected one of stop, skip"),
        ({"on_bad_image": "mend"}, "on_bad_image is 'mend'; expected one of repair, skip, refuse"),
        ({"partial": "half"}, "partial is 'half'; expected Partial or published or None"),
        ({"augment": {"mosaic": "x"}}, "mosaic is 'x'; expected a number"),
        ({"augment": 3}, "augment is 3; expected"),
        ({"loss": [1]}, r"loss is \[1\]; expected settings by name"),
        ({"steps": (0.5, "x")}, r"steps is \(0.5, 'x'\); expected several numbers"),
        ({"seed": 2**64}, "seed is"),
    ],
)
def test_options_from_python_and_from_files_are_checked_alike(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(OPTIONS, **change)
    with pytest.raises(ConfigError, match=f"^where: {message}"):
        TrainOptions.from_mapping({"model": "m", "data": "d", **change}, "where")


def test_values_that_mean_the_same_are_taken():
    found = replace(OPTIONS, data=Path("a") / "b", epochs=3.0, lr=1, seed=np.int64(7), steps=[0.5])
    assert (found.data, found.epochs, found.lr, found.seed, found.steps) == (str(Path("a", "b")), 3, 1.0, 7, (0.5,))
    assert type(found.epochs) is int and type(found.lr) is float and type(found.seed) is int


def test_a_time_limit_for_processes_can_be_set(monkeypatch):
    assert rank_timeout().total_seconds() == 600
    monkeypatch.setenv("CROSSSTAGE_RANK_TIMEOUT", "30")
    assert rank_timeout().total_seconds() == 30
    monkeypatch.setenv("CROSSSTAGE_RANK_TIMEOUT", "soon")
    with pytest.raises(ConfigError, match=r"\$CROSSSTAGE_RANK_TIMEOUT is 'soon'; expected seconds"):
        rank_timeout()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("by_kernel", [True, False])
def test_a_child_ends_with_its_parent(tmp_path, by_kernel):
    told = tmp_path / "pid"
    child = (
        "import os, pathlib, sys, time; from crossstage import machine; "
        f"{'' if by_kernel else 'machine._killed_by_kernel = lambda: False; '}"
        f"machine.end_with_parent(int(sys.argv[1])); pathlib.Path({str(told)!r}).write_text(str(os.getpid())); "
        "time.sleep(60)"
    )
    parent = (
        f"import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())]); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
    end = time.monotonic() + 30
    while not (told.exists() and told.read_text()) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    pid = int(told.read_text())
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(pid)
