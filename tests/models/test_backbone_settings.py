"""What the settings of a backbone's row do: `partial`, norms, initialisation; and rows of a program's own."""

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from crossstage import create_detector
from crossstage.analysis import gradient_paths, profile_module
from crossstage.errors import ConfigError
from crossstage.models.backbones import BACKBONES, About, BackboneConfig, Stage, build_backbone
from crossstage.nn import ConvNormAct, CrossStage, Elastic, Partial, Residual, slice_split, transition
from crossstage.nn.conv import FrozenBatchNorm
from crossstage.weights.cards import model_info
from crossstage.weights.loading import create_model

SMALL = {
    "darknet53": replace(BACKBONES["darknet53"], widths=(16, 32), depths=(1, 2)),
    "cspdarknet53_tiny": replace(BACKBONES["cspdarknet53_tiny"], widths=(16, 32), depths=(1, 1)),
    "densenet121": replace(BACKBONES["densenet121"], depths=(2, 2), growth=8, stem=16),
    "densenet40": replace(BACKBONES["densenet40"], depths=(2, 2)),
    "mobilenetv2": replace(BACKBONES["mobilenetv2"], stages=(((16, 1),), ((24, 2),)), merge_widths=(48, 72), last=None),
    "peleenet": replace(BACKBONES["peleenet"], depths=(1, 2), bottleneck=(4, 8), squeeze=True),
    "resnet18": replace(BACKBONES["resnet18"], stem=((16, 7, 2),), widths=(16, 32), depths=(1, 2)),
    "resnet50": replace(
        BACKBONES["resnet50_torchvision"], stem=((16, 7, 2),), widths=(32, 64), depths=(2, 1), hidden=(8, 16)
    ),
    "resnext50": replace(
        BACKBONES["resnext50"], stem=((16, 7, 2),), widths=(64, 128), depths=(2, 1), hidden=(32, 64), groups=4
    ),
    "vovnet39": replace(BACKBONES["vovnet39"], stem=(16, 16, 16), widths=(16, 16), outs=(32, 64), depths=(1, 2)),
    "vovnet19_dw_v2": replace(
        BACKBONES["vovnet19_dw_v2"], stem=(16, 16, 16), widths=(16, 16), outs=(32, 64), depths=(1, 2), drop_path=0.1
    ),
}


@pytest.mark.parametrize("gamma", [0.25, 0.5])
@pytest.mark.parametrize("fusion", ["none", "first", "last", "both"])
@pytest.mark.parametrize("split", ["slice", "project"])
@pytest.mark.parametrize("name", SMALL)
def test_every_fusion_split_and_gamma_builds_runs_and_trains(name, split, fusion, gamma):
    backbone = build_backbone(replace(SMALL[name], partial=Partial(gamma, fusion, split)))
    backbone(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_a_gamma_that_does_not_cut_whole_channels_is_refused(name):
    with pytest.raises(ConfigError, match=r"Partial\.gamma = 0\.303 carries"):
        build_backbone(replace(SMALL[name], partial=Partial(0.303)))


@pytest.mark.parametrize(("csp", "plain"), [("cspdarknet53", "darknet53"), ("cspvovnet39", "vovnet39"),
                                            ("cspdensenet121", "densenet121")])  # fmt: skip
def test_partial_none_builds_the_plain_network(csp, plain):
    with torch.device("meta"):
        models = create_model(csp, partial=None), create_model(plain)
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]


def test_the_like_for_like_pair_of_a_network_with_other_depths():
    with torch.device("meta"):
        plain = create_model("cspresnet50", partial=None)
        partial = create_model("resnet50", partial=Partial())
    blocks = [sum(isinstance(m, Residual) for m in model.modules()) for model in (plain, partial)]
    assert blocks == [3 + 3 + 5 + 2, 3 + 4 + 6 + 3]


