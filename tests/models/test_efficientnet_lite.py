"""EfficientNet-Lite: cost against timm's and the published one, padding against TensorFlow's rule, the CSP form."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import crossstage
from crossstage.analysis import count_flops
from crossstage.errors import ConfigError
from crossstage.models.backbones import BACKBONES, build_backbone
from crossstage.nn import ConvNormAct, ConvStyle, CrossStage, Partial
from crossstage.nn.conv import SamePad
from crossstage.weights.loading import create_model

# Parameters as Google published them, in M; and to the digit, multiply-adds in M and channels, as timm 1.0.31 has them.
PUBLISHED = {
    "efficientnet_lite0": (4.7, 4_652_008, 385.187552, (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite1": (5.4, 5_416_680, 600.185232, (16, 24, 40, 80, 112, 192, 320)),
    "efficientnet_lite2": (6.1, 6_092_072, 859.736272, (16, 24, 48, 88, 120, 208, 352)),
    "efficientnet_lite3": (8.2, 8_197_096, 1383.321872, (24, 32, 48, 96, 136, 232, 384)),
    "efficientnet_lite4": (13.0, 13_006_568, 2553.034336, (24, 32, 56, 112, 160, 272, 448)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_cost_and_size_are_the_published_ones(name):
    published, parameters, multiply_adds, channels = PUBLISHED[name]
    with torch.device("meta"):
        model = create_model(name).eval()
    size = BACKBONES[name].size
    found = sum(parameter.numel() for parameter in model.parameters())
    assert found == parameters and found / 1e6 == pytest.approx(published, abs=0.05)
    assert count_flops(model, (1, 3, size, size)) / 2e6 == pytest.approx(multiply_adds, abs=1e-5)
    assert tuple(group[2] for groups in BACKBONES[name].stages for group in groups) == channels


def test_the_cost_equals_timms():
    timm = pytest.importorskip("timm", reason="needs the extra crossstage[timm]")
    with torch.device("meta"):
        theirs, ours = timm.create_model("tf_efficientnet_lite2").eval(), create_model("efficientnet_lite2").eval()
    assert count_flops(ours, (1, 3, 260, 260)) == count_flops(theirs, (1, 3, 260, 260))


def same_by_definition(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A convolution in steps of 2 by TensorFlow's rule: ceil(side / 2) cells, the larger part of the padding behind."""
    kernel = weight.shape[-1]
    padding = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // 2) - 1) * 2 + kernel - side, 0)
        padding += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, padding), weight, stride=2, groups=len(weight))


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 8), (9, 5), (12, 11)])
def test_steps_are_padded_by_tensorflows_rule(kernel, size):
    layer = ConvNormAct(4, 4, kernel, 2, groups=4, same=True, style=ConvStyle("linear", "none"))
    x = torch.randn(2, 4, *size)
    with torch.no_grad():
        layer.conv.bias.zero_()
        torch.testing.assert_close(layer(x), same_by_definition(x, layer.conv.weight))
        torch.testing.assert_close(crossstage.fuse(layer)(x), same_by_definition(x, layer.conv.weight))


def test_other_convolutions_are_padded_as_ever():
    layer = ConvNormAct(4, 4, 5, same=True, style=ConvStyle())
    assert layer.pad is None and layer.conv.padding == (2, 2)


def test_norms_have_tensorflows_epsilon_and_activations_end_at_six():
    model = create_model("efficientnet_lite0")
    assert {layer.eps for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {1e-3}
    assert any(isinstance(layer, nn.ReLU6) for layer in model.modules())
    assert sum(isinstance(layer, SamePad) for layer in model.modules()) == 5


def test_detectors_leave_the_closing_convolution_out():
    row = BACKBONES["efficientnet_lite0"]
    assert build_backbone(row).channels == [1280]
    backbone = build_backbone(row, strides=(8, 16, 32))
    assert backbone.channels == [40, 112, 320] and len(backbone.stages) == 5
    assert [tuple(x.shape) for x in backbone(torch.zeros(1, 3, 64, 96))] == [
        (1, 40, 8, 12),
        (1, 112, 4, 6),
        (1, 320, 2, 3),
    ]


def test_the_csp_form_processes_a_share_of_each_group_and_keeps_all_widths():
    plain, partial = (build_backbone(BACKBONES[name], out_indices=range(6)) for name in ("efficientnet_lite0", CSP))
    assert plain.channels == partial.channels and plain.strides == partial.strides == [2, 4, 8, 16, 32, 32]
    stages = [module for module in partial.modules() if isinstance(module, CrossStage)]
    assert len(stages) == 5  # of the groups with more than one block
    last = stages[-1]
    x = torch.randn(1, 192, 4, 4)
    carried, processed = last.split(x)
    assert torch.equal(carried, x[:, :96]) and torch.equal(processed, x[:, 96:])
    assert isinstance(last.transition, nn.Identity) and last.merge.linear


CSP = "cspefficientnet_lite0"


@pytest.mark.parametrize(
    "partial", [Partial(0.25, "both", "project"), Partial(0.5, "last", "slice"), Partial(0.5, "none", "slice")]
)
def test_other_partial_forms_give_the_same_maps(partial):
    model = create_model(CSP, 3, partial=partial).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert model.backbone.channels == [1280]


def test_the_csp_form_costs_less():
    with torch.device("meta"):
        model = create_model(CSP).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_273_704
    assert count_flops(model, (1, 3, 224, 224)) / 2e6 == pytest.approx(239.975, abs=1e-3)


def test_blocks_are_dropped_in_training():
    torch.manual_seed(0)
    model = create_model("efficientnet_lite0", 3, drop_path=0.9)
    x = torch.rand(2, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("group", [(4, 6, 24, 2), (3, 0, 24, 2), (3, 6, 24, 0)])
def test_rows_that_do_not_fit_are_refused(group):
    with pytest.raises(ConfigError, match=r"odd kernel|at least 1"):
        create_model("efficientnet_lite0", stages=((group,),))
    with pytest.raises(ConfigError, match="whole number"):
        create_model(CSP, partial=Partial(0.3))
