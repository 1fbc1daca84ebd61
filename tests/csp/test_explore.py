"""Explorations: what their rows hold, which are on the front, and what becomes of trainings."""

import csv
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import crossstage
from crossstage.cli import main
from crossstage.csp.explore import Costs, Exploration, ExplorationRow, classes_in, explore, pareto_front, with_accuracy
from crossstage.csp.explore.rows import BFLOPS, PARAMETERS, TRAFFIC, latency
from crossstage.errors import ConfigError, DataError, ExportError
from crossstage.nn import Partial
from crossstage.training import Interrupted, TrainOptions, result_of
from crossstage.weights.model_file import read_spec

NAME = "resnet10"  # few operations
QUICK = {"imgsz": 64, "rounds": 1, "threads": 1}
SMALL = TrainOptions(
    model="", data="", epochs=1, batch=16, workers=0, burn_in=0, lr=0.02, accelerator="cpu", sample_every=0
)


@pytest.fixture(scope="module")
def small() -> Exploration:
    return explore(NAME, gammas=[0.25, 0.5], fusions=["first"], num_classes=3, **QUICK)


def beats(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return first != second and first[0] <= second[0] and first[1] <= second[1]


measures = st.integers(0, 6).map(float) | st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(measures, measures), max_size=40))
def test_a_front_holds_what_nothing_beats_and_nothing_else(points):
    front = pareto_front(points)
    assert sorted(front) == [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
    assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_a_front_heeds_that_more_accuracy_is_better():
    def row(gamma: float, bflops: float, accuracy: float | None) -> ExplorationRow:
        return ExplorationRow(Partial(gamma), Costs(1, bflops, 1, 1, 1.0), accuracy=accuracy)

    rows = (row(0.1, 1.0, 0.5), row(0.2, 2.0, 0.4), row(0.3, 3.0, 0.8), row(0.4, 0.5, None), row(0.5, 3.0, 0.7))
    found = Exploration("x", 64, 10, "top-1", (), "", 1, rows)
    assert found.front(BFLOPS, found.accuracy) == [rows[0], rows[2]]
    assert found.front(found.accuracy, BFLOPS) == [rows[2], rows[0]]


def test_rows_hold_what_each_network_costs(small):
    assert [row.name for row in small.rows] == ["plain", "gamma 0.25, first, project", "gamma 0.5, first, project"]
    for row in small.rows:
        model = crossstage.create_model(NAME, 3, partial=row.partial)
        profile = crossstage.profile(model.eval(), 64)
        assert row.costs.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert row.costs.bflops == profile.flops / 1e9
        assert row.costs.traffic == profile.dram_bytes("fp32")
        assert row.costs.peak_memory == profile.peak_activation_bytes("fp32")
        flops = [layer.flops for layer in profile.layers if layer.flops]
        assert row.costs.bottleneck == pytest.approx(max(flops) / (sum(flops) / len(flops)))
        assert latency("torch").of(row) > 0
    assert small.ratio(small.rows[2], PARAMETERS) == small.rows[2].costs.parameters / small.rows[0].costs.parameters


def test_operations_of_published_networks_are_the_published_ones():
    found = explore("csppeleenet", gammas=[0.25, 0.5, 0.75], fusions=["both"], runtimes=())
    published = [0.986, 0.888, 0.800]  # table 1 of CSPNet's paper, which counts pooling, 0.001, as well
    for row, bflops in zip(found.rows[1:], published, strict=True):
        assert 0 < bflops - row.costs.bflops < 0.0015


def test_combinations_that_a_network_does_not_allow_are_rows_that_tell_why():
    found = explore("osanet40_5x43", gammas=[0.25], fusions=["last"], **QUICK)
    assert found.rows[0].costs and not found.rows[0].missing
    assert found.rows[1].costs is None and "carries 10.75 of 43 channels" in found.rows[1].missing["network"]
    assert found.front(BFLOPS, latency("torch")) == [found.rows[0]]


def test_a_runtime_that_cannot_run_a_network_is_told_in_its_row(monkeypatch):
    def refuse(*_, **__):
        raise ExportError("this network cannot be exported")

    monkeypatch.setattr("crossstage.deploy.benchmark.running.exported_file", refuse)
    found = explore(NAME, gammas=[0.5], fusions=["both"], runtimes=["torch", "onnxruntime"], **QUICK)
    for row in found.rows:
        assert list(row.milliseconds) == ["torch"] and row.missing == {"onnxruntime": "this network cannot be exported"}


def test_runtimes_are_timed_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path))
    (row,) = explore(NAME, gammas=[], runtimes=["torch", "onnxruntime"], **{**QUICK, "rounds": 3}).rows
    assert {name: len(times) for name, times in row.milliseconds.items()} == {"torch": 3, "onnxruntime": 3}


