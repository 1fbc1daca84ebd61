"""Deformable and transposed convolutions: against a loop, other runtimes, and their form in recorded graphs."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torchvision.ops import deform_conv2d

from crossstage.analysis.cost import operations
from crossstage.nn import ConvStyle, DeconvNormAct, DeformConv, DeformConvNormAct
from crossstage.nn.deform import sampled_deform_conv
from crossstage.nn.fuse import fuse


def _moved(in_channels: int = 3, out_channels: int = 5, kernel_size: int = 3) -> DeformConv:
    layer = DeformConv(in_channels, out_channels, kernel_size)
    nn.init.normal_(layer.offsets.weight, std=0.3)
    nn.init.normal_(layer.offsets.bias, std=1.5)
    nn.init.normal_(layer.bias)
    return layer.eval()


def test_it_starts_as_a_convolution_of_half_weights():
    layer, x = DeformConv(3, 5), torch.randn(2, 3, 7, 9)
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, layer.weight / 2, padding=1))


def test_it_is_the_papers_equation():
    layer, x = _moved(2, 1), torch.randn(1, 2, 4, 5)
    with torch.no_grad():
        moves, found = layer.offsets(x)[0], layer(x)[0, 0]
    for row in range(4):
        for column in range(5):
            total = layer.bias[0].item()
            for tap in range(9):
                y = row + tap // 3 - 1 + float(moves[2 * tap, row, column])
                x_at = column + tap % 3 - 1 + float(moves[2 * tap + 1, row, column])
                weight = float(moves[18 + tap, row, column].sigmoid())
                for channel in (0, 1):
                    read = 0.0
                    for i in (math.floor(y), math.floor(y) + 1):
                        for j in (math.floor(x_at), math.floor(x_at) + 1):
                            if 0 <= i < 4 and 0 <= j < 5:
                                read += float(x[0, channel, i, j]) * (1 - abs(y - i)) * (1 - abs(x_at - j))
                    total += layer.weight[0, channel, tap // 3, tap % 3].item() * weight * read
            assert float(found[row, column]) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize(("size", "kernel"), [((7, 9), 3), ((1, 6), 3), ((5, 4), 5)])
def test_recorded_it_is_the_same(size, kernel):
    layer, x = _moved(kernel_size=kernel), torch.randn(2, 3, *size)
    rows_columns, logits = layer.offsets(x).split([2 * kernel**2, kernel**2], dim=1)
    expected = deform_conv2d(x, rows_columns, layer.weight, layer.bias, padding=kernel // 2, mask=logits.sigmoid())
    found = sampled_deform_conv(x, rows_columns, logits.sigmoid(), layer.weight, layer.bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_other_runtimes_run_it(tmp_path):
    onnxruntime, openvino = pytest.importorskip("onnxruntime"), pytest.importorskip("openvino")
    layer = _moved()
    rows, columns = (torch.export.Dim(name) for name in ("rows", "columns"))
    path = tmp_path / "deform.onnx"
    torch.onnx.export(
        layer, (torch.randn(1, 3, 6, 8),), path, dynamo=True, opset_version=18, verbose=False,
        input_names=["x"], output_names=["y"], dynamic_shapes={"x": {2: 2 * rows, 3: 2 * columns}},
    )  # fmt: skip
    x = torch.randn(1, 3, 10, 12)
    with torch.inference_mode():
        expected = layer(x)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), expected, rtol=1e-4, atol=1e-5)
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    torch.testing.assert_close(torch.from_numpy(compiled([x.numpy()])[0]), expected, rtol=1e-4, atol=1e-5)


def test_its_gradients_are_those_of_finite_differences():
    layer = _moved(1, 2).double()
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_norms_are_folded_into_both():
    style = ConvStyle("relu")
    model = nn.Sequential(DeformConvNormAct(3, 4, style=style), DeconvNormAct(4, 5, style=style))
    model[0].conv = _moved(3, 4)
    for block in model:
        nn.init.uniform_(block.bn.weight, 0.5, 2)
        nn.init.normal_(block.bn.bias)
        block.bn.running_mean.normal_()
        block.bn.running_var.uniform_(0.5, 2)
    model.eval()
    before, fused, x = copy.deepcopy(model), fuse(model), torch.randn(2, 3, 6, 7)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True))


def test_both_are_counted():
    style = ConvStyle("relu")
    layers = {layer.name: layer for layer in operations(DeformConvNormAct(8, 4, style=style), (1, 8, 6, 10))}
    conv = layers["conv"]
    assert (conv.kind, conv.macs, conv.kernel, conv.groups, conv.weights) == (
        "convolution",
        8 * 4 * 9 * 60,
        (3, 3),
        1,
        288,
    )
    assert conv.read == (8 + 27) * 60
    assert layers["conv.offsets"].macs == 8 * 27 * 9 * 60
    up = {layer.name: layer for layer in operations(DeconvNormAct(8, 4, style=style), (1, 8, 6, 10))}
    assert up["conv"].macs == 8 * 4 * 16 * 60


def test_a_transposed_convolution_starts_as_bilinear_enlargement():
    layer = DeconvNormAct(2, 3, style=ConvStyle("linear", "none"))
    x = torch.rand(1, 2, 5, 6)
    enlarged = nn.functional.interpolate(x.sum(1, keepdim=True), scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(x)[:, :1, 1:-1, 1:-1] - layer.conv.bias[0], enlarged[:, :, 1:-1, 1:-1])
