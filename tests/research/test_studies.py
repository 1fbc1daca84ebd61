"""The studies on CIFAR-10 and the GPU benchmark: steps, processes, figures; the kernel in Triton's interpreter."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import torch
from PIL import Image

from research.bench import gpu
from research.bench.roofline import BYTES, Ceilings, Work, bound_ms, layers_of
from research.bench.workers import Failure, end, heard, start
from research.studies import ablation, osa
from research.studies.studies import Summary, main, noise, standard_error, summaries
from research.studies.study import PAD, Network, Part, Recipe, Training, train_seed
from tests.research.obeying import obey

SMALL = Network("small", "osanet40_5x43", {"widths": (8, 8, 8), "outs": (16, 16, 16), "layers": 2})
OTHER = Network("other", "densenet40", {"depths": (1, 1, 1), "growth": 8, "act": "leaky"})
RECIPE = Recipe(batch=8, peak_lr=0.05)


def coloured(count: int) -> Part:
    """Images of noise on red, green or blue ground, by class."""
    random = np.random.default_rng(count)
    pixels = random.integers(0, 120, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count) % 3
    pixels[np.arange(count), :, :, labels] += 100
    return Part(torch.from_numpy(pixels), torch.from_numpy(labels))


@pytest.fixture
def trainings() -> list[Training]:
    train, test = coloured(48).padded(), coloured(24)
    return [Training(network, train, test, 3, RECIPE) for network in (SMALL, OTHER)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("colours")
    for split, count in (("train", 24), ("test", 12)):
        part = coloured(count)
        for number, (pixels, label) in enumerate(zip(part.images, part.labels, strict=True)):
            folder = root / split / "rgb"[int(label)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    return root


def test_networks_learn(trainings):
    for entry in train_seed(trainings, seed=0, epochs=8, deadline=monotonic() + 60):
        assert len(entry["accuracy"]) == len(entry["loss"]) == 8
        assert entry["accuracy"][-1] == 1.0 and entry["loss"][-1] < entry["loss"][0]


def test_a_seed_gives_the_same_run_whatever_ran_before(trainings):
    first, second, again = (list(train_seed(trainings, seed, 2, monotonic() + 60)) for seed in (0, 1, 0))
    for one, two, three in zip(first, second, again, strict=True):
        assert one["loss"] == three["loss"] and one["accuracy"] == three["accuracy"]
        assert one["loss"] != two["loss"]


def test_no_epoch_begins_after_the_deadline(trainings):
    assert [entry["accuracy"] for entry in train_seed(trainings, 0, 5, monotonic() - 1)] == [[], []]


def test_the_rate_rises_to_its_peak_and_falls_to_nothing(trainings):
    training = trainings[0]
    rates = []
    for epoch in range(5):
        training.begin_epoch(0, epoch, 5)
        rates += training.rates.tolist()
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(RECIPE.peak_lr, rel=0.1)
    assert peak / len(rates) == pytest.approx(RECIPE.warm_up, abs=0.05)
    assert np.all(np.diff(rates[: peak + 1]) > 0) and np.all(np.diff(rates[peak + 1 :]) < 0)
    assert 0 < rates[-1] < 0.05 * RECIPE.peak_lr


def test_a_step_sees_its_images_shifted_and_mirrored(trainings):
    training = trainings[0]
    training.begin_epoch(3, 0, 1)
    seen: list[torch.Tensor] = []
    training.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    training.train_step()
    training.train_step()
    for step, images in enumerate(seen):
        for place, image in enumerate(images, start=step * RECIPE.batch):
            source = np.pad(coloured(48).images[training.order[place]].numpy(), ((PAD, PAD), (PAD, PAD), (0, 0)))
            top, left = (int(shift) for shift in training.shifts[:, place])
            window = source[top : top + 32, left : left + 32]
            window = window[:, ::-1] if training.mirrored[place] else window
            expected = (window / 255 - training.mean.numpy()) / training.std.numpy()
            np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5)


@pytest.mark.slow
def test_the_ablation_runs_and_reports(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ablation, "counted", lambda row: (row.bflops, row.weights))  # test_claims.py counts them
    broken = Network("broken", "csppeleenet", {"act": "no such activation"})
    chosen = [ablation.STUDY.networks[0], ablation.STUDY.networks[-1], broken]
    study = replace(ablation.STUDY, networks=chosen, recipe=Recipe(enlarge=2, batch=8))
    out = tmp_path / "out" / "ablation.json"
    main(study, ablation.report, ["run", "--data", str(data), "--out", str(out), "--epochs", "1", "--seeds", "2"])
    results = json.loads(out.read_text())
    assert [run["seed"] for run in results["runs"]] == [0, 0, 1, 1]
    assert "no such activation" in results["failures"]["broken"]
    capsys.readouterr()
    main(study, ablation.report, ["report", str(out), "--docs", str(tmp_path)])
    page = capsys.readouterr().out
    assert page.count("not measured") == 10  # of the twelve of the table
    assert "2 seeds" in page and "short schedule" in page and "broken is missing" in page
    assert json.loads((tmp_path / "ablation.json").read_text()) == results


@pytest.mark.slow
def test_the_osa_study_runs_reports_and_draws(data, tmp_path, capsys):
    small = {"densenet40": {"depths": (3, 3, 3)}, "osanet40_12x20": {"layers": 3}, "osanet40_5x43": {"layers": 3}}
    networks = [replace(each, settings={**each.settings, **small[each.name]}) for each in osa.STUDY.networks]
    study = replace(osa.STUDY, networks=networks, recipe=Recipe(batch=8))
    out = tmp_path / "osa.json"
    words = ["run", "--data", str(data), "--out", str(out), "--epochs", "1", "--seeds", "1", "--images", "8"]
    main(study, osa.report, words)
    capsys.readouterr()
    main(study, osa.report, ["report", str(out), "--docs", str(tmp_path)])
    assert "not measured" not in capsys.readouterr().out
    for name in ("densenet40", "osanet40_12x20", "osanet40_5x43"):
        assert (tmp_path / "images" / f"osa_{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_densenet_40s_memory_access_is_the_published_one():
    assert osa.access(osa.CLAIMS[0].network)[2] == pytest.approx(3.7, abs=0.05)


def test_processes_that_fail_are_told_of_and_the_rest_is_heard():
    workers = [start("raising", obey), start("ending", obey)]
    try:
        workers[0].tell("raise")
        workers[1].tell("end")
        messages = {worker.name: message for worker, message in heard(workers, monotonic() + 60)}
        assert messages == {
            "raising": Failure("ValueError: as told"),
            "ending": Failure("its process ended with code 3"),
        }
        workers[1].tell("nobody hears this")
    finally:
        end(workers)


def test_spread_is_pooled_over_networks():
    runs = [("a", 0.90), ("a", 0.92), ("b", 0.80), ("b", 0.80), ("b", 0.83), ("c", 0.5)]
    results = {"epochs": 1, "runs": [{"label": label, "accuracy": [score]} for label, score in runs]}
    results["runs"].append({"label": "a", "accuracy": []})  # cut off by the deadline
    found = summaries(results)
    assert found["a"].mean == pytest.approx(91) and found["a"].seeds == 2
    assert found["c"].seeds == 1 and np.isnan(found["c"].deviation)
    squares = [1, 1, 1, 1, 4]  # of the distances from a's and b's means, in points
    assert noise(found) == pytest.approx(np.sqrt(sum(squares) / 3))
    assert standard_error(Summary(0, 0, 3), Summary(0, 0, 3), 0.3) == pytest.approx(0.3 * np.sqrt(2 / 3))
    assert np.isnan(noise({"c": found["c"]}))


def test_rank_correlation_counts_order_alone():
    assert ablation.rank_correlation([1, 2, 3], [10, 11, 90]) == pytest.approx(1)
    assert ablation.rank_correlation([1, 2, 3], [5, 4, 0]) == pytest.approx(-1)
    assert ablation.rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)  # scipy.stats.spearmanr


def test_a_layer_takes_as_long_as_its_longer_part():
    layers = [Work(flops=4e12, moved=1e9), Work(flops=1e9, moved=3e12)]
    assert bound_ms(layers, Ceilings(flops=2e12, bandwidth=1e12)) == pytest.approx(2e3 + 3e3)
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3, padding=1, bias=False), torch.nn.ReLU())
    (layer,) = layers_of(model, (2, 8, 10, 10))
    assert layer.flops == 2 * 2 * 100 * 16 * 8 * 9
    assert layer.moved == BYTES * (2 * 100 * (8 + 16) + 16 * 8 * 9)


@pytest.mark.slow
def test_the_gpu_page_tells_what_was_not_measured(capsys):
    row = {"row": "csppeleenet", "side": "ours", "form": "compiled", "batch": 1, "training": False, "ms": 2.0}
    failures = {"csppeleenet, stage 1: joints": "no time was left to compile it"}
    measured = {
        "piece": "cspresnet50, stage 1: joints",
        "ms": {"eager": 2.0, "compiled": 1.5, "kernel": 1.0},
        "error": 3e-3,
    }
    results = {"machine": "a GPU", "date": "today", "ceilings": {"flops": 8e14, "bandwidth": 3e12}, "rows": [row]}
    gpu.report(results | {"pieces": [measured], "parity": {}, "failures": failures})
    page = capsys.readouterr().out
    assert "| `csppeleenet` 224 | – | – | 2.00 | – | – | – |" in page
    assert "- csppeleenet, stage 1: joints: no time was left to compile it" in page
    assert "in 0 of 17 pieces" in page or "in 1 of 17 pieces" in page


KERNEL = """
import torch
from research.bench.gpu_kernels import Tile
from research.bench.gpu_stages import _kernel, pieces_of
for piece in pieces_of("csppeleenet", 64):
    inputs = piece.inputs(1, "cpu", torch.float32)
    with torch.no_grad():
        expected = piece.module(*inputs)
    kernel = _kernel(piece)
    found = kernel([Tile(64, 64, 32, 4, 2)] * len(kernel.steps), *inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-4, atol=1e-4)
    print(piece.label)
"""


@pytest.mark.slow
def test_the_kernel_computes_joints_and_dense_reads():
    pytest.importorskip("triton")
    folders = os.pathsep.join(sys.path)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": folders}
    told = subprocess.run([sys.executable, "-c", KERNEL], capture_output=True, text=True, env=environment, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    assert len(told.stdout.splitlines()) == 4 + 4