def test_a_detectors_backbone_is_varied():
    found = explore("csppeleenet_ref_efm_sam", gammas=[0.25], fusions=["both"], imgsz=96, runtimes=())
    assert found.metric == "AP" and all(row.costs for row in found.rows)
    assert found.rows[0].costs.bflops != found.rows[1].costs.bflops


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"backbone": "peleenett"}, "did you mean peleenet"),
        ({"gammas": [1.5]}, "gamma is 1.5"),
        ({"fusions": ["middle"]}, "'middle'; expected none, first, last or both"),
        ({"runtimes": ["tensorrt"]}, "runtime 'tensorrt' is unknown"),
        ({"imgsz": 50}, "expected a multiple of 32"),
        ({"rounds": 0}, "expected at least 1"),
    ],
)
def test_what_fits_no_row_is_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        explore(**{"backbone": "csppeleenet", **QUICK, **options})


def test_files_hold_the_rows_and_their_fronts(small, tmp_path):
    for suffix in ("json", "csv", "png"):
        small.save(tmp_path / f"explore.{suffix}")
    content = json.loads((tmp_path / "explore.json").read_text())
    assert [row["name"] for row in content["rows"]] == [row.name for row in small.rows]
    assert content["rows"][1]["partial"] == {"gamma": 0.25, "fusion": "first", "split": "project"}
    fronts = {tuple(front["measures"]): front["rows"] for front in content["fronts"]}
    assert fronts["traffic", "milliseconds_torch"] == [row.name for row in small.front(TRAFFIC, latency("torch"))]
    with (tmp_path / "explore.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["BFLOPs"]) for row in table] == pytest.approx([row.costs.bflops for row in small.rows], rel=1e-5)
    with Image.open(tmp_path / "explore.png") as image:
        assert min(image.size) > 300
    with pytest.raises(ConfigError, match="expected a name that ends in"):
        small.save(tmp_path / "explore.txt")


def test_each_network_is_trained_as_its_row_says_and_once(small, colours, tmp_path, monkeypatch):
    two = replace(small, rows=small.rows[:2])
    options = replace(SMALL, data=str(colours), out=str(tmp_path))
    seen = []
    found = with_accuracy(two, options, each=lambda known: seen.append([row.accuracy for row in known.rows]))
    assert all(0 <= row.accuracy <= 1 for row in found.rows) and found.trained and not small.trained
    assert seen[0][1] is None and seen[1] == [row.accuracy for row in found.rows]
    assert classes_in(options) == 3
    for row in found.rows:
        spec = read_spec(tmp_path / row.slug / "best.safetensors")
        assert spec.overrides["partial"] == row.partial and spec.preprocessing.size == (64, 64)
        assert row.accuracy == result_of(tmp_path / row.slug).best
        report = json.loads((tmp_path / row.slug / "report.json").read_text())
        assert report["top1"] == pytest.approx(row.accuracy)
    assert found.trade_offs[0][1].key == "accuracy"
    found.save(tmp_path / "explore.png")

    def never(*_, **__):
        raise AssertionError("a training that has ended was run again")

    monkeypatch.setattr("crossstage.csp.explore.accuracy.train", never)
    monkeypatch.setattr("crossstage.csp.explore.accuracy.resume", never)
    assert with_accuracy(two, options) == found
    with pytest.raises(ConfigError, match=r"plain holds a training with epochs=1; expected 2"):
        with_accuracy(two, replace(options, epochs=2))


def test_an_interrupted_training_goes_on(small, colours, tmp_path, monkeypatch):
    from crossstage.training.loop import Loop

    one = replace(small, rows=small.rows[:1])
    options = replace(SMALL, data=str(colours), out=str(tmp_path), epochs=2)
    heed = Loop._heed

    def stopped_after_an_epoch(loop, stop):
        stop.received = 2 if loop.progress.epoch == 1 else 0
        heed(loop, stop)

    monkeypatch.setattr(Loop, "_heed", stopped_after_an_epoch)
    with pytest.raises(Interrupted):
        with_accuracy(one, options)
    assert result_of(tmp_path / "plain") is None
    monkeypatch.setattr(Loop, "_heed", heed)
    found = with_accuracy(one, options)
    result = result_of(tmp_path / "plain")
    assert result is not None and len(result.history) == 2 and found.rows[0].accuracy == result.best


def test_a_training_that_diverges_is_told_in_its_row(small, colours, tmp_path, monkeypatch):
    monkeypatch.setattr("crossstage.training.loop.Loop._all_finite", lambda *_: False)
    options = replace(SMALL, data=str(colours), out=str(tmp_path))
    (row,) = with_accuracy(replace(small, rows=small.rows[:1]), options).rows
    assert row.accuracy is None and "is not finite" in row.missing["accuracy"]


def test_the_command_line_prints_a_table_and_writes_the_files(tmp_path, capsys):
    words = ["explore", "--backbone", NAME, "--gamma", "0.25", "--fusion", "last", "--imgsz", "64"]
    assert main([*words, "--rounds", "1", "--threads", "1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f"{NAME} at 64 x 64, 1000 classes" in printed and re.search(r"0\.25 +last +project +\d", printed)
    assert {file.name for file in tmp_path.iterdir()} == {"explore.json", "explore.csv", "explore.png"}


def test_the_command_line_trains_and_keeps_what_is_known_when_interrupted(colours, tmp_path, monkeypatch, capsys):
    asked = []

    def interrupted(found, training, **_):
        asked.append((found, training))
        raise Interrupted("stopped", 2)

    monkeypatch.setattr("crossstage.csp.explore.with_accuracy", interrupted)
    words = ["explore", "--backbone", "osanet40_5x43", "--gamma", "0.25", "--imgsz", "32", "--rounds", "1"]
    words += ["--train", str(colours), "--epochs", "3", "--batch", "16", "--out", str(tmp_path)]
    assert main(words) == 130
    assert "by the same command" in capsys.readouterr().err
    ((found, training),) = asked
    assert found.classes == 3 and (training.epochs, training.batch, training.out) == (3, 16, str(tmp_path))
    assert json.loads((tmp_path / "explore.json").read_text())["rows"] == found.to_dict()["rows"]


@pytest.mark.slow
def test_the_command_line_explores_and_trains(colours, tmp_path, capsys):
    words = [
        "explore",
        "--backbone",
        "csppeleenet",
        "--gamma",
        "0.5",
        "--fusion",
        "last",
        "--split",
        "project",
        "slice",
    ]
    words += ["--runtime", "torch,onnxruntime", "--rounds", "1"]
    assert main([*words, "--out", str(tmp_path), "--train", str(colours), "--epochs", "1", "--batch", "16"]) == 0
    assert "top-1" in capsys.readouterr().out
    content = json.loads((tmp_path / "explore.json").read_text())
    assert [row["name"] for row in content["rows"]] == ["plain", "gamma 0.5, last, project", "gamma 0.5, last, slice"]
    assert all(set(row["milliseconds"]) == {"torch", "onnxruntime"} for row in content["rows"])
    assert all(row["accuracy"] is not None for row in content["rows"])


def test_the_command_line_tells_what_is_wrong(tmp_path, capsys):
    assert main(["explore", "--backbone", "csppeleenet", "--gamma", "2", "--out", str(tmp_path)]) == 2
    assert "gamma is 2.0; expected a share" in capsys.readouterr().err
    with pytest.raises(DataError):
        classes_in(replace(SMALL, data=str(tmp_path / "nothing")))
