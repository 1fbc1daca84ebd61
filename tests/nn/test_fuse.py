"""Fused models compute what their originals compute."""

import copy
import io

import pytest
import torch
from torch import nn

import crossstage
from crossstage.models.backbones import BACKBONES
from crossstage.models.backbones.densenet import DenseNetConfig
from crossstage.models.backbones.peleenet import PeleeNetConfig
from crossstage.nn import ConvNormAct, ConvStyle, NormActConv, Partial, project_split
from crossstage.nn.conv import FrozenBatchNorm
from crossstage.nn.fuse import FusedCrossStage, FusedDenseBlock, fuse
from crossstage.nn.packed import PackedConv
from crossstage.weights.loading import create_model, load
from tests.darknet.nets import drawn, randomize
from tests.sweep import kind_of_model, sweep

# A stage's first blocks differ, later ones repeat: as deep as this, every kind of block is there. PeleeNet's layers do
# not repeat where they read those at distances 1, 2, 4 and 8, and are small.
DEEP = 3


def shallow(name: str, **settings: object) -> nn.Module:
    """A classifier of five classes with no more than three blocks in a stage, and random weights."""
    row = BACKBONES[name]
    if "depths" in type(row).__dataclass_fields__ and not isinstance(row, PeleeNetConfig):
        settings = {"depths": tuple(min(depth, DEEP) for depth in row.depths), **settings}
    return drawn(lambda: create_model(name, num_classes=5, **settings))


