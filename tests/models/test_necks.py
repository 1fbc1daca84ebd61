"""Necks: what they compute, what they read, and that any of them goes on any backbone."""

import pytest
import torch
from torch import nn

from crossstage import create_detector, create_model
from crossstage.errors import ConfigError
from crossstage.models.backbones import BACKBONES
from crossstage.models.necks import NECKS, NeckConfig, PyramidConfig, build_neck
from crossstage.models.necks.efm import EFMConfig
from crossstage.nn import (
    Attend,
    ContextAttention,
    ConvNormAct,
    ConvStyle,
    Maxout,
    PointwiseAttention,
    SpatialAttention,
    SpatialPyramidPool,
)
from crossstage.ops.priors import AnchorLevel
from tests.sweep import kind_of_model, sweep

STYLE = ConvStyle()
CHANNELS = {4: 24, 8: 40, 16: 72, 32: 136}  # no powers of two, and some narrower than the necks want
WIDE = {4: 128, 8: 256, 16: 512, 32: 640}


def maps(channels: dict[int, int], strides: tuple[int, ...], side: int = 128, batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, channels[s], side // s, side // s, requires_grad=True) for s in strides]


def neck_for(name: str, channels: dict[int, int], **settings: object) -> nn.Module:
    row = type(NECKS[name])(**{**vars(NECKS[name]), **settings})
    neck = build_neck(row, [channels[s] for s in row.reads], row.reads, style=STYLE)
    assert isinstance(neck, nn.Module)
    return neck


@pytest.mark.parametrize("channels", sweep(["narrow", "wide"], bool))
@pytest.mark.parametrize("name", NECKS)
def test_a_neck_returns_the_maps_that_it_announces_and_all_of_it_learns(name, channels):
    widths = {"narrow": CHANNELS, "wide": WIDE}[channels]
    neck = neck_for(name, widths)
    features = maps(widths, NECKS[name].reads, 64)
    outputs = neck(features)
    assert [tuple(out.shape) for out in outputs] == [
        (2, width, -(-64 // stride), -(-64 // stride))
        for width, stride in zip(neck.channels, neck.strides, strict=True)
    ]
    assert neck.strides == sorted(neck.strides)
    sum((out * torch.randn_like(out)).mean() for out in outputs).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in neck.parameters())
    assert all(feature.grad is not None and feature.grad.any() for feature in features)


# Networks of CIFAR's small images end at stride 4, DSOD's at 16. Necks read the same whatever activation and depth are.
SAME = ("_timm", "_mish", "_swish", "dsod_densenet", "dsod_densenet67")
LARGE = [name for name, row in BACKBONES.items() if row.size > 32 and not name.endswith(SAME)]


@pytest.mark.parametrize("backbone", sweep(LARGE, kind_of_model))
def test_every_backbone_takes_every_neck(backbone):
    depths = getattr(BACKBONES[backbone], "depths", ())
    settings = {"depths": tuple(min(depth, 2) for depth in depths)} if depths else {}
    settings["norm"] = "none"  # which no map depends on, and which is quick on the meta device
    with torch.device("meta"), torch.no_grad():
        for neck in ("prn3l", "efm_sam"):
            detector = create_detector(backbone, neck, num_classes=3, **settings).eval()
            sides = [raw.shape[2] for raw in detector(torch.empty(1, 3, 64, 64)).values()]
            assert sides == [64 // stride for stride in detector.neck.strides]


def test_a_backbone_with_pretrained_weights_keeps_its_outputs_in_a_detector():
    classifier = create_model("csppeleenet", out_indices=(0, 1, 2, 3)).eval()
    detector = create_detector("csppeleenet", "efm", num_classes=3).eval()
    detector.backbone.load_state_dict(classifier.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for one, other in zip(classifier(x), detector.backbone(x), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("channels", [8, 10, 3])
def test_maxout_takes_the_largest_of_strided_groups(channels):
    """As Darknet's maxpool_depth: output g sees g, g + n, g + 2n, ..., a last group that is not full included."""
    x = torch.randn(2, channels, 5, 4) - 10  # all negative, so that padding by zero would show
    expected = torch.stack([x[:, g::3].amax(1) for g in range(3)], dim=1)
    torch.testing.assert_close(Maxout(3)(x), expected)


def test_spatial_pyramid_has_the_largest_window_first():
    x = torch.rand(1, 2, 16, 16)
    pooled = SpatialPyramidPool()(x)
    assert pooled.shape[1] == 8
    torch.testing.assert_close(pooled[:, 6:], x)
    for first, radius in ((0, 6), (2, 4), (4, 2)):
        window = x[:, :, max(0, 3 - radius) : 4 + radius, max(0, 7 - radius) : 8 + radius]
        torch.testing.assert_close(pooled[0, first : first + 2, 3, 7], window.amax((2, 3))[0])


def test_the_three_modules_called_sam_gate_different_things():
    x, context = torch.randn(2, 6, 5, 5), torch.randn(2, 4, 5, 5)
    pointwise, other = PointwiseAttention(6, style=STYLE).eval(), ContextAttention(6, 4, style=STYLE).eval()
    gates = {
        "pointwise": pointwise(x) / x,
        "context": other(x, context) / x,
        "spatial": SpatialAttention()(x) / x,
    }
    for gate in gates.values():
        assert gate.min() > 0 and gate.max() < 1
    torch.testing.assert_close(gates["pointwise"], pointwise.gate.bn(pointwise.gate.conv(x)).sigmoid())
    torch.testing.assert_close(gates["context"], other.gate.bn(other.gate.conv(context)).sigmoid())
    torch.testing.assert_close(gates["spatial"], gates["spatial"][:, :1].expand_as(x))  # one value for a pixel
    assert (gates["pointwise"].std(1) > 0).all()


@pytest.mark.parametrize("kind", ["none", "pointwise", "context", "spatial"])
def test_any_attention_fits_where_one_does(kind):
    x, context = torch.randn(2, 6, 5, 5), torch.randn(2, 4, 5, 5)
    gated = Attend(kind, 6, 4, style=STYLE)(x, context)
    assert gated.shape == x.shape
    assert torch.equal(gated, x) == (kind == "none")
    for name in ("efm", "gfm", "cem"):
        outputs = neck_for(name, WIDE, attention=kind)(maps(WIDE, NECKS[name].reads, 64))
        assert all(torch.isfinite(out).all() for out in outputs)


def depends_on(output: torch.Tensor, features: list[torch.Tensor]) -> list[bool]:
    grads = torch.autograd.grad(output.square().sum(), features, allow_unused=True, retain_graph=True)
    return [grad is not None and bool(grad.any()) for grad in grads]


def test_exact_fusion_reads_a_level_and_its_two_neighbours():
    """The level below directly, the level above through its fused map: so nothing finer than s - 1 arrives."""
    neck = neck_for("efm", WIDE)
    features = maps(WIDE, (4, 8, 16, 32))
    fused: list[torch.Tensor] = []
    for module in (neck.deepest, *neck.levels):
        module.register_forward_hook(lambda *call: fused.append(call[2]))
    neck(features)
    deepest, middle, finest = fused
    assert depends_on(deepest, features) == [False, False, True, True]
    assert depends_on(middle, features) == [False, True, True, True]
    assert depends_on(finest, features) == [True, True, True, True]


def test_predictions_of_an_exact_fusion_ascend_from_the_finest_level():
    neck = neck_for("efm", WIDE)
    seen: list[int] = []
    for index, smooth in enumerate(neck.ascent.smooth):
        smooth.register_forward_hook(lambda *_, index=index: seen.append(index))
    neck(maps(WIDE, (4, 8, 16, 32), 64))
    assert seen == [0, 1, 2]


def test_global_fusion_sees_the_whole_image_and_prn_does_not():
    far = {}
    for name in ("prn", "cem", "gfm"):
        neck = neck_for(name, WIDE).eval()
        features = maps(WIDE, NECKS[name].reads, 256, batch=1)
        corner = neck(features)[-1][:, :, 0, 0]
        (grad,) = torch.autograd.grad(corner.square().sum(), features[-1])
        far[name] = bool(grad[:, :, -1, -1].any())
    assert far == {"prn": False, "cem": True, "gfm": True}


def test_shortcuts_of_prn_add_the_first_channels_alone():
    neck = neck_for("prn", WIDE).eval()
    features = maps(WIDE, (16, 32), 64, batch=1)
    (grad,) = torch.autograd.grad(neck(features)[0].square().sum(), features[0])
    assert grad[:, :128].any() and not grad[:, 128:].any()


def test_maxout_is_an_option_and_costs_no_weights():
    plain, narrow = neck_for("efm", WIDE, maxout=False), neck_for("efm", WIDE)
    assert not any(isinstance(module, Maxout) for module in plain.modules())
    outputs = plain(maps(WIDE, (4, 8, 16, 32), 64))
    assert [out.shape[1] for out in outputs] == narrow.channels
    count = [sum(p.numel() for p in neck.parameters()) for neck in (plain, narrow)]
    assert count[0] > count[1]


def test_the_convolutions_of_exact_fusion_cost_the_same_on_every_level():
    neck = neck_for("efm", WIDE)
    costs = set()
    for module in neck.modules():
        if isinstance(module, ConvNormAct) and module.conv.kernel_size == (3, 3) and module.conv.in_channels >= 64:
            side = {64: 52, 128: 26, 256: 13}[module.conv.in_channels]
            if module.conv.stride == (1, 1) and module.conv.in_channels == module.conv.out_channels:
                costs.add(2 * side**2 * module.conv.weight.numel())
    assert 0.1993e9 < max(costs) < 0.1995e9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neck": "emf"}, "neck 'emf' is unknown; did you mean .?efm"),
        ({"backbone": "denset121"}, "backbone 'denset121' is unknown; did you mean .?densenet121"),
        ({"head": "fcoss"}, "head 'fcoss' is unknown; did you mean .?fcos"),
        ({"neck_channels": (64, 128)}, r"neck_channels are \(64, 128\); expected 3 even numbers for EFMConfig"),
        ({"neck_channels": (64, 127, 256)}, "even numbers"),
        ({"reads": (4, 16, 32)}, r"strides \[4, 16, 32\]; expected each to be twice the one before"),
        ({"reads": (16, 32, 64), "neck_channels": (64, 128)}, r"maps of strides \[16, 32, 64\] are asked for"),
        ({"necks": 3}, "has no setting 'necks'"),
        ({"attention": "sam"}, "attention is 'sam'; expected none, pointwise, context or spatial"),
        ({"neck_act": "softsign"}, "activation 'softsign' is unknown"),
    ],
)
def test_what_does_not_fit_is_told(settings, message):
    with pytest.raises(ConfigError, match=message):
        create_detector(**{"backbone": "densenet121", "neck": "efm", "num_classes": 3, **settings})


def test_a_neck_of_other_levels_gets_the_anchors_for_them_or_those_it_is_given():
    settings = {"num_classes": 2, "reads": (8, 16, 32), "neck_channels": (128, 256)}
    two = create_detector("csppeleenet", "efm", **settings)
    assert [level.stride for level in two.head.levels] == two.neck.strides == [16, 32]
    assert two.head.levels == create_model("yolov3_tiny").head.levels
    three = create_model("yolov3").head.levels
    with pytest.raises(ConfigError, match=r"anchors are bound to strides \[8, 16, 32\]; expected those of the neck's"):
        create_detector("csppeleenet", "efm", levels=three, **settings)
    own = (AnchorLevel(16, ((20, 30),)), AnchorLevel(32, ((90, 80), (200, 210))))
    raw = create_detector("csppeleenet", "efm", levels=own, **settings)(torch.rand(2, 3, 64, 64))
    assert [tensor.shape[1] for tensor in raw.values()] == [1 * 7, 2 * 7]


class CoarserConfig(NeckConfig):
    """A neck in a test: the maps as they are, and two coarser ones."""

    def build(self, channels, strides, *, style):
        return Coarser(channels, strides, style=style)


class Coarser(nn.Module):
    def __init__(self, channels, strides, *, style):
        super().__init__()
        self.channels = [*channels, 32, 32]
        self.strides = [*strides, 2 * strides[-1], 4 * strides[-1]]
        self.p6 = ConvNormAct(channels[-1], 32, 3, 2, style=style)
        self.p7 = ConvNormAct(32, 32, 3, 2, style=style)

    def forward(self, features):
        p6 = self.p6(features[-1])
        return [*features, p6, self.p7(p6)]


def test_a_program_may_add_a_neck_with_coarser_maps_than_it_reads(monkeypatch):
    monkeypatch.setitem(NECKS, "coarser", CoarserConfig(neck_act="relu"))
    levels = tuple(AnchorLevel(stride, ((2.0 * stride, 2.0 * stride),)) for stride in (8, 16, 32, 64, 128))
    detector = create_model("csppeleenet_coarser", num_classes=2, levels=levels)
    assert detector.neck.strides == [8, 16, 32, 64, 128]
    raw = detector(torch.rand(2, 3, 256, 256))
    assert [tensor.shape[2] for tensor in raw.values()] == [32, 16, 8, 4, 2]
    assert isinstance(detector.neck.p6.act, nn.ReLU)


def test_strides_are_nominal_where_maps_do_not_halve():
    """Maps of 300 pixels have 38, 19 and 10 cells, then 5 and 3: convolutions with padding round up."""
    neck = build_neck(CoarserConfig(), [8, 8, 8], [8, 16, 32], style=STYLE)
    outputs = neck([torch.rand(2, 8, side, side) for side in (38, 19, 10)])
    assert [out.shape[2] for out in outputs] == [38, 19, 10, 5, 3]
    assert build_neck(CoarserConfig(reads=(8, 32)), [8, 8], [8, 32], style=STYLE).strides == [8, 32, 64, 128]


@pytest.mark.parametrize("reads", [(), (0, 8), (16, 8), (8, 8)])
def test_strides_that_no_network_has_are_refused(reads):
    with pytest.raises(ConfigError, match="expected positive numbers, ascending"):
        CoarserConfig(reads=reads)


@pytest.mark.parametrize("norm", ["group", "frozen", "none"])
@pytest.mark.parametrize("name", ["panet_spp", "efm_sam", "prn", "cem", "gfm"])
def test_necks_have_the_norm_of_the_backbone(name, norm):
    row = NECKS[name]
    assert isinstance(row, PyramidConfig)
    neck = build_neck(row, [WIDE[s] for s in row.reads], row.reads, style=ConvStyle(norm=norm))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in neck.modules())
    sum(out.square().mean() for out in neck(maps(WIDE, row.reads, 64))).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


def test_settings_of_parts_have_names_of_their_own():
    """Overrides are flat: a name means one thing."""
    for neck in NECKS.values():
        for backbone in BACKBONES.values():
            assert not (vars(neck).keys() & vars(backbone).keys()), (type(neck), type(backbone))


def test_a_row_of_a_neck_is_data():
    assert NECKS["efm_sam"] == EFMConfig(attention="pointwise")
