"""What networks cost: against torch's and fvcore's counters, the papers' formulas, and hand-counted graphs."""

import itertools
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from fvcore.nn import FlopCountAnalysis
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.profiler import ProfilerActivity
from torch.utils.flop_counter import FlopCounterMode

import crossstage
from crossstage.analysis import dense_block_cio, operations, partial_dense_block_cio, profile_module
from crossstage.errors import ConfigError
from crossstage.nn import ConvStyle, CrossStage, DenseBlock, DenseLayer
from crossstage.nn.partial import slice_split
from crossstage.weights.loading import create_model


def on_meta(build, *arguments, **settings):
    with torch.device("meta"):
        return build(*arguments, **settings).eval()


class Upward(nn.Module):
    """A transposed and a grouped convolution, a product of two maps, and a linear layer over positions."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(6, 8, 4, 2, 1, groups=2)
        self.wide = nn.Conv2d(8, 16, (1, 5), dilation=2, groups=4)
        self.mix = nn.Linear(16, 3)

    def forward(self, x):
        y = self.wide(self.up(x)).flatten(2).transpose(1, 2)
        return self.mix(torch.softmax(y @ y.transpose(1, 2), -1) @ y)


NETWORKS = {
    "cspresnext50": lambda: create_model("cspresnext50"),
    "densenet121": lambda: create_model("densenet121"),
    "csppeleenet_efm_sam": lambda: create_model("csppeleenet_efm_sam"),
    "vovnet39_v2": lambda: create_model("vovnet39_v2"),
    "torchvision swin_t": torchvision.models.swin_t,
    "torchvision deeplab": lambda: torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None),
    "timm vit": lambda: timm.create_model("vit_tiny_patch16_224"),
    "timm hrnet": lambda: timm.create_model("hrnet_w18_small"),
    "own": Upward,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_are_those_that_torch_counts(name):
    model = on_meta(NETWORKS[name])
    shape = (2, 6, 9, 13) if name == "own" else (2, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(*shape, device="meta"))
    assert profile_module(model, shape).flops == counter.get_total_flops() > 0


@pytest.mark.parametrize("name", ["cspdarknet53_tiny_yolo", "cspmobilenetv2", "vovnet27_slim"])
def test_every_layer_costs_what_fvcore_says(name):
    model = create_model(name).eval()
    counted = FlopCountAnalysis(model, torch.zeros(1, 3, 64, 64)).unsupported_ops_warnings(False)
    theirs = {
        module: sum(count for operator, count in by_operator.items() if operator in ("conv", "linear"))
        for module, by_operator in counted.by_module_and_operator().items()
        if isinstance(model.get_submodule(module), (nn.Conv2d, nn.Linear))
    }
    ours = {layer.name: layer.macs for layer in operations(model, (1, 3, 64, 64)) if layer.macs}
    assert ours == theirs
    assert len(ours) > 20


convolutions = st.builds(
    lambda groups, a, b, k, h, w, batch: (groups * a, groups * b, k, groups, h, w, batch),
    *(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3, 5])),
    *(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
)


@given(convolutions)
def test_memory_access_is_the_papers_formula_and_never_below_its_bound(case):
    inside, outside, k, groups, h, w, batch = case
    conv = on_meta(nn.Conv2d, inside, outside, k, padding=k // 2, groups=groups, bias=True)
    (layer,) = operations(conv, (batch, inside, h, w))
    hw = batch * h * w
    operations_ = k**2 * hw * inside * outside // groups
    assert layer.macs == operations_
    assert layer.memory_access == hw * (inside + outside) + k**2 * inside * outside // groups
    bound = 2 * (hw * operations_ * groups / k**2) ** 0.5 + operations_ / hw
    assert layer.memory_access_bound == pytest.approx(bound)
    assert layer.memory_access >= bound - 1e-6
    assert (inside == outside) == (layer.memory_access == pytest.approx(bound))


def test_no_widths_with_as_many_operations_access_less_than_the_bound():
    """All widths whose product is 24 squared, with a stride too."""
    costs = {}
    for inside, outside in itertools.product(range(1, 577), repeat=2):
        if inside * outside == 576:
            conv = on_meta(nn.Conv2d, inside, outside, 3, padding=1, bias=False)
            (layer,) = operations(conv, (1, inside, 8, 8))
            costs[inside, outside] = layer.memory_access
            (strided,) = operations(on_meta(nn.Conv2d, inside, outside, 3, 2, 1), (1, inside, 8, 8))
            assert strided.memory_access >= strided.memory_access_bound
    assert min(costs, key=costs.__getitem__) == (24, 24)
    (layer,) = operations(on_meta(nn.Conv2d, 2, 288, 3, padding=1), (1, 2, 8, 8))
    assert layer.memory_access_bound == pytest.approx(costs[24, 24])


@pytest.mark.parametrize(("channels", "layers", "growth"), [(64, 6, 32), (16, 12, 12), (32, 1, 8)])
def test_the_formulas_of_dense_blocks_are_what_is_counted(channels, layers, growth):
    style = ConvStyle(act="relu")
    block = on_meta(DenseBlock, channels, layers, growth, lambda width: DenseLayer(width, growth, None, style=style))
    assert profile_module(block, (1, channels, 5, 7)).cio == 35 * dense_block_cio(channels, layers, growth)

    half = channels // 2
    inner = on_meta(DenseBlock, half, layers, growth, lambda width: DenseLayer(width, growth, None, style=style))
    stage = CrossStage(slice_split(channels, half), inner, nn.Identity(), nn.Identity())
    counted = profile_module(stage, (1, channels, 5, 7)).cio
    assert counted == 35 * partial_dense_block_cio(channels, layers, growth)


def test_cio_of_the_papers_two_networks():
    """The paper says 34.4M for ResNeXt-50 and 32.6M for CSPResNeXt-50 (section 3): with poolings, at 256 pixels."""
    for name, published in (("resnext50", 34.4), ("cspresnext50", 32.6)):
        assert round(crossstage.profile(name, 256).cio_with_pooling / 1e6, 1) == published


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1, bias=False)
        self.b = nn.Conv2d(4, 2, 1, bias=False)
        self.c = nn.Conv2d(4, 5, 1)

    def forward(self, x):  # (1, 3, 2, 2)
        x = self.a(x)
        x = F.relu(x, inplace=True)
        kept, used = x[:, :2], x[:, 2:]
        y = self.b(torch.cat([used, used], 1))
        z = torch.cat([kept, y], 1)
        return F.max_pool2d(self.c(z), 2), z


def test_memory_is_held_from_the_operation_that_writes_to_the_last_that_reads():
    """Values at each operation, by hand; a position of 2 x 2 is 4 values."""
    found = profile_module(on_meta(Branches), (1, 3, 2, 2))
    x, a, pair, y, z, c, pooled = 12, 16, 16, 8, 16, 20, 5
    assert [(layer.operator, layer.live) for layer in found.layers] == [
        ("convolution", x + a),
        ("relu", a),  # in place
        ("cat", a + pair),  # the slices are views of a
        ("convolution", a + pair + y),  # a half of a is still to be read, which keeps all of it
        ("cat", a + y + z),
        ("convolution", z + c),
        ("max_pool2d_with_indices", z + c + pooled),  # z is returned; the indices are not kept
    ]
    assert found.peak_activation_bytes() == 4 * (z + c + pooled)
    assert found.peak_activation_bytes("int8") == z + c + pooled
    assert found.peak_layer.operator == "max_pool2d_with_indices"


def test_traffic_of_a_hand_counted_graph():
    found = profile_module(on_meta(Branches), (1, 3, 2, 2))
    moved = [12 + 12 + 16, 32, 32, 16 + 8 + 8, 32, 16 + 25 + 20, 20 + 5]
    assert [layer.moved for layer in found.layers] == moved
    assert found.dram_bytes("fp32", folded=False) == 4 * sum(moved)
    assert found.dram_bytes("fp16") == 2 * (sum(moved) - 32)  # without the ReLU
    assert found.macs == 4 * (12 + 8 + 20)
    assert found.arithmetic_intensity("int8", folded=False) == 2 * found.macs / sum(moved)
    assert (found.parameters, found.weights, found.activations) == (45, 40, 16 + 8 + 20)


class WithoutConvolutions(nn.Module):
    """Operations that take no workspace, so that what is allocated is what the maps need."""

    def forward(self, x):
        z = torch.cat([x, x + x, x], 1).relu_()
        a, b = z.split([3, 6], 1)
        y = torch.cat([a + x, F.leaky_relu(b)], 1)
        return torch.cat([F.avg_pool2d(y, 2), F.avg_pool2d(x, 2)], 1)  # the caller holds x to the end


def test_the_peak_is_what_a_run_that_frees_early_allocates():
    model, shape = WithoutConvolutions(), (2, 3, 64, 64)
    graph = fx.Interpreter(fx.symbolic_trace(model))  # frees each value after its last use
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
            graph.run(torch.zeros(shape))
    events = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    assert profile_module(model, shape).peak_activation_bytes() == max(allocated)


class ByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        return y if y.sum().item() > 1e9 else y * 2


def test_a_network_that_looks_at_values_runs_for_real_or_says_so():
    assert profile_module(ByValue(), (1, 3, 4, 4)).macs == 16 * 12
    with pytest.raises(ConfigError, match=r"ByValue cannot run on an input of \(1, 3, 4, 4\)"):
        profile_module(on_meta(ByValue), (1, 3, 4, 4))


def test_a_failure_names_the_module():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(5, 4, 1)))
    with pytest.raises(ConfigError, match=r"module '1\.0' cannot run on an input of \(1, 3, 4, 4\): "):
        profile_module(model, (1, 3, 4, 4))


def test_counting_leaves_the_model_as_it_was():
    model = create_model("csppeleenet")
    model.backbone.stem.eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    crossstage.profile(model, 64)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_operations_are_told_apart_in_inference_mode_too():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with torch.inference_mode():
        within = profile_module(model, (1, 5, 8)).layers
    assert within == profile_module(model, (1, 5, 8)).layers
    # four projections, two products of two maps in each head, two linear layers
    assert sum(layer.macs for layer in within) == 5 * (4 * 64 + 2 * 5 * 8 + 2 * 128)


def test_shared_weights_are_one_parameter_and_read_twice():
    conv = nn.Conv2d(4, 4, 1, bias=False)
    found = profile_module(nn.Sequential(conv, nn.ReLU(), conv), (1, 4, 2, 2))
    assert found.parameters == found.weights == 16
    assert [layer.parameters for layer in found.layers] == [16, 0, 16]


def test_learned_values_of_the_layers_add_up():
    found = crossstage.profile("cspresnext50_panet_spp", 416)
    assert sum(layer.parameters for layer in found.layers) == found.parameters
    assert sum(layer.weights for layer in found.layers) == found.weights


def test_the_bottleneck_is_the_largest_layer():
    model = nn.Sequential(*(nn.Conv2d(2, 2, k, padding=k // 2) for k in (1, 3, 1, 5)), nn.ReLU())
    found = profile_module(model, (1, 2, 4, 4)).bottleneck
    assert [layer.name for layer in found.layers] == ["3", "1", "0", "2"]
    assert found.share == 25 / 36
    assert found.max_over_mean == 25 / 9
    assert profile_module(nn.ReLU(), (1, 2, 4, 4)).bottleneck.layers == ()
    with pytest.raises(ConfigError, match="Identity runs no operation"):
        profile_module(nn.Identity(), (1, 2, 4, 4))


def test_timed_layers_are_the_counted_ones_and_stand_under_the_roof(monkeypatch):
    for name, less in (("COPIED", 1 << 22), ("PEAK_ROUNDS", 2), ("ROUNDS", 4)):  # which a real roof is steadier for
        monkeypatch.setattr(f"crossstage.analysis.roof.{name}", less)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    counted, timed = (profile_module(model, (1, 3, 64, 64), measure=measure) for measure in (False, True))
    assert counted.roof is None and counted.seconds is None
    assert counted.totals() == {key: value for key, value in timed.totals().items() if key != "seconds"}
    assert timed.roof is not None
    assert 1e8 < timed.roof.flops < 1e16 and 1e8 < timed.roof.bytes < 1e14
    for layer, row in zip(timed.layers, timed.rows(), strict=True):
        assert layer.seconds and layer.seconds > 0
        assert row["rate"] == layer.flops / layer.seconds
        assert row["bandwidth"] == 4 * layer.moved / layer.seconds
        attainable = timed.roof.attainable(layer.intensity())
        expected = row["rate"] / attainable if layer.flops else row["bandwidth"] / timed.roof.bytes
        assert row["of_roof"] == pytest.approx(expected)
    assert timed.seconds == pytest.approx(sum(layer.seconds or 0 for layer in timed.layers))
    assert timed.slowest[0].seconds == max(layer.seconds or 0 for layer in timed.layers)


def test_a_profile_is_printed_in_a_line():
    found = crossstage.profile("csppeleenet")
    assert len(repr(found)) < 400
    assert str(found).startswith("csppeleenet, input 1 x 3 x 224 x 224: 0.8") and "parameters" in str(found)
