"""Plain networks as cross stage partial networks."""

import copy
import importlib.util
import pickle
import sys
import warnings
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from crossstage import Partial, to_partial
from crossstage.csp import Trace, carry_out, plan_network
from crossstage.csp.stages import find_stages
from crossstage.errors import ConfigError
from crossstage.nn import ConvNormAct, CrossStage
from tests.csp import nets
from tests.sweep import sweep

EXAMPLE = Path(__file__).parents[2] / "examples" / "small_cnn.py"
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@cache
def example():
    spec = importlib.util.spec_from_file_location("small_cnn", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where pickle looks for its classes
    spec.loader.exec_module(module)
    return module


def small_cnn():
    return example().small_cnn()


def flops(model):
    """An independent count."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        copy.deepcopy(model).eval()(IMAGES[:1])
    return counter.get_total_flops()


def stages_of(model):
    return [module for module in model.modules() if isinstance(module, CrossStage)]


@cache
def plain_and_trace(make):
    plain = make().eval()
    return plain, Trace(plain, IMAGES[:1])


def convert(make, *options, stages=None, **settings):
    """The plain network, its partial variant and the report, as to_partial makes them."""
    plain, trace = plain_and_trace(make)
    return plain, *carry_out(plain, plan_network(trace, Partial(*options, **settings), stages))


@pytest.mark.parametrize("make", [small_cnn, nets.densenet], ids=lambda make: make.__name__)
def test_larger_gammas_are_cheaper_whatever_the_fusion_and_the_split(make):
    plain, trace = plain_and_trace(make)
    costs = {}
    for fusion, split in product(("first", "last", "both"), ("slice", "project")):
        plans = [plan_network(trace, Partial(gamma, fusion, split)) for gamma in (0.25, 0.5, 0.75)]
        saved = [sum(stage.flops_before - stage.flops_after for _, stage in plan.stages) for plan in plans]
        assert 0 < saved[0] < saved[1] < saved[2]
        costs[fusion, split] = saved[1]
    assert len(set(costs.values())) == len(costs)
    assert costs["both", "project"] > 0.1 * flops(plain)


CHOICES = [
    (small_cnn, "first", "slice"),
    (nets.resnext, "last", "project"),
    (nets.densenet, "first", "slice"),
    (nets.vgg, "last", "project"),
    (small_cnn, "last", "project"),
    (nets.resnext, "first", "slice"),
    (nets.densenet, "last", "project"),
    (nets.vgg, "first", "slice"),
]


@pytest.mark.parametrize(
    "choice", sweep(CHOICES, lambda choice: choice[0]), ids=lambda choice: "-".join((choice[0].__name__, *choice[1:]))
)
def test_options_decide_what_a_stage_is_made_of(choice):
    make, fusion, split = choice
    plain, converted, report = convert(make, 0.5, fusion, split)
    assert converted(IMAGES).shape == plain(IMAGES).shape
    assert (report.flops_before, report.flops_after) == (flops(plain), flops(converted))
    saved = sum(stage.flops_before - stage.flops_after for stage in report.stages)
    assert report.flops_before - report.flops_after == saved
    stages = stages_of(converted)
    for stage, entry in zip(stages, report.stages, strict=True):
        assert isinstance(stage.transition, ConvNormAct) == (fusion != "first")
        assert isinstance(stage.merge, ConvNormAct) == (fusion != "last" and entry.merge == "stage")
        assert (entry.merge is None) == (fusion == "last")
        x = torch.randn(2, entry.in_channels, 16, 16)
        carried, processed = stage.split(x)
        assert carried.shape[1] == entry.carried
        if split == "slice":
            assert torch.equal(processed, x[:, entry.carried :])
        assert stage.blocks(processed).shape[1] == entry.processed_out


def without_first_half(module, *, segments=1):
    """Take from all layers what reads the first half of each segment of their input."""
    module = copy.deepcopy(module)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            for segment in layer.weight.data.chunk(segments, 1):
                segment[:, : segment.shape[1] // 2] = 0
    return module


def test_narrow_residual_blocks_compute_what_the_wide_ones_do_on_their_channels():
    plain = nets.Net(32, 32, nn.Sequential(*[nets.Bottleneck(32, 16, 32, groups=4) for _ in range(3)])).eval()
    converted, _ = to_partial(plain, Partial(split="slice"), example_input=IMAGES, stages=[0])
    (stage,) = stages_of(converted)
    x = torch.randn(2, 32, 8, 8)
    expected = without_first_half(plain.stage1)(x)[:, 16:]
    torch.testing.assert_close(stage.blocks(x[:, 16:]), expected)


def test_narrow_gated_blocks_compute_what_the_wide_ones_do_on_their_channels():
    plain, converted, _ = convert(small_cnn, split="slice", stages=["stage3"])
    (stage,) = stages_of(converted)
    x = torch.randn(2, 64, 8, 8)
    expected = without_first_half(plain.stage3)(x)[:, 64:]
    torch.testing.assert_close(stage.blocks(x[:, 32:]), expected)


def test_narrow_dense_layers_compute_what_the_wide_ones_do_on_their_channels():
    """Each layer reads segments of equal width here, of each of which the last half stays."""
    plain = nets.Net(16, 96, nets.DenseBlock(16, 16, 3), nn.AvgPool2d(2), nets.DenseBlock(64, 16, 2)).eval()
    converted, _ = to_partial(plain, Partial(split="slice"), example_input=IMAGES, stages=[0])
    (stage,) = stages_of(converted)
    wide = copy.deepcopy(plain.stage1)
    for number, layer in enumerate(wide.children()):
        layer.conv1 = without_first_half(layer.conv1, segments=number + 1)
        layer.conv2 = without_first_half(layer.conv2)
    x = torch.randn(2, 16, 8, 8)
    expected = torch.cat([segment[:, 8:] for segment in wide(x).chunk(4, 1)], 1)
    torch.testing.assert_close(stage.blocks(x[:, 8:]), expected)


def test_stages_are_found_by_blocks_and_resolution():
    def names(make):
        return [stage.name for stage in find_stages(plain_and_trace(make)[1])]

    assert names(small_cnn) == ["stage1", "stage2.0..2", "stage3"]
    assert names(nets.resnext) == ["stage1", "stage2"]
    assert names(nets.densenet) == ["stage1", "stage3"]
    assert names(nets.vgg) == ["0.5..11"]  # the first convolution reads images, and alone the second makes no stage


def test_chosen_stages_alone_change():
    for chosen in (["stage3"], [2], [-1]):
        _, converted, report = convert(small_cnn, stages=chosen)
        assert [stage.name for stage in report.stages] == ["stage3"]
        assert [name for name, _ in report.left] == ["stage1", "stage2.0..2"]
        assert len(stages_of(converted)) == 1
    with pytest.raises(ConfigError, match=r"'stage9'.*stage1, stage2\.0\.\.2, stage3"):
        convert(small_cnn, stages=["stage9"])


def test_a_stage_that_would_cost_more_is_left_unless_it_is_chosen():
    plain, _, report = convert(nets.one_bottleneck)
    assert [stage.name for stage in report.stages] == ["stage3"]
    assert report.left[0][0] == "stage1" and "would grow" in report.left[0][1]
    assert report.warnings == ()
    _, converted, report = convert(nets.one_bottleneck, stages=["stage1"])
    assert flops(converted) > flops(plain)
    assert any("stage1: computation grows" in warning for warning in report.warnings)
    assert "warning: stage1" in str(report)


def test_where_no_stage_gets_cheaper_all_are_converted_with_a_warning():
    plain, converted, report = convert(nets.thin)
    assert len(stages_of(converted)) == 1
    assert flops(converted) > flops(plain)
    assert report.warnings[-1] == "the network costs more than it did"


def test_u_runs_after_the_pooling_that_reads_a_stage():
    plain, converted, report = convert(small_cnn, split="project")
    assert report.stages[0].merge == "pool"
    pool, merge = converted.pool
    assert pool is not plain.pool and isinstance(pool, nn.MaxPool2d) and isinstance(merge, ConvNormAct)
    assert isinstance(converted.stage1[0].merge, nn.Identity)


def test_the_interface_stays():
    plain = small_cnn()
    before = copy.deepcopy(plain.state_dict())
    converted, _ = to_partial(plain, example_input=IMAGES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    assert converted.training and not convert(small_cnn)[1].training
    assert len(converted.stage2) == len(plain.stage2)
    converted.eval()
    expected = converted(IMAGES)
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        torch.testing.assert_close(twin(IMAGES), expected, rtol=0, atol=0)
    other = convert(small_cnn)[1]
    other.load_state_dict(converted.state_dict())
    torch.testing.assert_close(other(IMAGES), expected, rtol=0, atol=0)
    converted.head = nn.Linear(128, 3)
    assert converted(torch.randn(1, 3, 75, 91)).shape == (1, 3)


def test_weights_are_carried_over_where_shapes_allow():
    plain, converted, report = convert(small_cnn)
    state, old = converted.state_dict(), plain.state_dict()
    assert sorted([*report.whole, *report.cut, *report.new]) == sorted(state)
    assert {"stem.0.weight", "head.weight", "head.bias"} <= set(report.whole)
    assert all(torch.equal(state[name], old[name]) for name in report.whole if name in old)
    cut = state["stage1.0.blocks.0.body.0.weight"]
    assert "stage1.0.blocks.0.body.0.weight" in report.cut
    assert torch.equal(cut, old["stage1.0.body.0.weight"][16:, 16:])
    assert "stage1.0.transition.conv.weight" in report.new


class Sum(nn.Module):
    """A residual block whose sum is not activated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.last = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.last(self.body(x))


@pytest.mark.parametrize("fusion", ["first", "both"])
@pytest.mark.parametrize("split", ["project", "slice"])
def test_added_layers_pass_on_what_they_read(fusion, split):
    """Blocks that add nothing leave a map as it is, and so do they in the partial stage, linear as the sums are."""
    blocks = [Sum(16) for _ in range(3)]
    for block in blocks:
        nn.init.zeros_(block.last.weight)
        nn.init.zeros_(block.last.bias)
    plain = nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.Sequential(*blocks), nn.Conv2d(16, 4, 1)).eval()
    converted, report = to_partial(plain, Partial(0.25, fusion, split), example_input=IMAGES)
    assert len(report.stages) == 1
    torch.testing.assert_close(converted(IMAGES), plain(IMAGES), rtol=1e-4, atol=1e-4)  # norms have an epsilon


