"""Where a run's figures go: real trackers get all of them, a run that goes on stays one, and none harms a training."""

import csv
import http.server
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from crossstage.cli import main
from crossstage.errors import ConfigError
from crossstage.training import TrainOptions, resume, trackers, train
from crossstage.training.options import RunOptions
from crossstage.training.trackers import KNOWN_RUNS, RunTracker, Trackers, check_trackers, is_offline

QUICK = TrainOptions(
    model="cspdarknet_x_nano", epochs=1, imgsz=32, batch=16, workers=0, accelerator="cpu", name="run", sample_every=1
)


class Fake(RunTracker):
    """Keeps what it is told, of every run by its id."""

    kept: ClassVar[dict[str, list[tuple[str, Any]]]] = {}
    fails_at: ClassVar[str] = ""

    @classmethod
    def open(cls, folder: Path, run: str | None) -> RunTracker:
        if cls.fails_at == "open":
            raise SystemExit(1)
        return cls(None, run or f"id{len(cls.kept)}")

    def note(self, what: str, value: Any) -> None:
        if self.fails_at == what:
            raise ConnectionError("the server is gone\nand more")
        self.kept.setdefault(str(self.run), []).append((what, value))

    def describe(self, settings: Mapping[str, Any]) -> None:
        self.note("describe", settings)

    def figures(self, values: Mapping[str, float], epoch: int) -> None:
        self.note("figures", (epoch, values))

    def show(self, path: Path, epoch: int) -> None:
        self.note("show", path.name)

    def close(self, status: str) -> None:
        self.note("close", status)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(Fake, "kept", {})
    monkeypatch.setattr(Fake, "fails_at", "")
    monkeypatch.setattr(trackers, "KINDS", {"mlflow": Fake})
    return Fake


def options(data: Path, tmp_path: Path, **changes: Any) -> TrainOptions:
    return TrainOptions(**{**vars(QUICK), "data": str(data), "out": str(tmp_path), "logger": ("mlflow",), **changes})


def test_a_tracker_gets_plan_figures_images_and_end(fake, colours, tmp_path):
    result = train(options(colours, tmp_path))
    (told,) = fake.kept.values()
    assert [what for what, _ in told] == ["describe", "figures", "show", "close"]
    settings, (epoch, figures) = told[0][1], told[1][1]
    assert settings["model"] == "cspdarknet_x_nano" and settings["augment.flip"] == 0.5 and settings["classes"] == 3
    assert epoch == 1 and figures == {k: v for k, v in result.history[0].items() if k != "epoch"}
    assert {"top1", "lr", "seconds", "images_per_second"} <= figures.keys() and told[-1][1] == "success"


def test_a_run_that_goes_on_is_the_same_one(fake, colours, tmp_path):
    folder = train(options(colours, tmp_path)).folder
    assert json.loads((folder / KNOWN_RUNS).read_text()) == {"mlflow": "id0"}
    resume(folder, epochs=2)
    (told,) = fake.kept.values()
    assert [what for what, _ in told].count("describe") == 1
    assert [value[0] for what, value in told if what == "figures"] == [1, 2]


@pytest.mark.parametrize("when", ["open", "describe", "figures", "show", "close"])
def test_a_tracker_that_fails_is_told_of_once(fake, when, tmp_path):
    fake.fails_at = when
    said: list[str] = []
    all_ = Trackers(["mlflow"], tmp_path, settings={}, going_on=False, say=said.append)
    (tmp_path / "sheet.jpg").touch()
    for epoch in (1, 2):
        all_.figures({"epoch": epoch, "AP": 0.5})
        all_.show(tmp_path / "sheet.jpg", epoch)
    all_.close("success")
    (line,) = said
    assert line.startswith("logger mlflow: ") and "goes on without it" in line and "\n" not in line


def test_a_tracker_that_does_not_answer_is_left_behind(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "PATIENCE", 0.05)
    said: list[str] = []
    all_ = Trackers(["mlflow"], tmp_path, settings={}, going_on=False, say=said.append)
    monkeypatch.setattr(Fake, "figures", lambda *_: time.sleep(1))
    began = time.monotonic()
    for epoch in (1, 2, 3):
        all_.figures({"epoch": epoch})
    assert time.monotonic() - began < 0.5 and len(said) == 1 and "has not answered" in said[0]


