"""Mean L1 norms of the weights between layers, on weights set by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from crossstage import Partial, create_model
from crossstage.analysis import plot_weight_norms, weight_norms
from crossstage.nn import ConvStyle, DenseBlock, DenseLayer, OneShotAggregation, TwoWayDenseLayer

STYLE = ConvStyle("relu")
NAN = float("nan")


def fill(kernel: torch.Tensor, values: list[tuple[int, float]]) -> None:
    """Runs of input channels, each with weights of one size and random sign."""
    signs = torch.randint(2, kernel.shape) * 2.0 - 1
    sizes = torch.cat([torch.full((count,), value) for count, value in values])
    kernel.data = signs * sizes[None, :, None, None]


def test_a_dense_block_with_weights_set_by_hand():
    block = DenseBlock(5, 2, 3, lambda channels: DenseLayer(channels, 3, 4, style=STYLE))
    network = nn.Sequential(block, nn.BatchNorm2d(11), nn.Conv2d(11, 2, 1))
    fill(block.layers[0].conv1.weight, [(5, 1.0)])
    fill(block.layers[1].conv1.weight, [(5, 2.0), (3, 3.0)])
    fill(network[2].weight, [(5, 4.0), (3, 5.0), (3, 8.0)])
    (found,) = weight_norms(network)
    assert (found.name, found.sources, found.targets) == ("0", ("input", "1", "2"), ("1", "2", "transition"))
    np.testing.assert_allclose(found.values, [[1, 2, 4], [NAN, 3, 5], [NAN, NAN, 8]])
    np.testing.assert_allclose(found.relative, [[1, 2 / 3, 0.5], [NAN, 1, 5 / 8], [NAN, NAN, 1]])


def test_mixed_weights_are_averaged_without_their_sign():
    block = DenseBlock(1, 1, 2, lambda channels: DenseLayer(channels, 2, None, style=STYLE))
    block.layers[0].conv1.weight.data = torch.arange(-9, 9).reshape(2, 1, 3, 3).float()
    (found,) = weight_norms(block)
    assert found.targets == ("1",)  # nothing follows that could be a transition
    assert found.values[0, 0] == np.abs(np.arange(-9, 9)).mean()


def test_both_branches_of_a_two_way_layer_count():
    block = DenseBlock(4, 1, 8, lambda channels: TwoWayDenseLayer(channels, 8, 6, style=STYLE))
    fill(block.layers[0].near[0].conv.weight, [(4, 1.0)])
    fill(block.layers[0].far[0].conv.weight, [(4, 2.0)])
    assert weight_norms(block)[0].values[0, 0] == 1.5


def test_a_sparse_block_reads_what_it_says():
    block = DenseBlock(2, 4, 8, lambda channels: TwoWayDenseLayer(channels, 8, 4, style=STYLE), sparse=True)
    read = ~np.isnan(weight_norms(block)[0].values)
    distances = (1, 2, 4)
    expected = [[target - source in distances for target in range(1, 5)] for source in range(5)]
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("depthwise", [False, True])
def test_an_aggregation_reads_all_at_its_end_alone(depthwise):
    module = OneShotAggregation(5, 3, 7, 2, style=STYLE, depthwise=depthwise)
    firsts = [module.reduce.conv, module.layers[1].depthwise] if depthwise else [layer.conv for layer in module.layers]
    fill(firsts[0].weight, [(5, 1.0)])
    fill(firsts[1].weight, [(1 if depthwise else 3, 2.0)])
    fill(module.aggregate.conv.weight, [(5, 3.0), (3, 4.0), (3, 5.0)])
    (found,) = weight_norms(module)
    np.testing.assert_allclose(found.values, [[1, NAN, 3], [NAN, 2, 4], [NAN, NAN, 5]])


@pytest.mark.parametrize("fusion", ["first", "last", "both"])
@pytest.mark.parametrize("name", ["cspdensenet40", "csppeleenet"])
def test_the_transition_of_a_partial_stage(name, fusion):
    """A source's channels are those of the transition's input that move with it."""
    model = create_model(name, partial=Partial(0.5, fusion, split="slice"), num_classes=2, act="linear").eval()
    found = weight_norms(model)[0]
    assert ("carried" in found.sources) == (fusion == "first")
    modules = dict(model.named_modules())
    block = modules[found.name]
    assert isinstance(block, DenseBlock)
    after = list(modules)[list(modules).index(found.name) + len(list(block.modules())) :]
    reader = next(modules[other] for other in after if isinstance(modules[other], (nn.Conv2d, nn.Linear)))
    seen = []
    reader.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    shift = torch.zeros(1)
    block.layers[-1].register_forward_hook(lambda *given: given[-1] + shift)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model(images)
        shift = torch.ones(1)
        model(images)
    moved = (seen[0] != seen[1]).flatten(2).any(2)[0]
    expected = reader.weight[:, moved].abs().mean().item()
    row = found.sources.index(str(len(block.layers)))
    assert found.values[row, -1] == pytest.approx(expected, rel=1e-6)


def test_heat_maps_are_drawn_in_a_row():
    norms = weight_norms(create_model("osanet40_5x43"))
    figure = plot_weight_norms(norms)
    assert [axes.get_title() for axes in figure.axes[:3]] == [block.name for block in norms]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array().filled(NAN), norms[1].relative)
