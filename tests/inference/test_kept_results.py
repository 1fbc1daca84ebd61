"""Predictions that are kept: whatever ends a run, whatever lies where it writes, whatever the network computes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from crossstage.cli import main
from crossstage.cli.signals import ending_signals
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError, DataError, Stopped
from crossstage.files import whole_text
from crossstage.inference.classify import ClassPredictor, classify_to_files
from crossstage.inference.predictor import Predictor
from crossstage.inference.run import predict_to_files, print_summary
from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Preprocessing
from tests.inference.test_output import FixedBox


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Signalled(FixedBox):
    """Sends this process a signal while it computes the third image."""

    number = signal.SIGTERM

    def __call__(self, images):
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), self.number)
        return [images]


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Signals have their default, also where nohup started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_keeps_the_images_that_are_finished(photos, tmp_path, name):
    model = Signalled()
    model.number = getattr(signal, name)
    with ending_signals():
        summary = predict_to_files(Predictor(model), photos, json=tmp_path / "found.jsonl", progress=False)
    assert (summary.interrupted, summary.signal) == (True, model.number)
    assert len(lines_of(tmp_path / "found.jsonl")) == summary.images == 3  # the one that was under way is finished
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_commands_exit_code_is_that_of_the_signal(monkeypatch):
    def stop(_):
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(1)

    monkeypatch.setattr("crossstage.cli.VERBS", {"models": Verb("Wait.", lambda _: None, stop)})
    before = signal.getsignal(signal.SIGHUP)
    assert main(["models"]) == 128 + signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == before


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    with pytest.raises(Stopped), ending_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)


def killed_writer(path: Path) -> None:
    """Leave what a process leaves that is killed after two lines."""
    code = (
        "import os, sys; from pathlib import Path; from crossstage.files import whole_text\n"
        "with whole_text(Path(sys.argv[1])) as file:\n"
        "    print('{}\\n{}', file=file, flush=True); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL


def test_the_lines_of_a_killed_run_are_kept_and_told(photos, tmp_path):
    out = tmp_path / "out" / "found.jsonl"
    out.parent.mkdir()
    killed_writer(out)
    summary = predict_to_files(Predictor(FixedBox()), photos, json=out, progress=False)
    assert sorted(path.name for path in out.parent.iterdir()) == ["found.jsonl", "found.jsonl.unfinished"]
    assert len(lines_of(out)) == 4 and lines_of(out.parent / "found.jsonl.unfinished") == [{}, {}]
    console = Console(record=True, width=200, file=StringIO())
    print_summary(summary, console)
    assert "lines of a run that was killed:" in console.export_text()


def test_what_a_living_process_writes_is_not_taken_for_a_leftover(tmp_path):
    with whole_text(tmp_path / "found.jsonl") as first:
        first.write("{}\n")
        with whole_text(tmp_path / "found.jsonl") as second:
            second.write("[]\n")
        assert len([path for path in tmp_path.iterdir() if path.name.endswith(".part")]) == 1
    assert (tmp_path / "found.jsonl").read_text() == "{}\n"


def test_no_output_replaces_an_input(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64), (folder == "a" and "red") or "blue").save(tmp_path / folder / "x.png")
    before = (tmp_path / "b" / "x.png").read_bytes()
    predictor = Predictor(FixedBox())
    for source in (str(tmp_path / "*" / "x.png"), tmp_path):
        for options in ({"save": tmp_path / "b"}, {"json": tmp_path / "b" / "x.png"}):
            if source == tmp_path and "save" in options:
                continue  # copies keep their places: b/a/x.png and b/b/x.png
            with pytest.raises(DataError, match="would replace the source"):
                predict_to_files(predictor, source, progress=False, **options)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "b" / "x.png")
    with pytest.raises(DataError, match="would replace the source"):
        predict_to_files(predictor, tmp_path / "b", json=tmp_path / "link.jsonl", progress=False)
    assert (tmp_path / "b" / "x.png").read_bytes() == before


def test_a_copy_and_the_lines_never_share_a_place(photos, tmp_path):
    out = tmp_path / "out"
    predict_to_files(Predictor(FixedBox()), photos, save=out, json=out / "1.png", progress=False)
    assert len(lines_of(out / "1.png")) == 4 and (out / "1-2.png").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "photos", "--model", "m.cfg", "--json", "m.cfg"],
        ["predict", "photos", "--json", "other.jpg"],  # no input, and no place for lines either
        ["track", "photos", "--csv", "photos/1.png"],
        ["convert", "net.py:build", "--out", "./net.py"],
        ["pack", "--model", "m.cfg", "--out", "m.cfg", "--source", "s", "--licence", "l", "--trained-on", "t"],
        ["val", "--data", "photos", "--json", "photos/1.png"],
        ["data", "show", "photos", "--out", "photos/1.png"],
        ["data", "check", "photos", "--json", "photos/annotations/a.json"],
        ["profile", "m.cfg", "--write", "x.csv", "m.cfg"],
        ["report", "m.cfg", "--out", "m.cfg"],
        ["export", "m.cfg", "--out", "m.cfg"],
    ],
    ids=lambda words: words[0],
)
def test_no_verb_writes_over_what_it_reads(words, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (photos / "annotations").mkdir()
    for name in ("m.cfg", "net.py", "other.jpg", "photos/annotations/a.json"):
        (tmp_path / name).write_text("kept")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    assert main(words) == 2
    assert "would replace" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


class Spoilt(FixedBox):
    """Finds a box, one that is no number, one whose score is none, and one of a class that there is not."""

    boxes = torch.tensor([[8.0, 16, 32, 48], [np.nan, 0, 1, 1], [0, 0, 1, 1], [0, 0, np.inf, 1]])
    scores = torch.tensor([0.9, 0.8, np.nan, 0.7])
    ids = torch.tensor([1, 1, 0, 0])

    def detect(self, raw, image_size, nms=None, sizes=None):
        return [Instances(self.boxes, self.scores, self.ids)]


def test_what_is_no_number_is_no_detection_and_is_told(photos, tmp_path):
    summary = predict_to_files(Predictor(Spoilt()), photos, json=tmp_path / "f.jsonl", progress=False)
    assert [len(line["detections"]) for line in lines_of(tmp_path / "f.jsonl")] == [1] * 4
    assert summary.not_finite == 4
    with pytest.warns(UserWarning, match=r"overflowed \(NaN\)"):
        list(Predictor(Spoilt()).detections(photos))


def test_raw_numbers_that_overflow_are_told_where_nothing_is_found(photos):
    class Empty(FixedBox):
        def __call__(self, images):
            return {"level0": images * float("nan")}

        def detect(self, raw, image_size, nms=None, sizes=None):
            return [Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))]

    summary = predict_to_files(Predictor(Empty()), photos, progress=False)
    assert (summary.not_finite, summary.objects.total()) == (4, 0)


def test_a_class_that_has_no_name_is_one_line(photos):
    model = Spoilt()
    model.ids = torch.tensor([7, 1, 0, 0])
    with pytest.raises(ConfigError, match="the model finds class 7, and it has 2 names"):
        predict_to_files(Predictor(model), photos, progress=False)


def test_more_objects_than_an_image_may_have_are_told(photos):
    summary = predict_to_files(Predictor(FixedBox(), NMS(max_detections=1)), photos, progress=False)
    assert summary.cut == 4
    assert predict_to_files(Predictor(FixedBox()), photos, progress=False).cut == 0


class Shades:
    """A classifier that goes by the brightness of an image, and knows nothing of black ones."""

    class_names = ("dark", "light")
    preprocessing = Preprocessing((8, 8))
    size_divisor = 1

    def __init__(self, interrupt_at=0):
        self.calls, self.interrupt_at = 0, interrupt_at

    def __call__(self, images):
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise Stopped(signal.SIGTERM)
        mean = images.mean((1, 2, 3))
        return torch.stack([1 - mean, mean], dim=1) / mean.sign()


def test_a_classifier_keeps_what_is_finished_too(photos, tmp_path):
    quiet = Console(file=StringIO())
    done = classify_to_files(ClassPredictor(Shades(4)), photos, quiet, json=tmp_path / "c.jsonl", save=tmp_path / "out")
    assert (done.unreadable, done.signal) == (1, signal.SIGTERM)  # the black one is no number
    assert [line["classes"][0]["class_name"] for line in lines_of(tmp_path / "c.jsonl")] == ["dark"] * 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.png", "2.png"]
    with pytest.raises(DataError, match="would replace the source"):
        classify_to_files(ClassPredictor(Shades()), photos, quiet, json=photos / "1.png")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_of_half_precision_predict(dtype):
    import crossstage

    model = crossstage.load("cspdarknet53_tiny_yolo.coco")
    photo = Path(__file__).parents[2] / "examples" / "photos" / "000000009483.jpg"
    expected = next(model.predict(photo, imgsz=160, conf=0.4))
    (found,) = model.to(dtype).predict(photo, imgsz=160, conf=0.4)
    assert sorted(found.data["class_name"]) == sorted(expected.data["class_name"])
