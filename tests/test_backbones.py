"""Darknet backbones: sizes against the published ones, shapes, and what `partial` may be."""

from dataclasses import replace

import pytest
import torch

from crossstage.backbones import DARKNETS, Darknet
from crossstage.errors import ConfigError
from crossstage.nn import Partial
from crossstage.zoo import create_model, model_info


@pytest.mark.parametrize(
    ("name", "bflops", "parameters"),
    [  # Darknet's own count at 256 x 256, and the parameters of the authors' cfgs with a 1000-class layer
        ("darknet53", 18.570, 41.610e6),
        ("cspdarknet53", 13.067, 27.642e6),
    ],
)
def test_cost_equals_the_authors_cfg(name, bflops, parameters):
    card = model_info(name)
    assert card.bflops == pytest.approx(bflops, abs=5e-4)
    assert card.parameters == pytest.approx(parameters, abs=5e2)


def test_conv_weights_equal_the_published_parameters():
    # The CSPNet paper's tables count convolution weights alone: 41.57M and 27.61M.
    for name, published in (("darknet53", 41.57e6), ("cspdarknet53", 27.61e6)):
        with torch.device("meta"):
            model = create_model(name)
        weights = sum(p.numel() for p in model.parameters() if p.dim() > 1)
        assert weights == pytest.approx(published, abs=5e3)


@pytest.mark.parametrize("name", DARKNETS)
def test_maps_have_the_announced_channels_and_strides(name):
    backbone = Darknet(DARKNETS[name], out_indices=(0, 1, 2, 3)).eval()
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert [m.shape[1] for m in maps] == backbone.channels
    assert [(64 // m.shape[2], 96 // m.shape[3]) for m in maps] == [(s, s) for s in backbone.strides]


def test_tiny_backbone_hands_the_neck_the_transition_not_the_concatenation():
    backbone = Darknet(DARKNETS["cspdarknet53_tiny"], out_indices=(2, 3))
    assert backbone.channels == [256, 512]
    assert backbone.strides == [16, 32]


@pytest.mark.parametrize("fusion", ["none", "first", "last", "both"])
@pytest.mark.parametrize("split", ["slice", "project"])
@pytest.mark.parametrize("name", ["darknet53", "cspdarknet53_tiny"])
def test_every_fusion_and_split_builds_runs_and_trains(name, split, fusion):
    row = replace(DARKNETS[name], widths=(16, 32, 64), depths=(1, 1, 1), partial=Partial(0.25, fusion, split))
    backbone = Darknet(row)
    backbone(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_cost_falls_as_gamma_rises():
    def parameters(gamma: float) -> int:
        with torch.device("meta"):
            model = create_model("darknet53", partial=Partial(gamma))
        return sum(p.numel() for p in model.parameters())

    assert parameters(0.25) > parameters(0.5) > parameters(0.75)


def test_partial_none_builds_the_plain_network():
    plain, published = create_model("cspdarknet53", partial=None), create_model("darknet53")
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (plain, published)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("out_indices", [(), (5,), (-6,), (2, 1), (1, 1)])
def test_impossible_out_indices_are_refused(out_indices):
    with pytest.raises(ConfigError, match="out_indices"):
        Darknet(DARKNETS["darknet53"], out_indices=out_indices)
