"""Tables stay whole: piped, or on a terminal that is narrower than they are."""

import json
import re
import shutil
from io import StringIO
from pathlib import Path

import pytest

from crossstage.cli import main
from crossstage.cli.console import table
from crossstage.cli.whole import WholeConsole
from crossstage.deploy.benchmark.results import Benchmark, BenchmarkRow

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
CFG = Path(__file__).parents[2] / "examples" / "darknet" / "yolov4-tiny.cfg"
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def words_of(text: str) -> list[str]:
    return sorted(COLOURS.sub("", text).split())


def printed(words, columns: int, capsys, monkeypatch, *, terminal: bool) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("TERM", raising=False)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    else:
        monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["models", "csppelee*_ref"],
        ["info", "cspdarknet53_tiny_yolo.coco"],
        ["darknet", "info", str(CFG)],
        ["profile", "cspdarknet53_tiny_yolo", "--imgsz", "64", "--layers"],
        ["gradients", "csppeleenet", "--imgsz", "32"],
        ["data", "check", "SHAPES"],
        ["data", "anchors", "SHAPES"],
        ["data", "stats", "SHAPES"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_no_verb_loses_a_word(words, shapes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [str(shapes) if word == "SHAPES" else word for word in words]
    whole = words_of(printed(words, 1000, capsys, monkeypatch, terminal=True))
    piped = printed(words, 40, capsys, monkeypatch, terminal=False)
    assert words_of(piped) == whole
    assert not any(line.endswith(" ") for line in piped.splitlines() if line.strip())
    assert words_of(printed(words, 40, capsys, monkeypatch, terminal=True)) == whole


def test_names_of_files_stay_whole(tmp_path, capsys, monkeypatch):
    folder = tmp_path / ("a long name of a folder of photos " * 3).strip()
    folder.mkdir()
    photo = sorted(PHOTOS.iterdir())[0]
    name = f"{'a_very_long_name_of_a_photo_' * 4}[1].jpg"
    shutil.copy(photo, folder / name)
    out, lines = folder / "out", folder / "found.jsonl"
    words = ["predict", str(folder / name), "--imgsz", "160", "--save", str(out), "--json", str(lines)]
    for terminal in (False, True):
        text = COLOURS.sub("", printed(words, 40, capsys, monkeypatch, terminal=terminal))
        assert name in text and f"annotated copies: {out}" in text and f"detections: {lines}" in text


def test_a_benchmark_tells_its_rows_apart(capsys, monkeypatch):
    timed = (416, 7.0, (10.0, 12.0, 11.0), 300.0)
    rows = (BenchmarkRow("m", "torch fused", "fp32", *timed), BenchmarkRow("m", "torch fused", "bf16", *timed))
    measured = Benchmark("a processor with a name that is long", 2, rows, (), "noise", {})
    monkeypatch.setattr("crossstage.deploy.benchmark.benchmark.benchmark", lambda *_, **__: measured)
    for terminal in (False, True):
        text = COLOURS.sub("", printed(["benchmark", "m"], 40, capsys, monkeypatch, terminal=terminal))
        shown = [line.split()[2:] for line in text.splitlines() if line.startswith("torch fused")]
        figures = ["11.0", "10.0", "12.0", "90.9", "300", "636"]
        assert shown == [["fp32", *figures], ["bf16", *figures]]
        assert all(title in text for title in ("median ms", "p10", "p90", "images/s", "MiB", "GFLOP/s", "of direct"))


def test_a_val_report_and_a_sweep_stay_whole(few_coco, tmp_path, capsys, monkeypatch):
    words = ["val", "--data", str(few_coco), "--imgsz", "96", "--conf", "0.3"]
    for terminal in (False, True):
        text = printed(words, 40, capsys, monkeypatch, terminal=terminal)
        assert {"AP50", "AP75", "AR100"} <= set(words_of(text)) and "…" not in text
    text = printed([*words, "--nms-sweep", "--json", str(tmp_path / "s.json")], 40, capsys, monkeypatch, terminal=True)
    rows = json.loads((tmp_path / "s.json").read_text())
    assert all(f"{100 * row['ap']:.1f}" in text for row in rows)


def test_a_table_is_folded_where_no_word_suffers():
    out = WholeConsole(file=StringIO(), force_terminal=True, width=40, color_system=None)
    made = table("name", "what it is", "number", numbers=1)
    made.add_row("x", "some words that take more room than there is on this terminal", "1.5")
    out.print(made)
    lines = out.file.getvalue().splitlines()  # pyright: ignore[reportAttributeAccessIssue]
    assert len(lines) > 2 and max(map(len, lines)) <= 40


@pytest.mark.parametrize("verb", ["predict", "data check", "val", "profile", "models"])
def test_quiet_shows_results_alone(verb, shapes, few_coco, capsys, monkeypatch):
    words = {
        "predict": [str(PHOTOS), "--imgsz", "160"],
        "data check": [str(shapes)],
        "val": ["--data", str(few_coco), "--imgsz", "96", "--conf", "0.3"],
        "profile": ["csppeleenet", "--imgsz", "64"],
        "models": ["csppeleenet_ref"],
    }[verb]
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main([*verb.split(), *words]) == 0
    loud = capsys.readouterr()
    assert main([*verb.split(), *words, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert loud.err and quiet.err == "" and quiet.out


def test_a_quiet_training_says_how_it_ended(colours, tmp_path, capfd):
    words = ["train", "--model", "csppeleenet", "--data", str(colours), "--imgsz", "32", "--epochs", "1", "--batch"]
    assert main([*words, "12", "--workers", "0", "--out", str(tmp_path), "--name", "run", "--quiet"]) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(lines) == 2 and lines[0].startswith("best ") and lines[1] == f"everything is in {tmp_path / 'run'}"
