"""Processes that die, stop or lose their parent, disks that are full or read-only, and runs side by side."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from research.soak.ground import Command, Row, debris, small_data, small_model, training, wait_for

RANK_SECONDS = 20  # after which a process that does not answer is given up
LIMIT = 600.0
EXPORTS = ("onnx", "torchscript", "exported_program", "openvino", "ncnn")


def lose_ranks(folder: Path, count: int) -> Row:
    """Let one of two processes of a training die or stop, or kill their parent; the others end in a set time."""
    row, longest = Row("two processes: one dies, one stops, the parent is killed"), 0.0
    model, data = small_model(folder / "model.safetensors"), small_data(folder / "data")
    limit = {"CROSSSTAGE_RANK_TIMEOUT": str(RANK_SECONDS)}
    for number in range(count):
        how = ("dies", "stops", "loses its parent")[number % 3]
        words = training(model, data, folder, f"run{number}", "--devices", "2", "--epochs", "1000")
        command = Command(words, folder / "out.txt", limit)
        begun = wait_for((folder / f"run{number}" / "state.ckpt").exists, LIMIT)
        ranks = _children(command.pid)
        row.tried += 1
        if not begun or len(ranks) < 2:
            row.expect(False, f"training {number} does not begin: {command.last_line()}")
            command.send(signal.SIGKILL)
            continue
        start = time.monotonic()
        if how == "loses its parent":
            command.send(signal.SIGKILL)
        else:
            os.kill(ranks[-1], signal.SIGKILL if how == "dies" else signal.SIGSTOP)
        ended = wait_for(lambda ranks=ranks: not any(map(_alive, ranks)), 3 * RANK_SECONDS + 60)
        code = command.wait(60)
        longest = max(longest, time.monotonic() - start)
        row.expect(ended, f"a rank that {how}: others are alive after {time.monotonic() - start:.0f} s")
        row.expect(code not in (None, 0), f"a rank that {how}: exit code {code}")
        row.expect("Traceback" not in command.printed(), f"a rank that {how}: a traceback")
        for rank in filter(_alive, ranks):
            os.kill(rank, signal.SIGKILL)
    row.figures = f"all ended within {longest:.0f} s, the limit for an answer being {RANK_SECONDS} s"
    return row


def _children(pid: int) -> list[int]:
    """Return the processes of a training that a process started."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"crossstage.training.worker" in words:
                found.append(int(entry.name))
    return sorted(found)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextlib.contextmanager
def _disk(folder: Path, size: str) -> Iterator[Path | None]:
    """Give a disk of its own, in memory; None where that is not allowed."""
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
    if made.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def fill_disks(folder: Path) -> Row:
    """Write everything that there is to a disk that is full, and to one that is read-only: one line, and no debris."""
    row = Row("full and read-only disks")
    model, data = small_model(folder / "model.safetensors"), small_data(folder / "data")
    for kind in ("full", "read-only"):
        with _disk(folder / kind, "128k") as disk:
            if disk is None:
                row.figures = "no disk can be made here: mounting needs root"
                return row
            (disk / "there.txt").write_text("x" * 1000)
            if kind == "full":
                _fill(disk / "filling")
            else:
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            before = {path.relative_to(disk).as_posix() for path in disk.rglob("*") if path.is_file()}
            for name, words in _writers(model, data, disk).items():
                command = Command(words, folder / "out.txt")
                code = command.wait(LIMIT)
                row.tried += 1
                printed = command.printed()
                row.expect(code == 2, f"{name} on a {kind} disk: exit code {code}: {command.last_line()[:200]}")
                row.expect("Traceback" not in printed, f"{name} on a {kind} disk: a traceback")
                left = debris(disk, before)
                row.expect(not left, f"{name} on a {kind} disk leaves {', '.join(left)}")
                for path in left:
                    (disk / path).unlink(missing_ok=True)
    row.figures = "each ends in one line with exit code 2 and leaves the disk as it was"
    return row


def _fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def _writers(model: Path, data: Path, disk: Path) -> dict[str, list[str]]:
    images = str(data.parent / "images" / "val")
    predict = ["predict", images, "--model", str(model), "--runtime", "torch", "--conf", "0.001"]
    return {
        **{
            f"export to {form}": ["export", str(model), "--format", form, "--out", str(disk / f"a.{form}")]
            for form in ("onnx", "torchscript")
        },
        "train": training(model, data, disk, "run"),
        "predict --json": [*predict, "--json", str(disk / "found.jsonl")],
        "predict --save": [*predict, "--save", str(disk / "copies")],
        "data check --json": ["data", "check", str(data), "--json", str(disk / "faults.json")],
        "val --json": ["val", str(model), "--data", str(data), "--json", str(disk / "val.json")],
        "convert": ["convert", "timm-network:resnet10t", "--imgsz", "64", "--out", str(disk / "partial.py")],
    }


def run_together(folder: Path, count: int) -> Row:
    """Start commands that want the same at the same moment: each gets it, gets another, or is refused in one line."""
    row = Row("two runs of one name, two going on with one run, two exports to one file")
    model, data = small_model(folder / "model.safetensors"), small_data(folder / "data")
    for number in range(count):
        out = folder / f"round{number}"
        out.mkdir()
        same = training(model, data, out, "run")
        pair = [Command(same, folder / f"out{which}.txt") for which in "ab"]
        codes = sorted(command.wait(LIMIT) or 0 for command in pair)
        runs = [path for path in out.iterdir() if path.is_dir()]
        row.expect(codes in ([0, 0], [0, 2]), f"round {number}: two runs of one name end with {codes}")
        row.expect(len(runs) == codes.count(0), f"round {number}: {len(runs)} folders of {codes.count(0)} runs")
        resumed = ["train", "--resume", str(runs[0]), "--epochs", "5"]
        pair = [Command(resumed, folder / f"out{which}.txt") for which in "ab"]
        codes = sorted(command.wait(LIMIT) or 0 for command in pair)
        row.expect(codes in ([0, 0], [0, 2]), f"round {number}: two that go on with one run end with {codes}")
        export = ["export", str(model), "--format", "onnx", "--out", str(out / "a.onnx"), "--imgsz", "64"]
        pair = [Command(export, folder / f"out{which}.txt") for which in "ab"]
        codes = [command.wait(LIMIT) or 0 for command in pair]
        row.expect(codes == [0, 0], f"round {number}: two exports to one file end with {codes}")
        left = [path.name for path in out.glob(".*")]
        row.expect(not left, f"round {number} leaves {', '.join(left)}")
        row.tried += 1
        shutil.rmtree(out)
    return row
