"""Branches that fold into one convolution, and what a fused model leaves out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossstage.nn import ConvStyle
from crossstage.nn.elan import ADown, down, elan
from crossstage.nn.fuse import fuse
from crossstage.nn.packed import PackedConv
from crossstage.nn.rep import RepConv, TrainingOnly

STYLE = ConvStyle("silu", "batch", 0.03, 1e-3)


def _stirred(module: nn.Module) -> nn.Module:
    """Return a module whose norms have statistics, scales and shifts that all matter."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low, high in (
                (norm.weight, 0.5, 2), (norm.bias, -1, 1), (norm.running_mean, -1, 1), (norm.running_var, 0.5, 2)
            ):  # fmt: skip
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
    return module.eval()


@pytest.mark.parametrize("norm", ["batch", "frozen", "none", "group"])
def test_branches_fold_into_one_convolution(norm):
    torch.manual_seed(0)
    conv = _stirred(RepConv(6, 8, style=ConvStyle("silu", norm)))
    x = torch.randn(2, 6, 7, 9)
    fused = fuse(nn.Sequential(conv))
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), conv(x), rtol=1e-5, atol=1e-5)
    assert isinstance(fused[0], PackedConv) == (norm != "group")
    assert conv.spatial.conv.weight.requires_grad and not isinstance(conv.spatial.bn, PackedConv)


def test_the_folded_kernel_is_the_sum_by_the_formula():
    conv = _stirred(RepConv(3, 4, style=STYLE))
    folded = conv.folded()
    assert folded is not None and folded.bias is not None
    weight, bias = torch.zeros(4, 3, 3, 3), torch.zeros(4)
    for branch, at in ((conv.spatial, (slice(None), slice(None))), (conv.pointwise, (1, 1))):
        scale = branch.bn.weight / (branch.bn.running_var + 1e-3).sqrt()
        kernel = branch.conv.weight * scale.view(-1, 1, 1, 1)
        weight[(..., *at)] += kernel if at != (1, 1) else kernel[..., 0, 0]
        bias += branch.bn.bias - branch.bn.running_mean * scale
    torch.testing.assert_close(folded.weight, weight)
    torch.testing.assert_close(folded.bias, bias)


def test_fused_models_leave_out_what_serves_training_alone():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept, self.extra = nn.Linear(2, 2), TrainingOnly()

        def forward(self, x):
            return self.kept(x)

    model = Model()
    fused = fuse(model)
    assert fused.extra is None and isinstance(model.extra, TrainingOnly)
    assert torch.equal(fused(torch.ones(1, 2)), model(torch.ones(1, 2)))


def test_an_aggregation_keeps_every_result():
    torch.manual_seed(1)
    block = _stirred(elan(8, 12, 8, 1, style=STYLE))
    x = torch.randn(1, 8, 5, 6)
    first, second = block.reduce(x).chunk(2, 1)
    third = block.blocks[0](second)
    expected = block.merge(torch.cat([first, second, third, block.blocks[1](third)], 1))
    assert torch.equal(block(x), expected)
    fused = fuse(block)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)


def test_maps_are_halved_by_means_then_steps():
    torch.manual_seed(2)
    halve = _stirred(ADown(6, 10, style=STYLE))
    x = torch.randn(2, 6, 8, 12)
    smooth = (x[..., :-1, :-1] + x[..., 1:, :-1] + x[..., :-1, 1:] + x[..., 1:, 1:]) / 4
    pooled = F.max_pool2d(F.pad(smooth[:, 3:], (1, 1, 1, 1), value=-torch.inf), 3, 2)
    expected = torch.cat([halve.convolved(smooth[:, :3]), halve.pooled(pooled)], 1)
    torch.testing.assert_close(halve(x), expected)
    assert halve(x).shape == (2, 10, 4, 6) == down("aconv", 6, 10, style=STYLE)(x).shape