def assert_same(model: nn.Module, fused: nn.Module, x: torch.Tensor) -> None:
    with torch.inference_mode():
        expected = model.eval()(x)
        exact = copy.deepcopy(model).double()(x.double())
        rounding = float((expected - exact).abs().max())  # of float32 itself, which grows with the layers
        atol = max(1e-5 * float(expected.abs().max()), 4 * rounding)
        torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=atol)
        torch.testing.assert_close(
            fused(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-5, atol=atol
        )


def remaining(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


SAME = ("_timm", "_mish", "_swish", "_s", "_m", "0c")  # graphs like their base's


@pytest.mark.parametrize("name", sweep([name for name in BACKBONES if not name.endswith(SAME)], kind_of_model))
def test_fused_outputs_equal_the_models(name):
    model = shallow(name)
    fused = fuse(model)
    # The last norm of a DenseNet, and those of layers without a bottleneck, have no convolution behind them.
    if not isinstance(BACKBONES[name], DenseNetConfig):
        assert remaining(fused, nn.BatchNorm2d) == 0
    assert_same(model, fused, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(
    "name",
    [
        "csppeleenet_efm_sam",
        "csppeleenet_gfm",
        "csppeleenet_cem_sam",
        "cspdensenetb_ref_prn3l",
        "cspdensenet_ref_efm_spp",
        "yolov3_tiny_prn",
        "peleenet_yolo",
        "cspresnet10_panet_spp",
        "mobilenetv2_fpn",
    ],
)
def test_fused_detectors_give_what_they_gave(name):
    model = drawn(lambda: create_model(name, num_classes=2)).eval()
    fused = fuse(model)
    assert remaining(fused, nn.BatchNorm2d) == 0
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        ours, theirs = fused(x), model(x)
    assert list(ours) == list(theirs)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_the_shipped_detector_fused_finds_the_same():
    model = load("cspdarknet53_tiny_yolo.coco")
    fused = crossstage.fuse(model)
    assert type(fused) is type(model)
    x = torch.rand(1, 3, 416, 416)
    with torch.inference_mode():
        ours, theirs = fused(x), model(x)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("fusion", ["none", "first", "last", "both"])
@pytest.mark.parametrize("name", ["cspdarknet53", "cspdensenet121", "csppeleenet", "cspresnext50", "cspvovnet39"])
def test_every_fusion_fuses(name, fusion):
    model = shallow(name, partial=Partial(0.5, fusion))
    assert_same(model, fuse(model), torch.randn(1, 3, 64, 96))


def test_projections_become_one_convolution_and_leave_one_copy():
    with torch.device("meta"):
        model = create_model("cspdarknet53")
        fused = fuse(model)
    assert remaining(fused, FusedCrossStage) == 5
    assert remaining(fused, PackedConv) == remaining(model, ConvNormAct) - 5


def test_dense_blocks_share_one_buffer():
    assert remaining(fuse(shallow("densenet121")), FusedDenseBlock) == 4


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.0])
def test_a_norm_of_any_sign_folds_into_a_clamp(scale):
    torch.manual_seed(0)
    module = randomize(NormActConv(6, 4, style=ConvStyle("relu"))).eval()
    with torch.no_grad():
        module.bn.weight.mul_(scale)
        module.bn.bias.copy_(torch.linspace(-1, 1, 6))
        x = torch.randn(2, 6, 5, 5)
        torch.testing.assert_close(fuse(module)(x), module(x))


def test_projections_activated_unlike_stay_two():
    split = project_split(4, 2, 2, style=ConvStyle("relu"))
    split.processed = ConvNormAct(4, 2, style=ConvStyle("linear"))
    stage = crossstage.nn.CrossStage(split, nn.Identity(), nn.Identity(), nn.Identity()).eval()
    fused = fuse(stage)
    assert remaining(fused, PackedConv) == 2
    assert_same(stage, fused, torch.randn(1, 4, 3, 3))


def test_group_norm_stays_what_it_is():
    model = shallow("cspresnet50", norm="group")
    fused = fuse(model)
    assert remaining(fused, nn.GroupNorm) == remaining(model, nn.GroupNorm) > 0
    assert_same(model, fused, torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("norm", ["frozen", "none"])
@pytest.mark.parametrize("name", ["cspresnet50", "cspdensenet121", "csppeleenet", "vovnet19_dw_v2"])
def test_frozen_norms_fold_and_biases_of_convolutions_without_norm_stay(name, norm):
    model = shallow(name, norm=norm)
    fused = fuse(model)
    if name != "cspdensenet121":  # whose last norm has no convolution behind
        assert remaining(fused, FrozenBatchNorm) == 0
    if name == "cspresnet50":
        assert remaining(fused, FusedCrossStage) == 4
    assert_same(model, fused, torch.randn(2, 3, 64, 64))


def test_the_original_is_left_alone():
    model = create_model("csppeleenet", num_classes=2)
    before = copy.deepcopy(model.state_dict())
    fuse(model)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[key])


def test_a_used_copy_can_be_copied_saved_and_cast():
    fused = fuse(shallow("cspresnet50"))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = fused(x)
        torch.testing.assert_close(copy.deepcopy(fused)(x), expected)
        torch.save(fused.state_dict(), io.BytesIO())
        torch.testing.assert_close(fused.double()(x.double()).float(), expected, rtol=1e-4, atol=1e-3)


def test_without_onednn_and_when_traced_or_exported_it_is_plain_torch(monkeypatch):
    model = shallow("cspresnet50")
    fused, x = fuse(model), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = fused(x)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-4)
        monkeypatch.undo()
        exported = torch.export.export(fused, (x,))
        assert not any("mkldnn" in str(node.target) for node in exported.graph.nodes)
        torch.testing.assert_close(exported.module()(x), expected, rtol=1e-4, atol=1e-4)
        traced = torch.jit.trace(fused, x)
        assert "mkldnn" not in str(traced.inlined_graph)
        torch.testing.assert_close(traced(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sweep(["csppeleenet", "cspresnet50", "densenet121"], bool))
def test_it_compiles_as_one_graph(name):
    model = shallow(name, depths=(1, 2, 2, 1)) if name == "csppeleenet" else shallow(name)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(fuse(model), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images), model.eval()(images), rtol=1e-4, atol=1e-4)


def test_other_batches_and_sizes_reuse_the_weights_laid_out_first():
    model = shallow("cspdarknet53")
    fused = fuse(model)
    for shape in ((1, 3, 64, 64), (3, 3, 96, 64), (2, 3, 32, 32)):
        assert_same(model, fused, torch.randn(*shape))
