"""Checkpoints of others: read without running anything, under the names that their authors give tensors."""

from __future__ import annotations

import hashlib
import os
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import crossstage
from crossstage.cli import main
from crossstage.errors import ConfigError, WeightsError
from crossstage.weights import published
from crossstage.weights.authors import AUTHORS
from crossstage.weights.checkpoints import read_checkpoint
from crossstage.weights.model_file import read_spec
from crossstage.weights.ref import parse
from tests.parity import digest


def _saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def state() -> dict[str, Tensor]:
    return digest("yolox_nano").state


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: {"start_epoch": 300, "model": x, "optimizer": {"state": {0: {"step": 1}}}},
        lambda x: {"model": x, "best_ap": np.float64(0.258), "curr_ap": np.float32(0.25), "scale": torch.ones(1)},
        lambda x: {"meta": {"epoch": 300}, "state_dict": x, "ema_state_dict": {"module.a": torch.zeros(9)}},
        lambda x: {"model": {"a": torch.zeros(9)}, "ema": {"module": x, "updates": 7}},
    ],
)
def test_tensors_are_found_where_training_code_puts_them(tmp_path, wrap):
    tensors = {"a": torch.arange(3).half(), "b": torch.arange(2)}
    found = read_checkpoint(_saved(tmp_path / "x.pth", wrap(tensors)))
    assert found.keys() == tensors.keys()
    assert found["a"].dtype == torch.float32
    assert found["b"].tolist() == [0, 1]


def test_safetensors_are_read_too(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    assert read_checkpoint(tmp_path / "x.safetensors")["a"].tolist() == [1, 1]


def test_logs_beside_the_tensors_are_passed_over(tmp_path, monkeypatch):
    module = types.ModuleType("mmengine.logging.history_buffer")
    source = """
class HistoryBuffer:
    def __init__(self, values):
        self.values, self.methods = values, {"mean": self.mean}
    def mean(self):
        return self.values.mean()
"""
    exec(source, module.__dict__)
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module if name == module.__name__ else types.ModuleType(name))
    log = module.HistoryBuffer(np.arange(5.0))
    file = _saved(
        tmp_path / "x.pth", {"message_hub": {"log": log, "at": np.int64(3)}, "state_dict": {"a": torch.ones(2)}}
    )
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    assert read_checkpoint(file)["a"].tolist() == [1, 1]


class _Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made_by_a_checkpoint",)


def test_what_could_run_code_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"x\.pth: wants to build more .* (posix|nt)\.mkdir"):
        read_checkpoint(_saved(tmp_path / "x.pth", {"model": _Harmful()}))
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_checkpoint(_saved(tmp_path / "y.pt", {"model": torch.nn.Linear(1, 1)}))
    assert not (tmp_path / "made_by_a_checkpoint").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"epoch": 1}}, "holds no tensors by name; its keys are epoch"),
        ({}, "it is empty"),
        ([torch.ones(1)], "holds a list"),
    ],
)
def test_files_without_tensors_are_refused(tmp_path, content, message):
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(_saved(tmp_path / "x.pth", content))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off", b"\x80\x02"])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.pth"):
        read_checkpoint(tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "y.pth")


def test_a_checkpoint_is_imported_by_the_command_line(tmp_path, state, capsys):
    file = _saved(tmp_path / "yolox_nano.pth", {"model": state, "start_epoch": 300})
    assert main(["import", str(file), "--as", "yolox_nano", "--licence", "Apache-2.0"]) == 0
    written = tmp_path / "yolox_nano.safetensors"
    assert hashlib.sha256(written.read_bytes()).hexdigest() in capsys.readouterr().out
    model, expected = crossstage.load(written), crossstage.from_authors("yolox_nano", state)
    assert model.class_names[:2] == ("person", "bicycle")
    assert model.preprocessing == expected.preprocessing
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(model(x).values(), expected(x).values(), strict=True))
    origin = read_spec(written).provenance
    assert origin is not None
    assert origin.licence == "Apache-2.0"
    assert origin.source_file == "yolox_nano.pth"
    assert origin.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "YOLOX" in origin.source


def test_wrong_imports_are_explained(tmp_path, state, capsys):
    file = _saved(tmp_path / "x.pth", {"model": state})
    assert main(["import", str(file), "--as", "yolox_tiny"]) == 2
    assert "x.pth: backbone.stages" in capsys.readouterr().err
    assert main(["import", str(file), "--as", "yolox_nan"]) == 2
    assert "yolox_nano" in capsys.readouterr().err
    assert main(["import", str(file), "--as", "yolox_nano", "--class-names", "a", "b"]) == 2
    assert "2 class names for num_classes=80" in capsys.readouterr().err
    save_file(state, tmp_path / "x.safetensors")
    assert main(["import", str(tmp_path / "x.safetensors"), "--as", "yolox_nano"]) == 2
    assert "is the checkpoint itself" in capsys.readouterr().err


def test_from_authors_takes_a_whole_file(state):
    model = crossstage.from_authors("yolox_nano", {"model": state, "start_epoch": 300})
    assert len(model.class_names) == 80


@pytest.fixture
def fetched(tmp_path, state, monkeypatch) -> str:
    """An entry of weights in the net whose file is in the cache; returns its hash."""
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path))
    entry = published.PRETRAINED["yolox_nano.coco"]
    entry.path.parent.mkdir(parents=True, exist_ok=True)
    file = _saved(entry.path, {"model": state})
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(published.PRETRAINED, entry.name, replace(entry, sha256=sha256, size=file.stat().st_size))
    return sha256


def test_weights_are_loaded_by_family_and_size(fetched, state):
    expected = crossstage.from_authors("yolox_nano", state)
    for spelled in ("yolox:nano", "yolox:nano.coco", "yolox_nano", "yolox_nano.coco"):
        model = crossstage.load(spelled)
        assert torch.equal(model.head.classes[0].weight, expected.head.classes[0].weight)
        assert model.class_names[0] == "person"
    fresh = crossstage.create_model("yolox:nano.coco", num_classes=3)
    assert fresh.head.classes[0].weight.shape[0] == 3
    assert torch.equal(fresh.head.boxes[0].weight, expected.head.boxes[0].weight)


def test_a_known_file_brings_its_origin(fetched, tmp_path):
    path = published.PRETRAINED["yolox_nano.coco"].path
    assert main(["import", str(path), "--as", "yolox_nano", "--out", str(tmp_path / "mine.safetensors")]) == 0
    origin = read_spec(tmp_path / "mine.safetensors").provenance
    assert origin is not None
    assert (origin.licence, origin.trained_on, origin.sha256) == ("Apache-2.0", "COCO train2017", fetched)


def test_a_family_s_unknown_size_is_refused():
    assert parse("yolox:tiny").tagged == "yolox_tiny"
    with pytest.raises(ConfigError, match="yolox:huge"):
        parse("yolox:huge")


def test_every_entry_of_authors_fits_a_network():
    entries = [entry for entry in published.PRETRAINED.values() if entry.kind == "authors"]
    assert {entry.model for entry in entries} >= {f"yolox_{size}" for size in ("nano", "tiny", "s", "m", "l", "x")}
    for entry in entries:
        assert entry.model in AUTHORS
        assert entry.url.startswith("https://")
        assert len(entry.sha256) == 64
        # A file holds float32 parameters at least; YOLOX's hold the optimiser's momentum as well.
        assert entry.size > 4 * crossstage.model_info(entry.model).parameters