def test_a_killed_training_is_told_as_such(fake, colours, tmp_path, monkeypatch):
    from crossstage.training import Interrupted
    from crossstage.training.loop import Loop

    def stopped(self: Loop) -> None:
        raise Interrupted("stopped", 2)

    monkeypatch.setattr(Loop, "run", stopped)
    with pytest.raises(Interrupted):
        train(options(colours, tmp_path))
    (told,) = fake.kept.values()
    assert told[-1] == ("close", "killed")
    assert not (tmp_path / "run").exists()  # which had got nowhere


def test_what_is_not_installed_is_told_before_anything_is_read(monkeypatch, capsys):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    check_trackers(["tensorboard", "csv"])
    with pytest.raises(ConfigError, match=r"pip install 'crossstage\[wandb\]'"):
        check_trackers(["csv", "wandb"])
    assert main(["train", "no_such_data", "--logger", "csv", "mlflow"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_loggers_are_options_like_others(tmp_path):
    assert RunOptions.plain("m").logger == ("tensorboard",)
    assert TrainOptions(logger=["csv", "wandb"]).logger == ("csv", "wandb")  # pyright: ignore
    (tmp_path / "c.yaml").write_text("model: m\nlogger: [mlflow, wandb]\n")
    assert TrainOptions.from_yaml(tmp_path / "c.yaml").logger == ("mlflow", "wandb")
    with pytest.raises(ConfigError, match="logger"):
        TrainOptions(logger=("mlfow",))  # pyright: ignore


def test_csv_alone_leaves_no_other_files(colours, tmp_path):
    folder = train(options(colours, tmp_path, logger=("csv",))).folder
    assert (folder / "metrics.csv").is_file()
    assert not {"tensorboard", "wandb", KNOWN_RUNS} & {file.name for file in folder.iterdir()}


def test_tensorboard_has_what_metrics_csv_has(colours, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(options(colours, tmp_path, logger=("tensorboard",))).folder
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    with (folder / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert set(events.Tags()["scalars"]) == row.keys() - {"epoch"}
    assert events.Scalars("top1")[0].value == pytest.approx(float(row["top1"]), abs=1e-5)
    assert events.Tags()["images"] == ["samples"] and "plan/text_summary" in events.Tags()["tensors"]


def test_nothing_is_sent_that_nobody_asked_to_send(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert is_offline()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert not is_offline()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert is_offline()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert not is_offline()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert is_offline()


@pytest.mark.slow
def test_mlflow_has_one_run_of_a_training_that_goes_on(colours, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = train(options(colours, tmp_path / "my runs")).folder
    resume(folder, epochs=2)
    client = MlflowClient(f"sqlite:///{tmp_path / 'my runs' / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "crossstage"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert run.data.params["model"] == "cspdarknet_x_nano" and run.data.params["epochs"] == "1"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "top1")] == [1, 2]
    assert {"samples/epoch001.jpg"} <= {file.path for file in client.list_artifacts(run.info.run_id, "samples")}


@pytest.mark.slow
def test_mlflows_server_may_go_away(colours, tmp_path, monkeypatch, capsys):
    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(503)

        def log_message(self, *_: Any) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = train(options(colours, tmp_path, logger=("mlflow", "csv")))
    server.shutdown()
    assert len(result.history) == 1 and capsys.readouterr().err.count("logger mlflow: ") == 1


@pytest.mark.slow
def test_wandb_writes_offline_and_keeps_its_id(colours, tmp_path, monkeypatch, capsys):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    folder = train(options(colours, tmp_path, logger=("wandb",))).folder
    resume(folder, epochs=2)
    run = json.loads((folder / KNOWN_RUNS).read_text())["wandb"]
    written = list((folder / "wandb").glob(f"offline-run-*-{run}/run-{run}.wandb"))
    assert written and all(file.stat().st_size > 1000 for file in written)
    said = capsys.readouterr().err
    assert "W&B writes to" in said and "logger wandb" not in said
