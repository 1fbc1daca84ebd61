"""The benchmark: every row is timed or says why not, and what is told of it follows from what was measured."""

import io
import json
import os
import statistics

import numpy as np
import pytest
import torch
from rich.console import Console

import crossstage
from crossstage import ConfigError
from crossstage.deploy.benchmark import benchmark as module
from crossstage.deploy.benchmark import peak
from crossstage.deploy.benchmark.benchmark import benchmark
from crossstage.deploy.benchmark.memory import peak_mib
from crossstage.deploy.benchmark.peak import Peak, TimedConvolution, best, convolutions
from crossstage.deploy.benchmark.peers import DARKNET, PINNED, opencv_darknet, own_cores
from crossstage.deploy.benchmark.printing import print_benchmark
from crossstage.deploy.benchmark.results import Benchmark, BenchmarkRow
from tests.sweep import sweep

FIELDS = ("median", "p10", "p90", "images_per_second", "gflops_per_second", "share_of_peak", "share_of_direct_peak")


@pytest.fixture(autouse=True)
def _small(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path_factory.getbasetemp() / "benchmark"))
    monkeypatch.setattr(peak, "CONVOLUTIONS", ((16, 3, 8),))
    for name, value in {"CALIBRATION": 2, "PEAK_ROUNDS": 1, "BURST": 1}.items():
        monkeypatch.setattr(module, name, value)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_row_is_timed_or_says_why_not(tmp_path):
    """OpenCV reads a Maxout of Darknet's files, as groups of channels that it pools, and then cannot run it."""
    options = {"runtimes": ["torch-eager", "onnxruntime-int8"], "peers": True, "rounds": 2, "memory": False}
    result = benchmark(["csppeleenet_ref_efm_sam"], imgsz=64, threads=1, **options)
    rows = {(row.runtime, row.precision): row for row in result.rows if row.model == "csppeleenet_ref_efm_sam"}
    assert {(DARKNET, "fp32"), (PINNED, "fp32"), ("torch eager", "fp32"), ("ONNX Runtime", "int8")} <= set(rows)
    assert all(bool(row.milliseconds) != bool(row.why) for row in result.rows)
    assert rows[DARKNET, "fp32"].why and "\n" not in rows[DARKNET, "fp32"].why
    assert len(rows["torch eager", "fp32"].milliseconds) == 2 and result.calibration == "2 inputs of noise"
    result.save(tmp_path / "all.json")
    saved = json.loads((tmp_path / "all.json").read_text())
    for row in saved["rows"]:
        assert row["why"] or set(FIELDS) <= set(row)
    out = io.StringIO()
    print_benchmark(result, Console(file=out, width=200))
    assert rows[DARKNET, "fp32"].why in out.getvalue()


def test_numbers_follow_from_times():
    times = tuple(float(ms) for ms in range(1, 101))
    row = BenchmarkRow("x", "torch eager", "fp32", 64, gflops=2.0, milliseconds=times)
    base = BenchmarkRow("x", DARKNET, "fp32", 64, gflops=2.0, milliseconds=(101.0,))
    peaks = (Peak("fp32", False, 50.0, "a"), Peak("fp32", True, 200.0, "b"), Peak("bf16", False, 1.0, "c"))
    result = Benchmark("m", 1, (row, base), peaks, "noise", {})
    assert row.median == np.median(times)
    assert [row.percentile(p) for p in (10, 90)] == pytest.approx(np.percentile(times, (10, 90)), abs=0.5)
    assert row.rate == pytest.approx(2.0 / statistics.median(times) * 1e3)
    assert result.share(row, winograd=False) == pytest.approx(row.rate / 50)
    assert result.share(row, winograd=True) == pytest.approx(row.rate / 200)
    assert result.baseline(row) is base


def test_the_peak_is_the_best_of_its_kind():
    made = [
        TimedConvolution("slow", "fp32", False, 1.0, lambda: None),
        TimedConvolution("fast", "fp32", False, 1.0, lambda: None),
        TimedConvolution("clever", "fp32", True, 1.0, lambda: None),
    ]
    peaks = best(made, {"slow": 10.0, "fast": 5.0, "clever": 2.0})
    assert [(peak.name, peak.rate) for peak in peaks] == [("fast", 200.0), ("clever", 500.0)]


def test_the_convolutions_of_the_peak_are_those_that_they_claim():
    """All libraries compute the same one, so none skips work."""
    torch.manual_seed(0)
    outputs = {}
    for one in convolutions(1):
        result = one.run()
        outputs[one.name] = torch.as_tensor(result[0] if isinstance(result, list) else result).float()
    assert len(outputs) >= 6
    wanted = next(value for name, value in outputs.items() if name.startswith("torch fp32"))
    for name, found in outputs.items():
        tolerance = 1e-4 if "fp32" in name else 0.1
        torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()), msg=name)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads are not bound here")
def test_a_run_with_cores_of_its_own_computes_the_same_and_lets_go_of_them():
    model = crossstage.load("cspdarknet53_tiny_yolo.coco")
    images = torch.rand(1, 3, 64, 64)
    run = opencv_darknet(model, 64, 2)
    bound = own_cores(run, 64, 2)
    before = os.sched_getaffinity(0)
    for found, wanted in zip(bound(images), run(images), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("way", sweep(["torch", f"cspdarknet53_tiny_yolo.coco, {DARKNET}"], bool))
def test_peak_memory_is_that_of_the_run(way):
    used = peak_mib("cspdarknet53_tiny_yolo.coco", way, 256, 1)
    if used is None:
        pytest.skip("the system does not tell")
    assert 10 < used < 1000


@pytest.mark.parametrize(("options", "told"), [({"runtimes": ["tflite"]}, "tflite"), ({"rounds": 0}, "rounds=0")])
def test_options_that_do_not_fit_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        benchmark(["csppeleenet"], **options)
