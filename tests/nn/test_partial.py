"""The cross stage partial stage: which transitions exist, what they see, and where gradients go."""

import pytest
import torch
from torch import nn

from crossstage.errors import ConfigError
from crossstage.nn import Channels, ConvStyle, CrossStage, Partial, Split, project_split, slice_split


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_stage_computes_the_papers_equation():
    # y = U([T(F(x'')), x']) with F = 2x, T = 10x, U = 100x
    stage = CrossStage(slice_split(3, 1), Scale(2), Scale(10), Scale(100))
    x = torch.tensor([1.0, 3.0, 5.0]).view(1, 3, 1, 1)
    assert stage(x).flatten().tolist() == [6000.0, 10000.0, 100.0]


def test_carried_first_swaps_only_the_order():
    x = torch.randn(2, 4, 3, 3)
    plain = CrossStage(slice_split(4, 2), Scale(2), nn.Identity(), nn.Identity())(x)
    swapped = CrossStage(slice_split(4, 2), Scale(2), nn.Identity(), nn.Identity(), carried_first=True)(x)
    torch.testing.assert_close(plain, torch.cat([2 * x[:, 2:], x[:, :2]], 1))
    torch.testing.assert_close(swapped, torch.cat([x[:, :2], 2 * x[:, 2:]], 1))


def test_the_carried_part_may_be_the_whole_input():
    x = torch.randn(1, 4, 2, 2)
    carried, processed = Split(nn.Identity(), Channels(1, 4))(x)
    assert carried is x
    torch.testing.assert_close(processed, x[:, 1:])


def test_blocks_get_no_gradient_from_the_carried_part():
    stage = CrossStage(slice_split(4, 2), nn.Conv2d(2, 2, 1), nn.Identity(), nn.Identity())
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    stage(x)[:, 2:].sum().backward()  # the carried half of the output
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in stage.blocks.parameters())
    assert x.grad is not None and x.grad[:, :2].all() and not x.grad[:, 2:].any()


@pytest.mark.parametrize(
    ("fusion", "transition", "merge"),
    [("none", False, False), ("first", False, True), ("last", True, False), ("both", True, True)],
)
def test_fusion_decides_which_transitions_exist(fusion, transition, merge):
    partial = Partial(fusion=fusion)
    assert (partial.has_transition, partial.has_merge) == (transition, merge)


@pytest.mark.parametrize(("gamma", "widths"), [(0.25, (16, 48)), (0.5, (32, 32)), (0.75, (48, 16))])
def test_gamma_is_the_carried_share(gamma, widths):
    assert Partial(gamma=gamma).widths(64) == widths


@pytest.mark.parametrize("gamma", [0.3, 0.01, 0.999])
def test_gamma_that_cuts_a_channel_is_refused(gamma):
    with pytest.raises(ConfigError, match=f"{gamma}.*64 channels"):
        Partial(gamma=gamma).widths(64)


@pytest.mark.parametrize(
    "bad", [{"gamma": 0.0}, {"gamma": 1.0}, {"gamma": float("nan")}, {"fusion": "x"}, {"split": "x"}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Partial(**bad)


def test_two_projections_equal_one_wide_convolution_cut_in_two():
    # timm reads both parts with one 1x1 convolution and slices; the authors use two: the same function.
    split = project_split(6, 3, 5, style=ConvStyle("leaky")).eval()
    x = torch.randn(2, 6, 4, 4)
    wide = nn.functional.conv2d(x, torch.cat([split.carried.conv.weight, split.processed.conv.weight]))
    wide = nn.functional.leaky_relu(wide / (1 + 1e-5) ** 0.5, 0.1)
    carried, processed = split(x)
    torch.testing.assert_close(torch.cat([carried, processed], 1), wide)
