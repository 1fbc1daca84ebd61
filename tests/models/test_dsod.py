"""DSOD: published sizes and maps, its connections, and what users do with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import crossstage
from crossstage.analysis import count_flops
from crossstage.deploy.export import export
from crossstage.errors import ConfigError
from crossstage.models.backbones.dsod import DSODConfig
from crossstage.models.necks.dsod import DSODConnectionsConfig
from crossstage.models.published import DETECTORS
from crossstage.nn import ConvStyle, Partial
from crossstage.training import resume, train
from crossstage.weights.starting import start_model
from tests.conftest import PHOTOS
from tests.models.test_ssd import options, targets

SMALL = {"depths": (1, 1, 1, 1), "growth": 8, "hidden": 8, "stem": (8, 8, 8), "last": 16}


@pytest.mark.parametrize(
    ("name", "parameters", "gmac"),
    [  # with VOC's 20 classes: counted from the release, which the DSOD paper gives as 14.8M; VoVNet's table 2
        ("dsod300_densenet", 14.716e6, None),
        ("dsod300_densenet67", 5.9e6, 5.3),
        ("dsod300_vovnet27_slim", 5.9e6, 5.6),
    ],
)
def test_sizes_and_costs_are_the_published_ones(name, parameters, gmac):
    with torch.device("meta"):
        model = crossstage.create_model(name, num_classes=20).eval()
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == pytest.approx(parameters, rel=1e-4 if parameters == 14.716e6 else 0.012)
    if gmac is not None:
        assert count_flops(model, (1, 3, 300, 300)) / 2e9 == pytest.approx(gmac, rel=0.01)


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("dsod300_densenet", [38, 19, 10, 5, 3, 2]),
        ("dsod300_vovnet27_slim", [37, 18, 9, 5, 3, 2]),
        ("dsod300_csppeleenet", [37, 18, 9, 5, 3, 2]),
        ("dsod300_resnet18", [38, 19, 10, 5, 3, 2]),
    ],
)
def test_maps_have_the_published_numbers_of_cells(name, cells):
    with torch.device("meta"), torch.no_grad():
        raw = crossstage.create_model(name, num_classes=2).eval()(torch.empty(1, 3, 300, 300))
    assert [raw[f"boxes{level}"].shape[2] for level in range(6)] == cells
    assert [raw[f"boxes{level}"].shape[1] // 4 for level in range(6)] == [4, 6, 6, 6, 4, 4]


def test_default_boxes_have_the_released_sizes():
    model = crossstage.create_model("dsod300_densenet", num_classes=2, **SMALL).eval()
    with torch.no_grad():
        priors = model.head.priors(model(torch.zeros(1, 3, 300, 300)), (300, 300))
    first = priors[:4]
    sides = (first[:, 2:] - first[:, :2]).tolist()
    assert sides[0] == pytest.approx([30, 30]) and sides[1] == pytest.approx([(30 * 60) ** 0.5] * 2)
    assert sides[2] == pytest.approx([30 * 2**0.5, 30 / 2**0.5]) and sides[3] == pytest.approx(sides[2][::-1])
    assert ((first[:, :2] + first[:, 2:]) / 2).flatten().tolist() == pytest.approx([4] * 8, abs=1e-4)
    last = priors[-16:]
    assert ((last[:, :2] + last[:, 2:]) / 2)[::4].tolist() == [[150, 150], [450, 150], [150, 450], [450, 450]]


def test_half_of_a_dense_map_is_the_pooled_one_before():
    dense, plain = (
        DSODConnectionsConfig(dense=dense, dense_widths=(8,)).build([6, 10], [8, 16], style=ConvStyle("relu"))
        for dense in (True, False)
    )
    assert dense.channels == [6, 266, 8] and plain.channels == [6, 10, 8]
    assert dense.strides == plain.strides == [8, 16, 32]
    features = [torch.rand(2, 6, 9, 9), torch.rand(2, 10, 5, 5)]
    dense.eval()
    before = dense(features)[2]
    nn.init.zeros_(dense.extras[0].convolved[-1].weight)
    after = dense(features)[2]
    assert after[:, :4].abs().sum() > 0 and after[:, 4:].abs().sum() == 0 and before[:, 4:].abs().sum() > 0
    for x in (*dense(features), *plain(features)):
        torch.testing.assert_close(x.norm(dim=1), torch.full_like(x[:, 0], 20.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DSODConnectionsConfig(reads=(8,)), "expected at least two"),
        (lambda: DSODConnectionsConfig(reads=(8, 32)), "expected each to be twice the one before"),
        (lambda: DSODConnectionsConfig(dense_widths=(7,)), "expected numbers of channels, the latter even"),
        (lambda: DSODConfig(depths=(1, 1, 1)), "expected as many of one as of the other"),
        (lambda: DSODConfig(compression=0), "expected a share of channels"),
        (lambda: DSODConfig(partial=Partial()), "this network has no partial form"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("name", ["dsod300_densenet", "dsod300_vovnet27_slim", "dsod300_csppeleenet"])
def test_any_size_trains_all_parameters(name):
    settings = SMALL if name == "dsod300_densenet" else {}
    model = crossstage.create_model(name, num_classes=2, **settings)
    given = targets(torch.tensor([[4.0, 4, 50, 50], [10, 10, 30, 40], [1, 1, 9, 9]]), [0, 1, 0], [0, 0, 2])
    size = (90, 70) if name == "dsod300_densenet" else (88, 72)
    parts = model.loss(torch.rand(3, 3, *size), given)
    sum(parts.values()).backward()
    assert all(torch.isfinite(part) for part in parts.values())
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_fused_it_computes_the_same_without_batch_norms_of_predictors():
    model = crossstage.create_model("dsod300_densenet", num_classes=2, **SMALL).train()
    with torch.no_grad():
        model(torch.randn(4, 3, 96, 96))
    fused = crossstage.fuse(model.eval())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.head.modules())
    x = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        for part, expected in model(x).items():
            torch.testing.assert_close(fused(x)[part], expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def registered() -> Iterator[str]:
    row = DETECTORS["dsod300_densenet"]
    DETECTORS["narrow_dsod"] = replace(
        row, backbone=replace(row.backbone, **SMALL), neck=DSODConnectionsConfig(bridge=16, dense_widths=(16,) * 4)
    )
    yield "narrow_dsod"
    del DETECTORS["narrow_dsod"]


def test_it_trains_and_goes_on_bit_for_bit_and_its_norms_carry_over(registered, shapes, tmp_path):
    whole = train(options(registered, shapes, tmp_path, name="whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 2)
        train(options(registered, shapes, tmp_path, name="parts"))
    parts = resume(tmp_path / "parts")
    one, other = (crossstage.load(folder).state_dict() for folder in (whole.folder, parts.folder))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert whole.history[-1]["classes"] < whole.history[0]["classes"]
    started = start_model(whole.folder, ("square", "triangle"))
    for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
        mine, stored = started.model.head.state_dict()[f"classes.1.{part}"], one[f"head.classes.1.{part}"]
        assert torch.equal(mine[1::3], stored[2::3]) and torch.equal(mine[0::3], stored[0::3]), part


@pytest.mark.parametrize(("format", "kind"), [("onnx", "decode"), ("openvino", "raw")])
def test_exported_files_find_the_same(tmp_path, format, kind):
    pytest.importorskip("onnxruntime" if format == "onnx" else "openvino")
    torch.manual_seed(1)
    model = crossstage.create_model("dsod300_densenet", num_classes=2, **SMALL).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(4, 3, 96, 96) * 60)
    model.eval()
    path = tmp_path / f"dsod{'.onnx' if format == 'onnx' else '_openvino'}"
    done = export(model, "dsod300_densenet", format, path, imgsz=96, decode=kind == "decode")
    image = np.asarray(crossstage.inference.images.load_image(PHOTOS / "000000000471.jpg"))
    (mine,) = model.predict(image, conf=0.05, iou=0.45, max_detections=50, imgsz=96)
    (other,) = crossstage.open_model(done.path).predict(image, conf=0.05, iou=0.45, max_detections=50)
    assert len(mine) == len(other) > 10
    np.testing.assert_allclose(np.sort(other.confidence), np.sort(mine.confidence), atol=1e-4)
    np.testing.assert_allclose(np.sort(other.xyxy, 0), np.sort(mine.xyxy, 0), atol=0.5)
