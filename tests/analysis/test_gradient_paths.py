"""Gradient paths: counts and lengths against enumeration, closed formulas and the gradient itself."""

import random

import pytest
import torch
from torch import Tensor, nn

from crossstage import Partial, create_model
from crossstage.analysis import GradientPaths, gradient_paths
from crossstage.errors import ConfigError
from crossstage.nn import ConvStyle, CrossStage, DenseBlock, DenseLayer, OneShotAggregation, slice_split

STYLE = ConvStyle("relu")
SIZE = (1, 3, 8, 8)


def found_in(model: nn.Module, shape: tuple[int, ...] = SIZE) -> dict[str, GradientPaths]:
    return {row.layer: row for row in gradient_paths(model, shape)}


class Wired(nn.Module):
    """Convolutions of 4 channels, each reading half or all of the channels of earlier ones, with random detours."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__()
        chance = random.Random(seed)
        self.reads = []  # of each layer: pairs of an earlier layer (-1 the input) and whether it reads the first half
        for index in range(count + 1):  # the last entry is what the output is made of
            sources = sorted(chance.sample(range(-1, index), chance.randint(1, min(3, index + 1))))
            self.reads.append([(source, chance.choice(["all", "half"])) for source in sources])
        self.layers = nn.ModuleList(nn.Conv2d(self.width(index), 4, 1) for index in range(count))

    def width(self, index: int) -> int:
        return sum(4 if how == "all" else 2 for _, how in self.reads[index])

    def gather(self, maps: list[Tensor], index: int) -> Tensor:
        """Concatenates twice as much as is read, and cuts the rest off again."""
        parts, rest = [], []
        for source, how in self.reads[index]:
            if how == "half":
                x = maps[source + 1] * torch.sigmoid(maps[source + 1])
                parts.append(x.chunk(2, dim=1)[0])
            else:
                parts.append(torch.relu(maps[source + 1]))
            rest.append(maps[source + 1])
        rest += maps
        return torch.nn.functional.max_pool2d(torch.cat(parts + rest, dim=1), 1)[:, : self.width(index)]

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for index, layer in enumerate(self.layers):
            maps.append(layer(self.gather(maps, index)))
        return self.gather(maps, len(self.layers))

    def enumerate(self, target: int) -> list[int]:
        """Length of every path to a layer, one by one."""
        lengths = []

        def walk(index: int, crossed: int) -> None:
            for source, _ in self.reads[index]:
                if source == target:
                    lengths.append(crossed)
                elif source >= 0:
                    walk(source, crossed + 1)

        walk(len(self.layers), 0)
        return lengths


@pytest.mark.parametrize("seed", range(20))
def test_random_networks_agree_with_enumeration(seed):
    network = Wired(9, seed)
    lengths = {"input": network.enumerate(-1)} | {f"layers.{i}": network.enumerate(i) for i in range(9)}
    expected = {
        name: GradientPaths(name, len(found), min(found), max(found)) for name, found in lengths.items() if found
    }
    if "input" in expected:
        assert found_in(network, (1, 4, 8, 8)) == expected
    else:
        with pytest.raises(ConfigError, match="depends on its input"):
            gradient_paths(network, (1, 4, 8, 8))


@pytest.mark.parametrize("layers", [1, 2, 5, 70])
def test_a_dense_block_doubles_the_paths_with_each_layer(layers):
    block = DenseBlock(3, layers, 2, lambda channels: DenseLayer(channels, 2, None, style=STYLE))
    found = found_in(block)
    assert found["input"] == GradientPaths("input", 2**layers, 0, layers)
    for index in range(layers):
        after = layers - 1 - index
        assert found[f"layers.{index}.conv1"] == GradientPaths(f"layers.{index}.conv1", 2**after, 0, after)


def test_the_gradient_itself_counts_the_paths():
    """With all weights t, what reaches the input is the sum of t to the power of each path's length."""
    block = DenseBlock(1, 6, 1, lambda channels: DenseLayer(channels, 1, None, style=ConvStyle("linear"))).double()
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    gradients = []
    for t in (1.0, 2.0):
        for layer in block.layers:
            layer.norm1 = nn.Identity()
            nn.init.constant_(layer.conv1.weight, t)  # a map of one pixel is read by the middle alone
        (gradient,) = torch.autograd.grad(block(x).sum(), x)
        gradients.append(gradient.item())
    assert gradients == [2**6, 3**6]  # (1 + t) ** 6: 6 over n paths of length n
    assert found_in(block.float(), (1, 1, 4, 4))["input"] == GradientPaths("input", 2**6, 0, 6)


@pytest.mark.parametrize(("name", "depths"), [("densenet121", (6, 12, 24, 16)), ("densenet201", (6, 12, 48, 32))])
def test_torchvisions_densenets(name, depths):
    from torchvision import models

    with torch.device("meta"):
        found = found_in(getattr(models, name)(), (1, 3, 64, 64))
    # shortest: the classifier, three transitions and the stem; longest: every weighted layer
    assert found["input"] == GradientPaths("input", 2 ** sum(depths), 5, 2 * sum(depths) + 5)
    assert found["features.denseblock4.denselayer1.conv2"].paths == 2 ** (depths[3] - 1)
    assert found["features.denseblock1.denselayer1.conv1"].paths == 2 ** (sum(depths) - 1)