@pytest.mark.parametrize("out_indices", [(), (5,), (-6,), (2, 1), (1, 1)])
def test_impossible_out_indices_are_refused(out_indices):
    with pytest.raises(ConfigError, match="out_indices"):
        build_backbone(BACKBONES["darknet53"], out_indices=out_indices)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("darknet_reference", {"partial": Partial()}, "no blocks that a carried part could pass"),
        ("cspdarknet53_tiny", {"elastic": True}, "'pair' have none"),
        ("densenet121", {"drop_path": 0.1}, "drop_path leaves out residual blocks, and this network has none"),
        ("densenet121", {"drop_path": 1.0}, "drop_path is 1.0; expected a probability"),
        ("densenet121", {"compression": 0.0}, "compression is 0.0"),
        ("peleenet", {"growth": 30}, "growth is 30; expected a multiple of 8"),
        ("peleenet", {"group_width": 3}, "groups of 3 channels do not divide 16 and 16"),
        ("csppeleenet_fusion_first", {"partial": Partial(split="slice")}, "split_before_pool needs projections"),
        ("densenet121", {"elastic": True, "memory_efficient": True}, "has no memory-efficient form"),
        ("csppeleenet_ref", {"layer": "sparse"}, "layer is 'sparse'"),
        ("resnet18", {"groups": 2}, "basic blocks have none"),
        ("resnet50", {"shortcut": "none"}, "shortcut is 'none'"),
        ("cspmobilenetv2", {"partial": Partial(split="slice")}, r"expected Partial\(split='project'\)"),
        ("mobilenetv2", {"multiplier": 4}, "expected a divisor of the expansion"),
        ("vovnet39", {"stem_stride": "max"}, "stem_stride is 'max'"),
        ("vovnet39", {"attend": "some"}, "attend is 'some'"),
        ("vovnet39", {"depths": (1, 1)}, "expected as many of one as of the other"),
        ("vovnet39", {"depths": (1, 1, 0, 1)}, "expected at least 1 each"),
        (
            "vovnet39",
            {"outs": (64, 512, 768, 1024), "partial": Partial(0.5, "last")},
            "carries 64 channels into a stage",
        ),
        ("vovnet39", {"in_chans": 0}, "in_chans is 0"),
        ("vovnet39", {"norm": "layer"}, "norm is 'layer'; expected batch, group, frozen or none"),
        ("vovnet39", {"act": "softsign"}, "activation 'softsign' is unknown"),
        ("vovnet39", {"partial": 0.5}, "partial is 0.5; expected a Partial"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_reason(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        create_model(name, **settings)


def test_drop_path_rises_from_the_first_block_to_the_last():
    backbone = build_backbone(replace(SMALL["resnet50"], drop_path=0.2))
    rates = [getattr(m.drop_path, "p", 0.0) for m in backbone.modules() if isinstance(m, Residual)]
    assert rates == pytest.approx([0.0, 0.1, 0.2])


def test_an_elastic_block_halves_the_resolution_of_half_its_channels():
    block = Elastic(nn.Identity(), nn.Identity())
    x = torch.arange(32.0).view(1, 2, 4, 4)
    out = block(x)
    torch.testing.assert_close(out[:, 0], x[:, 0])
    assert out[0, 1].tolist() == [[21, 21, 23, 23]] * 2 + [[29, 29, 31, 31]] * 2


def test_sources_decide_momentum_and_initialisation():
    torch.manual_seed(0)
    darknet, timm, dense = (create_model(name) for name in ("darknet53", "darknet53_timm", "densenet121"))
    norms = [next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)) for model in (darknet, timm, dense)]
    assert [norm.momentum for norm in norms] == [0.01, 0.1, 0.1]
    assert {norm.eps for norm in norms} == {1e-5}
    conv = darknet.backbone.stages[2][0].conv  # 3x3 from 128: uniform within sqrt(2 / (9 * 128))
    bound = (2 / (9 * 128)) ** 0.5
    assert conv.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=1e-2)
    conv = timm.backbone.stages[2][0].conv  # to 256 channels: normal, fan out
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=1e-2)
    conv = dense.backbone.stages[1][0][0].conv  # 1x1 from 256: normal, fan in
    assert conv.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=2e-2)
    assert isinstance(conv, nn.Conv2d)
    block = timm.backbone.stages[2][1][0]
    assert isinstance(block.body[1], ConvNormAct)
    assert not block.body[1].bn.weight.any() and block.body[0].bn.weight.all()
    assert darknet.backbone.stages[2][1][0].body[1].bn.weight.all()


@pytest.mark.parametrize("name", ["csppeleenet", "densenet121"])
def test_group_norm_and_other_input_channels(name):
    model = create_model(name, norm="group", in_chans=1, num_classes=2).eval()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("name", SMALL)
def test_a_frozen_norm_computes_what_batch_norm_does_and_takes_its_state(name):
    plain = build_backbone(replace(SMALL[name], drop_path=0.0))
    frozen = build_backbone(replace(SMALL[name], norm="frozen", drop_path=0.0))
    x = torch.randn(2, 3, 64, 64)
    plain(x)  # statistics of its own
    assert frozen.load_state_dict(plain.state_dict()) is not None
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    torch.testing.assert_close(frozen.train()(x)[-1], plain.eval()(x)[-1])
    frozen(x)[-1].square().mean().backward()
    learned = dict(frozen.named_parameters())
    assert all(parameter.grad is not None for parameter in learned.values())
    assert not any(".bn." in key or ".norm" in key for key in learned)


