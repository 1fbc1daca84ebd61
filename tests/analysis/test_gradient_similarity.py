"""How alike gradients are: the measures on signals made by hand, and what reaches the layers of real stages."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crossstage import Partial, create_model
from crossstage.analysis import gradient_similarity, linear_cka, plot_similarity, stage_taps, subspace_overlap
from crossstage.errors import ConfigError
from crossstage.nn import CrossStage, slice_split

SMALL = {"depths": (2, 3), "bottleneck": (1, 1), "growth": 8, "stem": 8, "dropout": 0.0}


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]


def as_kernels(first: Tensor, second: Tensor) -> float:
    """CKA by its definition on n x n kernels (arXiv 1905.00414, equations 2 and 3)."""
    n = len(first)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    a, b = (centring @ (x @ x.T) @ centring for x in (first, second))
    return ((a * b).sum() / torch.sqrt((a * a).sum() * (b * b).sum())).item()


def test_cka_is_the_alignment_of_centred_kernels():
    x, y = torch.randn(40, 5, dtype=torch.float64) + 3, torch.randn(40, 8, dtype=torch.float64)
    y[:, :2] += x[:, :2]
    assert linear_cka(x, y) == pytest.approx(as_kernels(x, y), rel=1e-9)
    assert 0.1 < linear_cka(x, y) < 0.9


def test_cka_of_equal_rotated_and_unrelated_signals():
    x = torch.randn(4000, 6, dtype=torch.float64) * torch.arange(1, 7)
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, -5 * x @ rotation(6) + 2) == pytest.approx(1)
    assert linear_cka(x, torch.randn(4000, 6, dtype=torch.float64)) < 0.01
    assert math.isnan(linear_cka(x, torch.ones(4000, 2)))


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2])
def test_overlap_is_the_squared_cosine_between_planes(angle):
    """Two planes in the space of rows that share one direction and hold an angle between their others."""
    directions = torch.linalg.qr(torch.randn(50, 4, dtype=torch.float64) - 1)[0]
    directions = torch.linalg.qr(directions - directions.mean(0))[0]
    turned = math.cos(angle) * directions[:, 1] + math.sin(angle) * directions[:, 2]
    first = directions[:, :2] @ rotation(2)
    second = torch.stack([3 * directions[:, 0], 2 * turned], 1) @ torch.randn(2, 5, dtype=torch.float64)
    assert subspace_overlap(first, second, energy=1) == pytest.approx((1 + math.cos(angle) ** 2) / 2)


def test_overlap_counts_the_components_that_hold_the_energy():
    directions = torch.linalg.qr(torch.randn(50, 3, dtype=torch.float64) - 1)[0]
    directions = torch.linalg.qr(directions - directions.mean(0))[0]
    first = torch.stack([directions[:, 0] * 3, directions[:, 1]], 1)  # 90% of the variance in one direction
    second = directions[:, 1:2]
    assert subspace_overlap(first, second, energy=0.89) == pytest.approx(0, abs=1e-9)
    assert subspace_overlap(first, second, energy=0.95) == pytest.approx(1)
    assert math.isnan(subspace_overlap(first, torch.zeros(50, 2)))


def test_signals_are_the_gradients_of_the_maps():
    """In a network that is a line of two convolutions, they follow by hand."""
    first, second = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 1)
    model = nn.Sequential(first, second)
    images, targets = torch.randn(5, 2, 4, 4), torch.randn(5, 4, 4, 4)
    taps = {"stage": {"given": (second, "input"), "yielded": (second, "output")}}

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * targets).sum()

    found = gradient_similarity(model, [(images[:2], targets[:2]), (images[2:], targets[2:])], stages=taps, loss=loss)
    yielded = targets.permute(0, 2, 3, 1).reshape(-1, 4)
    given = yielded @ second.weight.detach()[:, :, 0, 0]
    similarity = found["stage"]
    assert similarity.names == ("given", "yielded")
    assert similarity.cka[0, 1] == pytest.approx(linear_cka(given, yielded), rel=1e-4)
    assert similarity.overlap[0, 1] == pytest.approx(subspace_overlap(given, yielded), rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("fusion", [None, "first", "last", "both"])
@pytest.mark.parametrize("name", ["csppeleenet", "cspdensenet40"])
def test_the_taps_of_dense_stages(name, fusion):
    settings = SMALL if name == "csppeleenet" else {"depths": (2, 3), "growth": 4}
    model = create_model(name, 3, partial=fusion and Partial(0.5, fusion), **settings)
    layers = [("1", "2"), ("1", "2", "3")]
    before = ("carried", "input") if fusion else ("input",)
    assert [tuple(taps) for taps in stage_taps(model).values()] == [(*before, *names) for names in layers]
    found = gradient_similarity(model, [(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))])
    for similarity in found.values():
        np.testing.assert_allclose(np.diag(similarity.cka), 1)
        np.testing.assert_allclose(np.diag(similarity.overlap), 1)
        np.testing.assert_allclose(similarity.cka, similarity.cka.T)
        assert ((similarity.cka > 0) & (similarity.cka < 1 + 1e-9)).all()


def test_the_parts_of_a_stage_get_what_the_concatenation_sends_back():
    """Without transitions, and with a loss that is linear, the signals are the slices of the targets."""
    layer = nn.Conv2d(2, 3, 1)
    stage = CrossStage(slice_split(4, 2), layer, nn.Identity(), nn.Identity())
    taps = {"stage": {"carried": (stage.split.carried, "output"), "layer": (layer, "output")}}
    images, targets = torch.randn(6, 4, 5, 5), torch.randn(6, 5, 5, 5)
    targets[:, 3:] += targets[:, :2]
    found = gradient_similarity(stage, [(images, targets)], stages=taps, loss=lambda y, t: (y * t).sum())["stage"]
    rows = targets.permute(0, 2, 3, 1).reshape(-1, 5)
    assert found.cka[0, 1] == pytest.approx(linear_cka(rows[:, 3:], rows[:, :3]), rel=1e-4)
    assert 0.1 < found.cka[0, 1] < 0.9


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("resnet18", ["1", "2"]),
        ("cspresnet50", ["carried", "input", "1", "2", "3"]),
        ("vovnet27_slim", ["input", *"12345"]),
    ],
)
def test_the_taps_of_other_families(name, names):
    assert list(next(iter(stage_taps(create_model(name)).values()))) == names


def test_a_model_without_stages_and_maps_of_different_sizes_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 2, 2), nn.Flatten(), nn.LazyLinear(3))
    batch = (torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match="expected stages"):
        gradient_similarity(model, [batch])
    taps = {"both": {"a": (model[0], "output"), "b": (model[1], "output")}}
    with pytest.raises(ConfigError, match="a 128, b 32"):
        gradient_similarity(model, [batch], stages=taps)
    unused = {"both": {"a": (model[0], "output"), "b": (nn.Conv2d(3, 4, 1), "output")}}
    with pytest.raises(ConfigError, match="no gradient came by b"):
        gradient_similarity(model, [batch], stages=unused)
    with pytest.raises(ConfigError, match="no gradients to compare"):
        gradient_similarity(model, [], stages=taps)


def test_heat_maps_show_both_measures():
    model = create_model("csppeleenet", 3, **SMALL)
    found = gradient_similarity(model, [(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))])
    axes = plot_similarity(found).axes
    assert [place.get_title() for place in axes[:2]] == list(found)
    np.testing.assert_array_equal(axes[3].images[0].get_array(), list(found.values())[1].overlap)