@pytest.mark.parametrize(("name", "blocks", "last"), [("resnet18", 8, "1.conv2"), ("resnet50", 16, "2.conv3")])
def test_torchvisions_resnets(name, blocks, last):
    from torchvision import models

    with torch.device("meta"):
        found = found_in(getattr(models, name)(), (1, 3, 64, 64))
    downsamples = sum("downsample" in layer for layer in found)
    assert found["input"] == GradientPaths("input", 2**blocks, 2 + downsamples, 2 + int(last[-1]) * blocks)
    assert (found["fc"].paths, found["fc"].longest) == (1, 0)
    assert found[f"layer4.{last}"] == GradientPaths(f"layer4.{last}", 1, 1, 1)


def test_one_shot_aggregation_adds_paths_where_dense_blocks_multiply_them():
    found = found_in(OneShotAggregation(3, 4, 8, 5, style=STYLE))
    assert found["input"] == GradientPaths("input", 6, 1, 6)
    assert [found[f"layers.{i}.conv"].paths for i in range(5)] == [5, 4, 3, 2, 1]


def test_a_split_adds_one_path_to_a_stage():
    """CSPNet says that split and merge doubles them: so they do for a chain, and for nothing else."""

    def stage(blocks: nn.Module, width: int) -> CrossStage:
        return CrossStage(slice_split(4, 2), blocks, nn.Conv2d(width, 2, 1), nn.Conv2d(4, 4, 1))

    shape = (1, 4, 8, 8)
    chain = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1))
    assert found_in(chain, (1, 2, 8, 8))["input"].paths == 1
    assert found_in(stage(chain, 2), shape)["input"] == GradientPaths("input", 2, 1, 4)
    dense = DenseBlock(2, 5, 3, lambda channels: DenseLayer(channels, 3, None, style=STYLE))
    assert found_in(dense, (1, 2, 8, 8))["input"].paths == 32
    assert found_in(stage(dense, 17), shape)["input"] == GradientPaths("input", 33, 1, 7)
    first = CrossStage(slice_split(4, 2), dense, nn.Identity(), nn.Conv2d(19, 4, 1))
    assert found_in(first, shape)["input"].paths == 32  # the block's own concatenation carries its input already


@pytest.mark.parametrize(
    "cut",
    [
        lambda x: x.split([5, 3], dim=1),
        lambda x: x.split([5, 3], dim=-3),
        lambda x: (x[:, :5], x[:, -3:]),
        lambda x: (x[:, 0:-3], x[:, 5:]),
        lambda x: (x.narrow(1, 0, 5), x.narrow(-3, 5, 3)),
    ],
)
def test_what_reads_a_slice_has_no_path_to_the_rest_of_a_concatenation(cut):
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            first, second = cut(torch.cat([self.a(x), self.b(x)], dim=1))
            return self.c(torch.relu(first)[:, :4]) + second.mean()

    found = found_in(Cut())
    assert found["a"] == GradientPaths("a", 1, 1, 1)  # through c; what is left of b is averaged
    assert found["b"] == GradientPaths("b", 1, 0, 0)
    assert found["input"] == GradientPaths("input", 2, 1, 2)


def test_a_layer_that_runs_twice_is_one_row():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> list[Tensor]:
            y = self.conv(x)
            return [y, self.conv(y)]

    assert found_in(Twice()) == {
        "conv": GradientPaths("conv", 3, 0, 1),  # to the first run from either output, to the second from one
        "input": GradientPaths("input", 2, 1, 2),
    }


def test_matrix_products_with_parameters_are_layers_and_others_are_not():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    found = found_in(layer, (1, 5, 8))
    assert list(found) == ["input", "self_attn", "self_attn.out_proj", "linear1", "linear2"]
    assert found["input"] == GradientPaths("input", 4, 0, 4)


def test_a_detector_has_a_path_from_each_of_its_outputs():
    found = found_in(create_model("cspdarknet53_tiny_yolo").to("meta"), (1, 3, 64, 64))
    assert (found["head.predict.0"].paths, found["head.predict.1"].paths) == (1, 1)
    assert found["backbone.stem.0.conv"].shortest < found["backbone.stem.0.conv"].longest


def test_the_model_is_left_as_it_was():
    model = create_model("csppeleenet", num_classes=2, partial=Partial(0.5, "last", "slice")).train()
    model.fc.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert "fc" in found_in(model, (1, 3, 64, 64))
    assert all(module.training for module in model.modules())
    assert not model.fc.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_cannot_run_is_told_with_its_input():
    with pytest.raises(ConfigError, match=r"Conv2d cannot run on an input of \(1, 4, 8, 8\)"):
        gradient_paths(nn.Conv2d(3, 4, 1), (1, 4, 8, 8))