def test_a_frozen_norm_is_torchvisions():
    ours, theirs = FrozenBatchNorm(4, eps=1e-5), FrozenBatchNorm2d(4, eps=1e-5)
    assert isinstance(ours, FrozenBatchNorm2d)
    for name, buffer in theirs.named_buffers():
        buffer.uniform_(0.5, 1.5)
        ours.get_buffer(name).copy_(buffer)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", SMALL)
def test_without_norm_convolutions_have_a_bias(name):
    backbone = build_backbone(replace(SMALL[name], norm="none"))
    norms = (nn.BatchNorm2d, nn.GroupNorm, FrozenBatchNorm)
    assert not any(isinstance(module, norms) for module in backbone.modules())
    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d)]
    assert all(conv.bias is not None or conv.groups == conv.in_channels for conv in convolutions)
    assert not any(conv.bias.any() for conv in convolutions if conv.bias is not None)
    backbone(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("norm", ["batch", "group", "frozen", "none"])
def test_a_residual_network_starts_as_its_shortcuts_and_can_leave_them(norm):
    backbone = build_backbone(replace(SMALL["resnet50"], norm=norm, zero_init=True, act="leaky_relu"))
    block = next(module for module in backbone.modules() if isinstance(module, Residual))
    x = torch.randn(2, 16, 8, 8)
    assert not block.body(x).any()
    block(x).square().sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in block.body.parameters())


@pytest.mark.parametrize("norm", ["frozen", "none"])
def test_other_norms_are_counted_traced_and_exported_as_what_they_are(norm, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    backbone = build_backbone(replace(SMALL["resnet18"], norm=norm)).eval()
    kinds = [layer.kind for layer in profile_module(backbone, (1, 3, 64, 64)).layers]
    assert kinds.count("norm") == (kinds.count("convolution") if norm == "frozen" else 0)
    plain = build_backbone(SMALL["resnet18"]).eval()
    assert gradient_paths(backbone, (1, 3, 64, 64)) == gradient_paths(plain, (1, 3, 64, 64))
    x = torch.randn(1, 3, 64, 64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(backbone, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
        expected = backbone(x)[-1]
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-4)


class PlainConfig(BackboneConfig):
    """A family in a test: two strided 3x3 convolutions, and a stage that may be partial on each."""

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        stem, stages, width = ConvNormAct(self.in_chans, 16, 3, 2, style=self.style), [], 16
        for index in range(4):
            entry = ConvNormAct(width, 2 * width, 3, 2, style=self.style)
            width *= 2
            stages.append(Stage(nn.Sequential(entry, self._stage(width)), width, 4 * 2**index))
        return stem, stages

    def _stage(self, width: int) -> nn.Module:
        if self.partial is None:
            return ConvNormAct(width, width, 3, style=self.style)
        carried, processed = self.partial.widths(width)
        return CrossStage(
            slice_split(width, carried),
            ConvNormAct(processed, processed, 3, style=self.style),
            transition(self.partial.has_transition, processed, processed, style=self.style),
            transition(self.partial.has_merge, width, width, style=self.style),
        )


@pytest.fixture
def plain(monkeypatch) -> str:
    monkeypatch.setitem(BACKBONES, "plain4", PlainConfig(about=About("Four stages", "this test")))
    return "plain4"


def test_a_program_may_add_a_family_of_its_own(plain):
    row = BACKBONES[plain]
    backbone = build_backbone(replace(row, partial=Partial(0.25)), strides=(8, 16, 32))
    assert backbone.channels == [64, 128, 256]
    assert [isinstance(module, CrossStage) for module in backbone.modules()].count(True) == 4
    classifier = create_model(plain, num_classes=5, partial=Partial(0.25), act="silu")
    assert classifier(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    assert [isinstance(module, CrossStage) for module in classifier.modules()].count(True) == 4
    assert model_info(plain).bflops > 0
    with pytest.raises(ConfigError, match="did you mean in_chans"):
        create_model(plain, in_chan=1)
    detector = create_model(f"{plain}_panet", num_classes=2)
    raw = detector(torch.rand(2, 3, 64, 64))
    assert [tensor.shape[2] for tensor in raw.values()] == [8, 4, 2]
    assert create_detector(plain, "efm", num_classes=2, partial=Partial()).neck.strides == [8, 16, 32]


def test_memory_efficient_dense_blocks_compute_the_same():
    torch.manual_seed(0)
    plain = create_model("densenet121", num_classes=3, depths=(2, 2, 2, 2))
    lean = create_model("densenet121", num_classes=3, depths=(2, 2, 2, 2), memory_efficient=True)
    lean.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, lean):
        model(x).square().sum().backward()
    for ours, theirs in zip(plain.parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
