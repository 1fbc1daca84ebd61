"""Two processes on a CPU: the same figures as one, and no waiting for the dead."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from crossstage.data.loading import EpochOrder, ShareOrder
from crossstage.errors import DataError
from crossstage.training import TrainOptions, train
from tests.sweep import sweep

OPTIONS = {"model": "resnet10", "imgsz": 64, "batch": 8, "workers": 0, "burn_in": 2, "sample_every": 0}


def run(data: Path, out: Path, devices: int, **more) -> Path:
    options = TrainOptions(
        data=str(data), out=str(out), name=f"of{devices}", devices=devices, accelerator="cpu", **more
    )
    return train(options).folder


def test_two_processes_train_and_measure_as_one(colours, tmp_path, monkeypatch):
    """Batch norm sees half a batch in each process, so its layers are kept still: everything else must agree."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    same = {**OPTIONS, "epochs": 2, "freeze_backbone": True, "lr": 0.01}
    one, two = run(colours, tmp_path, 1, **same), run(colours, tmp_path, 2, **same)
    rows = [[row.split(",") for row in (path / "metrics.csv").read_text().splitlines()] for path in (one, two)]
    for mine, theirs in zip(rows[0][1:], rows[1][1:], strict=True):
        for name, a, b in zip(rows[0][0], mine, theirs, strict=True):
            if name not in ("seconds", "images_per_second"):
                assert float(a) == pytest.approx(float(b), rel=1e-4), name
    first, second = load_file(one / "last.safetensors"), load_file(two / "last.safetensors")
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-5, msg=name)
    assert (one / "per_class.csv").read_text() == (two / "per_class.csv").read_text()


def figures(run: Path) -> list[list[str]]:
    """Rows of metrics.csv without what depends on the clock."""
    return [row.split(",")[:-2] for row in (run / "metrics.csv").read_text().splitlines()]


@pytest.mark.slow
def test_torchrun_and_slurm_start_the_same_training(colours, tmp_path, monkeypatch):
    """Two machines of one process each, and two tasks of a job, against two processes of our own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    expected = figures(run(colours, tmp_path, 2, **OPTIONS, epochs=2, lr=0.01))
    words = [f"--{name}={value}" for name, value in OPTIONS.items()]
    words += [f"--data={colours}", f"--out={tmp_path}", "--accelerator=cpu", "--epochs=2", "--lr=0.01"]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=1",
        "--rdzv-backend=c10d",
    ]
    torchrun += ["--rdzv-id=test", "--rdzv-endpoint=localhost:29777", "-m", "crossstage", "train"]
    machines = [subprocess.Popen([*torchrun, *words, "--nodes=2"]) for _ in range(2)]
    assert [machine.wait() for machine in machines] == [0, 0]
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "4711"}
    job |= {"SLURM_NODEID": "0", "SLURM_NODELIST": "localhost"}
    tasks = []
    for rank in ("0", "1"):
        command = [sys.executable, "-m", "crossstage", "train", *words, "--devices=2", "--name=slurm"]
        environment = {**os.environ, **job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        tasks.append(subprocess.Popen(command, env=environment))
    assert [task.wait() for task in tasks] == [0, 0]
    (unnamed,) = tmp_path.glob("resnet10-*")
    assert figures(unnamed) == figures(tmp_path / "slurm") == expected


def started(data: Path, out: Path, **environment: str) -> subprocess.Popen[str]:
    """Begin a long training by two processes, and wait until there is a checkpoint."""
    words = [f"--{name}={value}" for name, value in OPTIONS.items()]
    words += [f"--data={data}", f"--out={out}", "--name=run", "--devices=2", "--accelerator=cpu", "--epochs=500"]
    process = subprocess.Popen(
        [sys.executable, "-m", "crossstage", "train", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    while not (out / "run" / "state.ckpt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return process


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(child) for child in found]


@pytest.mark.parametrize("number", sweep([signal.SIGKILL, signal.SIGTERM], bool))
def test_a_dead_process_ends_the_job_and_a_signal_ends_all(colours, tmp_path, number):
    process = started(colours, tmp_path)
    began = time.monotonic()
    if number == signal.SIGKILL:
        os.kill(children(process.pid)[1], number)
    else:
        process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    if number == signal.SIGKILL:
        assert process.returncode == 2, told
        assert "error: process 1 was killed by SIGKILL; the others were ended. Go on with" in told
    else:
        assert process.returncode == 143, told
        assert "stopped by SIGTERM; the state is saved" in told
    assert "Traceback" not in told


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("event", ["the parent is killed", "a process is stopped"])
def test_no_process_trains_on_alone(colours, tmp_path, event):
    process = started(colours, tmp_path, CROSSSTAGE_RANK_TIMEOUT="15")
    ranks = children(process.pid)
    if event == "the parent is killed":
        process.kill()
        process.wait()
    else:
        os.kill(ranks[1], signal.SIGSTOP)
        _, told = process.communicate(timeout=120)
        assert process.returncode == 2 and "did not answer for 15 s ($CROSSSTAGE_RANK_TIMEOUT)" in told, told
        assert "Traceback" not in told
    end = time.monotonic() + 10
    while any(map(alive, ranks)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(alive, ranks))


def test_what_is_wrong_with_the_data_is_told_before_processes_start(tmp_path):
    with pytest.raises(DataError) as caught:
        run(tmp_path / "nowhere", tmp_path, 2, **OPTIONS, epochs=1)
    assert str(caught.value) == f"{tmp_path / 'nowhere'}: no such file or folder"
    assert list(tmp_path.iterdir()) == []


def test_processes_share_the_images_of_an_epoch():
    orders = [EpochOrder(103, 5, seed=3, rank=rank, world=4) for rank in range(4)]
    shares = [[index for _, index in order] for order in orders]
    together = [index for share in shares for index in share]
    assert len(together) == len(set(together)) == 100
    whole = [index for _, index in EpochOrder(103, 20, seed=3)]
    for step in range(5):  # each step has the images that it has in one process
        assert {i for share in shares for i in share[step * 5 : step * 5 + 5]} == set(whole[step * 20 : step * 20 + 20])


def test_an_epoch_goes_on_where_it_stopped_and_another_has_another_order():
    order = EpochOrder(50, 5, seed=0)
    whole = list(order)
    order.first_step = 4
    assert list(order) == whole[20:]
    assert len(order) == 30
    order.epoch, order.first_step = 1, 0
    assert [index for _, index in order] != [index for _, index in whole]
    with pytest.raises(DataError, match="3 images to train on; a step needs 8"):
        EpochOrder(3, 4, seed=0, world=2)


@pytest.mark.parametrize(("length", "world"), [(10, 3), (9, 3), (1, 4), (7, 2)])
def test_every_image_is_measured_and_no_process_waits_for_another(length, world):
    shares = [list(ShareOrder(length, rank, world)) for rank in range(world)]
    assert {index for share in shares for index in share} == set(range(length))
    assert len({len(share) for share in shares}) == 1
