"""Trainings, exports and predictions that are killed: nothing is lost, and the next run leaves no debris."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

from research.soak.ground import Command, Row, debris, small_data, small_model, training, wait_for

LIMIT = 600.0  # seconds that a command may take
WEIGHTS = ("best.safetensors", "last.safetensors")
OFTEN = "--checkpoint-minutes=1e-9"


def kill_trainings(folder: Path, count: int, seed: int) -> Row:
    """Kill trainings at any moment and let them go on; each must end bit for bit as one that was let be."""
    row, chance = Row("SIGKILL of a training, gone on with"), random.Random(seed)
    model, data = small_model(folder / "model.safetensors"), small_data(folder / "data")
    whole = Command(training(model, data, folder, "whole", OFTEN), folder / "whole.txt")
    start = time.monotonic()
    row.expect(whole.wait(LIMIT) == 0, f"a training that is let be: {whole.last_line()}")
    took = time.monotonic() - start
    expected = {path.relative_to(folder / "whole").as_posix() for path in (folder / "whole").rglob("*")}
    number = 0
    while row.tried < count and not row.failures:
        number += 1
        run = folder / f"run{number}"
        command = Command(training(model, data, folder, run.name, OFTEN), folder / "out.txt")
        for _ in range(chance.randint(1, 4)):
            time.sleep(chance.uniform(0, took))
            if command.poll() is not None:
                break
            command.send(signal.SIGKILL)
            command.wait()
            row.tried += 1
            words = ["train", "--resume", str(run)] if (run / "config.yaml").exists() else None
            command = Command(words or training(model, data, folder, run.name, OFTEN), folder / "out.txt")
        code = command.wait(LIMIT)
        row.expect(code == 0, f"run {number} does not go on: exit code {code}: {command.last_line()}")
        for name in WEIGHTS:
            same = (run / name).exists() and (run / name).read_bytes() == (folder / "whole" / name).read_bytes()
            row.expect(same, f"run {number}: another {name}")
        left = [name for name in debris(run, expected) if not name.startswith("tensorboard/")]  # one file a process
        row.expect(not left, f"run {number} leaves {', '.join(left)}")
    row.figures = f"{number} trainings; each ends with the weights of one that was let be"
    return row


def kill_exports(folder: Path, count: int, seed: int, form: str = "onnx") -> Row:
    """Kill exports; a file is there as a whole or not at all, and the next export leaves nothing beside it."""
    row, chance = Row(f"SIGKILL of an export to {form}"), random.Random(seed)
    model, target = small_model(folder / "model.safetensors"), folder / "out" / f"a.{form}"
    target.parent.mkdir()
    words = ["export", str(model), "--format", form, "--out", str(target), "--imgsz", "64"]
    command = Command(words, folder / "out.txt")
    start = time.monotonic()
    row.expect(command.wait(LIMIT) == 0, f"an export that is let be: {command.last_line()}")
    took = time.monotonic() - start
    sizes = {path.name: path.stat().st_size for path in target.parent.iterdir()}
    while row.tried < count and not row.failures:
        for path in target.parent.iterdir():
            if chance.random() < 0.5 and path.is_file():
                path.unlink()
        before = {path.name for path in target.parent.iterdir()}
        command = Command(words, folder / "out.txt")
        time.sleep(chance.uniform(0, took))
        command.send(signal.SIGKILL)
        command.wait()
        row.tried += 1
        if target.exists():
            row.expect(target.stat().st_size == sizes[target.name], f"kill {row.tried}: half a file")
        else:
            row.expect(target.name not in before, f"kill {row.tried}: the earlier file is gone")
    command = Command(words, folder / "out.txt")
    row.expect(command.wait(LIMIT) == 0, f"the export after the kills: {command.last_line()}")
    left = debris(target.parent, set(sizes))
    row.expect(not left, f"the export after the kills leaves {', '.join(left)}")
    return row


def kill_predictions(folder: Path, count: int, seed: int) -> Row:
    """Kill predictions; finished lines are whole, and a run afterwards leaves nothing beside its own files."""
    row, chance = Row("SIGKILL of a prediction with --json and --save"), random.Random(seed)
    model, data = small_model(folder / "model.safetensors"), small_data(folder / "data", count=60)
    out = folder / "out"
    words = ["predict", str(data.parent / "images" / "val"), "--model", str(model), "--runtime", "torch"]
    words += ["--json", str(out / "found.jsonl"), "--save", str(out / "copies"), "--conf", "0.001"]
    command = Command(words, folder / "out.txt")
    start = time.monotonic()
    row.expect(command.wait(LIMIT) == 0, f"a prediction that is let be: {command.last_line()}")
    took = time.monotonic() - start
    expected = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    lines = (out / "found.jsonl").read_text().splitlines() if (out / "found.jsonl").exists() else []
    kept = 0
    while row.tried < count and not row.failures:
        command = Command(words, folder / "out.txt")
        time.sleep(chance.uniform(0, took))
        command.send(signal.SIGKILL)
        command.wait()
        row.tried += 1
        files = [path for path in out.iterdir() if path.is_file()]
        row.expect(any(path.name == "found.jsonl" for path in files), f"kill {row.tried}: the earlier results are gone")
        for path in files:
            whole = path.read_text().split("\n")[:-1]  # a part ends where it was cut
            kept += path.name != "found.jsonl" and bool(whole)
            row.expect(all(_is_json(line) for line in whole), f"kill {row.tried}: a broken line in {path.name}")
    command = Command(words, folder / "out.txt")
    row.expect(command.wait(LIMIT) == 0, f"the prediction after the kills: {command.last_line()}")
    row.expect((out / "found.jsonl").read_text().splitlines() == lines, "other lines after the kills")
    left = debris(out, {*expected, "found.jsonl.unfinished"})  # the finished lines of the run that was killed
    row.expect(not left, f"the prediction after the kills leaves {', '.join(left)}")
    row.figures = f"{len(lines)} images a run; {kept} kills left lines of images that were finished"
    return row


def stop_predictions(folder: Path, count: int, seed: int) -> Row:
    """End predictions by the signals that ask for it: the lines of finished images are kept, with the signal's code."""
    row, chance = Row("SIGINT, SIGTERM and SIGHUP of a prediction"), random.Random(seed)
    model, data = small_model(folder / "model.safetensors"), small_data(folder / "data", count=200)
    while row.tried < count and not row.failures:
        file = folder / f"found{row.tried}.jsonl"
        words = ["predict", str(data.parent / "images" / "val"), "--model", str(model), "--json", str(file)]
        command = Command([*words, "--runtime", "torch", "--conf", "0.001"], folder / "out.txt")
        begun = wait_for(lambda file=file: any(folder.glob(f"*{file.name}*")), LIMIT)
        row.expect(begun, f"stop {row.tried}: nothing begins: {command.last_line()}")
        time.sleep(chance.uniform(0, 0.5))
        number = chance.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        command.send(number)
        code = command.wait(LIMIT)
        row.tried += 1
        row.expect(code in (0, 128 + number), f"stop {row.tried} by {number.name}: exit code {code}")
        left = [path.name for path in folder.glob(".*")]
        row.expect(not left, f"stop {row.tried} by {number.name} leaves {', '.join(left)}")
        row.expect("Traceback" not in command.printed(), f"stop {row.tried} by {number.name}: a traceback")
        whole = file.read_text() if file.exists() else ""
        row.expect(whole.endswith("\n") or not whole, f"stop {row.tried}: the last line is cut")
        row.expect(all(_is_json(line) for line in whole.splitlines()), f"stop {row.tried}: a broken line")
    return row


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
