"""Every backbone: cost and size against published ones, maps, and what `partial` and the other settings may be."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FrozenBatchNorm2d

from crossstage import create_detector
from crossstage.analysis import count_flops
from crossstage.errors import ConfigError
from crossstage.models.backbones import BACKBONES, About, BackboneConfig, Stage, StagedBackbone, build_backbone
from crossstage.nn import ConvNormAct, CrossStage, Elastic, Partial, Residual, slice_split, transition
from crossstage.nn.conv import FrozenBatchNorm
from crossstage.weights.cards import model_info
from crossstage.weights.loading import create_model

# BFLOPs and convolution weights in M as the authors count them, from their cfgs and, for PeleeNet's
# family, from the CSPNet paper's tables 1 and 3, whose BFLOPs include 0.001 of pooling.
PUBLISHED = {
    "darknet_reference": (0.965, 7.31),
    "darknet53": (18.570, 41.57),
    "cspdarknet53": (13.067, 27.61),
    "cspdarknet53_elastic": (7.741, None),
    "resnet10": (2.272, 5.24),
    "resnet50": (9.741, 22.73),
    "resnext50": (10.110, 22.19),
    "cspresnet50": (8.967, 21.57),
    "cspresnet50_elastic": (9.362, None),
    "cspresnext50": (7.929, 20.50),
    "cspresnext50_elastic": (5.447, None),
    "mobilenetv2": (0.858, 3.47),
    "cspmobilenetv2": (0.764, 2.51),
    "peleenet": (1.0155, 2.79),
    "peleenet_swish_se": (1.0155, 2.81),
    "csppeleenet": (0.8869, 2.83),
    "csppeleenet_swish_se": (0.8869, 2.85),
    "sparse_peleenet": (0.9030, 2.39),
    "peleenext": (0.8356, None),
}

# What was published of networks whose structure was not: BFLOPs, weights in M, each met within 2%.
RECONSTRUCTED = {
    "cspdensenet_ref": (0.886, 3.48),
    "cspdensenetb_ref": (0.631, 1.38),
    "csppeleenet_ref": (1.103, 4.10),
    "csppeleenetb_ref": (0.897, 2.01),
    "cspresnet10": (1.905, 2.73),
    "cspdensenet201_elastic": (7.13, 20.17),
    "sparse_peleenet": (0.904, 2.39),
    "peleenext": (0.837, None),
    "csppeleenet_fusion_first": (0.755, None),
    "osanet40_12x20": (None, None),
    "osanet40_5x43": (None, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_cost_and_weights_equal_the_published_ones(name):
    card = model_info(name)
    bflops, weights = PUBLISHED[name]
    assert card.bflops == pytest.approx(bflops, abs=6e-4)
    if weights is not None:
        assert card.weights_only / 1e6 == pytest.approx(weights, abs=5.1e-3)


def test_reconstructions_are_near_what_was_published_and_say_so():
    assert {name for name, row in BACKBONES.items() if row.about.reconstruction} == set(RECONSTRUCTED)
    for name, (bflops, weights) in RECONSTRUCTED.items():
        card = model_info(name)
        assert card.reconstruction and "reconstruction" in card.summary
        assert bflops is None or card.bflops == pytest.approx(bflops, rel=0.02)
        assert weights is None or card.weights_only / 1e6 == pytest.approx(weights, rel=0.02)


@pytest.mark.parametrize(("gamma", "published"), [(0.25, 0.861), (0.5, 0.755), (0.75, 0.649)])
def test_fusion_first_has_table_1s_cost_at_every_gamma(gamma, published):
    found, _ = bflops("csppeleenet_fusion_first", partial=Partial(gamma, "first"))
    assert found + 0.0010 == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # all parameters with a 1000-class layer: the DenseNet paper's and torchvision's
        ("densenet121", 7_978_856),
        ("densenet169", 14_149_480),
        ("densenet201", 20_013_928),
        ("densenet161", 28_681_000),
        ("densenet201_elastic", 19.48e6),
        ("densenet264_32", 27.21e6),
        ("resnet152_torchvision", 60_192_808),
        ("vovnet27_slim", 3.526e6),
        ("vovnet39", 22.600e6),
        ("vovnet57", 36.640e6),
        ("vovnet19_slim_dw_v2", 1.898e6),
        ("vovnet19_dw_v2", 6.543e6),
        ("vovnet19_slim_v2", 3.166e6),
        ("vovnet19_v2", 11.205e6),
        ("vovnet39_v2", 26.209e6),
        ("vovnet57_v2", 42.480e6),
        ("vovnet99_v2", 70.549e6),
        ("densenet40", 1.02e6),  # with its ten classes: "1.0M"
    ],
)
def test_parameters_equal_the_published_ones(name, parameters):
    exact = isinstance(parameters, int)
    assert model_info(name).parameters == pytest.approx(parameters, rel=0, abs=0 if exact else parameters * 1e-3)


def bflops(name: str, **settings: object) -> tuple[float, float]:
    """BFLOPs and convolution weights in M at 224 pixels."""
    with torch.device("meta"):
        model = create_model(name, **settings).eval()
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1)
    return count_flops(model, (1, 3, 224, 224)) / 1e9, weights / 1e6


@pytest.mark.parametrize(
    ("fusion", "gamma", "published"),
    [
        ("both", 0.25, 0.986),
        ("both", 0.5, 0.888),
        ("both", 0.75, 0.800),
        ("last", 0.25, 0.902),
        ("last", 0.5, 0.804),
        ("last", 0.75, 0.716),
    ],
)
def test_csppeleenet_has_table_1s_cost_at_every_gamma(fusion, gamma, published):
    found, _ = bflops("csppeleenet", partial=Partial(gamma, fusion))
    assert found + 0.0011 == pytest.approx(published, abs=1.1e-3)  # pooling is counted in the table


@pytest.mark.parametrize(
    ("settings", "published"),
    [  # What happens to CSPPeleeNet where one of its choices is not made
        ({}, (0.887, 2.84)),
        ({"pool_first": False}, (1.118, 2.84)),
        ({"depths": (3, 4, 8, 6)}, (1.107, 3.47)),
        ({"depths": (3, 4, 8, 6), "pool_first": False}, (1.412, 3.47)),
        ({"depths": (3, 4, 8, 6), "partial": Partial(split="slice")}, (0.979, 3.06)),
        ({"depths": (3, 4, 8, 6), "partial": Partial(split="slice"), "pool_first": False}, (1.284, 3.06)),
        ({"partial": Partial(0.25, "last")}, (0.901, 2.81)),
        ({"partial": Partial(0.5, "last")}, (0.803, 2.49)),
        ({"partial": Partial(0.75, "last")}, (0.715, 2.22)),
    ],
)
def test_where_csppeleenets_saving_comes_from(settings, published):
    found = bflops("csppeleenet", **settings)
    assert found[0] == pytest.approx(published[0], abs=1.1e-3)
    assert found[1] == pytest.approx(published[1], abs=1.1e-2)


def test_vovnet99_with_attention_in_the_last_modules_alone_is_timms():
    for name, millions in (("vovnet39_v2", 24.569), ("vovnet57_v2", 38.609), ("vovnet99_v2", 63.199)):
        with torch.device("meta"):
            model = create_model(name, attend="last")
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=1e-3)


def test_the_papers_stem_costs_four_times_the_released_ones_last_convolution():
    conv, pool = (bflops("vovnet39", stem_stride=stride) for stride in ("conv", "pool"))
    assert pool[1] == conv[1]
    assert pool[0] - conv[0] == pytest.approx(3 * 2 * 56 * 56 * 9 * 64 * 128 / 1e9)


@pytest.mark.parametrize(
    ("name", "kernels", "millions"),
    [
        ("densenet40", (1, 3), 3.7),  # the VoVNet paper's figure; it gives 2.5 for its 12 x 20, which ours is below
        ("densenet40", (3,), 3.06),  # counted are DenseNet's blocks without transitions, OSA's with their 1x1
        ("osanet40_12x20", (1, 3), 1.98),
        ("osanet40_5x43", (1, 3), 2.00),
    ],
)
def test_memory_access_of_the_32x32_networks(name, kernels, millions):
    # Reads and writes of convolutions, h w (ci + co) + k^2 ci co.
    total = 0

    def count(module: nn.Conv2d, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        total += inputs[0].numel() + output.numel() + module.weight.numel()

    with torch.device("meta"):
        backbone = build_backbone(BACKBONES[name]).eval()
        for module in backbone.stages.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size[0] in kernels:
                module.register_forward_hook(count)
        backbone(torch.empty(1, 3, 32, 32))
    assert total / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_have_the_announced_channels_and_strides(name):
    row = BACKBONES[name]
    with torch.device("meta"):
        stem, stages = row.build_stages()
        backbone = StagedBackbone(row, stem, stages, out_indices=range(len(stages))).eval()
        with torch.no_grad():
            maps = backbone(torch.empty(1, 3, 128, 192))
    assert [m.shape[1] for m in maps] == backbone.channels
    assert [(128 / m.shape[2], 192 / m.shape[3]) for m in maps] == [(s, s) for s in backbone.strides]


def shallow(name: str, most: int) -> dict[str, object]:
    """No more than so many blocks in a stage, for what does not depend on how often a block is repeated."""
    depths = getattr(BACKBONES[name], "depths", None)
    return {} if depths is None else {"depths": tuple(min(depth, most) for depth in depths)}


SAME = ("_timm", "_mish", "_swish")  # graphs like their base's, with other activations


@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.endswith(SAME)])
def test_the_count_of_operations_is_torchs(name):
    with torch.device("meta"):
        model = create_model(name, **shallow(name, 3)).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, 64, 64))
    assert count_flops(model, (1, 3, 64, 64)) == counter.get_total_flops()


def test_tiny_backbone_hands_the_neck_the_transition_not_the_concatenation():
    backbone = build_backbone(BACKBONES["cspdarknet53_tiny"], out_indices=(2, 3))
    assert backbone.channels == [256, 512]
    assert backbone.strides == [16, 32]


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


@pytest.mark.parametrize("fusion", ["first", "last", "both"])
@pytest.mark.parametrize("split", ["slice", "project"])
@pytest.mark.parametrize(
    "name", ["darknet53", "densenet121", "mobilenetv2", "peleenet", "resnet18", "resnet50", "resnext50", "vovnet39"]
)
def test_the_usual_gammas_cut_every_network_whole(name, split, fusion):
    settings = {} if name in ("densenet121", "peleenet") else shallow(name, 1)  # whose widths grow with their depth
    for gamma in (0.25, 0.5, 0.75):
        with torch.device("meta"), torch.no_grad():
            model = create_model(name, partial=Partial(gamma, fusion, split), **settings).eval()
            assert model(torch.empty(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize("split", ["slice", "project"])
@pytest.mark.parametrize(
    "name", ["darknet53", "densenet121", "mobilenetv2", "peleenet", "resnet50", "resnext50", "vovnet39_v2"]
)
def test_cost_falls_as_gamma_rises(name, split):
    costs = [bflops(name, partial=Partial(gamma, split=split))[0] for gamma in (0.25, 0.5, 0.75)]
    assert costs == sorted(costs, reverse=True)


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