def test_parameters_are_counted():
    plain, converted, report = convert(nets.densenet)
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (plain, converted)]
    assert [report.parameters_before, report.parameters_after] == counts
    stages = sum(stage.parameters_before - stage.parameters_after for stage in report.stages)
    assert counts[0] - counts[1] == stages


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nets.attention, r"stage1\.0 \(Attention\).*scaled_dot_product_attention"),
        (nets.Written, r"Written has no stages.*not layers called one by one"),
        (nets.Shared, r"Shared has no stages"),
    ],
)
def test_a_refusal_names_the_module_and_the_reason(make, message):
    with pytest.raises(ConfigError, match=message):
        to_partial(make(), example_input=IMAGES)


def test_an_input_that_does_not_fit_is_told():
    with pytest.raises(ConfigError, match=r"Net cannot be traced on an input of \(1, 1, 28, 28\)"):
        to_partial(nets.resnext(), example_input=torch.zeros(1, 1, 28, 28))


def test_gamma_that_carries_nothing_is_told():
    with pytest.raises(ConfigError, match=r"stage2: gamma = 0\.005 of 64 channels carries none"):
        convert(nets.resnext, 0.005, split="slice", stages=["stage2"])


def test_group_norm_stands_in_where_a_network_has_no_batch_norm():
    converted, _ = to_partial(without_batch_norm(nets.resnext()), example_input=IMAGES)
    assert all(isinstance(stage.transition.bn, nn.GroupNorm) for stage in stages_of(converted))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())


def without_batch_norm(model):
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(4, child.num_features))
    return model


def test_onnx_runtime_agrees(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    _, converted, _ = convert(small_cnn)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(converted, (IMAGES,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    torch.testing.assert_close(torch.from_numpy(outputs), converted(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_converted_network_learns(images):
    torch.manual_seed(0)
    images, labels = images
    converted = convert(small_cnn)[1].train()
    optimiser = torch.optim.AdamW(converted.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(converted(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_torchvisions_resnet18_keeps_its_head():
    torchvision = pytest.importorskip("torchvision")
    plain = torchvision.models.resnet18()
    converted, report = to_partial(plain)
    assert [stage.name for stage in report.stages] == ["layer1", "layer2", "layer3", "layer4"]
    assert report.flops_after < 0.9 * report.flops_before
    assert {name for name, _ in converted.named_children()} == {name for name, _ in plain.named_children()}
    assert torch.equal(converted.fc.weight, plain.fc.weight)
