"""SNet and DLA: their sizes, another library's outputs, their CSP forms."""

from __future__ import annotations

import pytest
import torch

import crossstage
from crossstage.analysis.cost import count_flops
from crossstage.errors import ConfigError
from crossstage.models.backbones import BACKBONES, build_backbone
from crossstage.nn import Partial
from crossstage.weights.from_peer import from_peer


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("snet49", 362_584, 50.7e6), ("snet146", 1_045_512, 162.0e6), ("snet535", 3_547_920, 538.9e6)],
)
def test_snets_have_their_sizes(name, parameters, macs):
    """Parameters of the public code and its multiply-adds at 224 pixels, both without classifier."""
    row = BACKBONES[name]
    backbone = build_backbone(row)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters
    counted = crossstage.profile(name, 224).bflops * 1e9 / 2 - 1000 * backbone.channels[-1]
    assert counted == pytest.approx(macs, rel=2e-3)


def test_dla34_is_timms():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("dla34").eval()
    for tensor in theirs.parameters():
        torch.nn.init.normal_(tensor, std=0.05) if tensor.dim() > 1 else torch.nn.init.uniform_(tensor, 0.5, 1)
    for name, buffer in theirs.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    mine, images = from_peer("timm:dla34", theirs.state_dict()), torch.rand(2, 3, 64, 96)
    assert sum(parameter.numel() for parameter in mine.parameters()) == 15_742_104
    with torch.inference_mode():
        expected = theirs(images)
        assert float((mine(images) - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["snet49", "dla34"])
@pytest.mark.parametrize("partial", [None, Partial(), Partial(fusion="last", split="slice"), Partial(fusion="first")])
def test_maps_halve_and_stages_may_be_partial(name, partial):
    model = crossstage.create_model(name, out_indices=(0, 1, 2), partial=partial)
    maps = model(torch.rand(1, 3, 64, 96))
    assert [tuple(feature.shape[2:]) for feature in maps] == [(64 // s, 96 // s) for s in (4, 8, 16)]
    assert [feature.shape[1] for feature in maps] == list(model.channels)


def test_partial_stages_are_cheaper():
    """SNet's blocks pass half of the channels by already: projections for both parts would cost more than they save."""
    for name, partial in (("snet146", Partial(fusion="last", split="slice")), ("dla34", Partial())):
        plain, changed = (crossstage.create_model(name, partial=given) for given in (None, partial))
        assert count_flops(changed, (1, 3, 64, 64)) < 0.8 * count_flops(plain, (1, 3, 64, 64))


def test_odd_maps_are_rounded_up():
    maps = crossstage.create_model("snet49", out_indices=(2, 3))(torch.rand(1, 3, 240, 304))
    assert [tuple(feature.shape[2:]) for feature in maps] == [(15, 19), (8, 10)]


def test_rows_that_do_not_fit_are_refused():
    for name, changes, message in (
        ("snet49", {"widths": (61, 120, 240)}, "expected even numbers that grow"),
        ("snet49", {"widths": (60, 60, 240)}, "expected even numbers that grow"),
        ("snet49", {"partial": Partial(gamma=0.75)}, "blocks that halve them"),
        ("dla34", {"levels": (1, 2, 9, 1)}, "expected at most 8"),
        ("dla34", {"widths": (64, 128)}, "as many of one as of the other"),
    ):
        with pytest.raises(ConfigError, match=message):
            crossstage.create_model(name, **changes)
