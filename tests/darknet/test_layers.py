"""Darknet's layers that OpenCV cannot read, against plain loops written from the formats' description."""

import math

import numpy as np
import pytest
import torch

from crossstage.darknet import DarknetNetwork
from crossstage.darknet.activations import NAMES, darknet_activation
from crossstage.errors import ConfigError
from tests.darknet.nets import (
    conv,
    load_text,
    maxpool,
    net,
    route,
    section,
    shortcut,
)


@torch.no_grad()
def run(text: str, folder, x: torch.Tensor | None = None) -> tuple[DarknetNetwork, list[np.ndarray], np.ndarray]:
    """The network, every layer's output by index, and the input last (index -1)."""
    network = load_text(text, folder)
    if x is None:
        x = torch.randn(2, *network.input_shape)
    maps: list[torch.Tensor] = []
    hooks = [module.register_forward_hook(lambda _m, _i, out: maps.append(out.clone())) for module in network.stack]
    network(x)
    for hook in hooks:
        hook.remove()
    return network, [m.numpy() for m in maps] + [x.numpy()], maps[-1].numpy()


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def convolve(x, weight, stride=(1, 1), padding=0, dilation=1):
    """Convolution with loops over output pixels, `x` (N, C, H, W) and `weight` (F, C, K, K)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    reach = (weight.shape[2] - 1) * dilation + 1
    height, width = ((x.shape[2 + i] - reach) // stride[i] + 1 for i in (0, 1))
    out = np.zeros((x.shape[0], weight.shape[0], height, width))
    for i in range(height):
        for j in range(width):
            top, left = i * stride[0], j * stride[1]
            patch = x[:, :, top : top + reach : dilation, left : left + reach : dilation]
            out[:, :, i, j] = np.einsum("nckl,fckl->nf", patch, weight)
    return out


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def conv_weight(network, index):
    return network.stack[index].conv.weight.detach().numpy()


def conv_bias(network, index):
    return network.stack[index].conv.bias.detach().numpy()[:, None, None]


@pytest.mark.parametrize(
    ("options", "stride", "padding", "dilation"),
    [
        ({"dilation": 2}, (1, 1), 2, 2),
        ({"dilation": 3, "size": 5}, (1, 1), 6, 3),
        ({"stride_x": 2, "stride_y": 1}, (1, 2), 1, 1),
        ({"stride": 2, "stride_y": 1}, (1, 2), 1, 1),
        ({"pad": 0, "padding": 2, "dilation": 2}, (1, 1), 4, 2),
    ],
)
def test_convolution_options(options, stride, padding, dilation, tmp_path):
    text = net(11, 9) + conv(4, **{"size": 3, "bn": 0, **options})
    network, maps, out = run(text, tmp_path)
    close(out, leaky(convolve(maps[-1], conv_weight(network, 0), stride, padding, dilation) + conv_bias(network, 0)))


def test_batch_norm_uses_darknets_epsilon(tmp_path):
    network, maps, out = run(net(5) + conv(3, 3, activation="linear"), tmp_path)
    bn = network.stack[0].bn
    with torch.no_grad():
        bn.running_var.fill_(1e-6)  # so small that the epsilon decides
    out = network(torch.from_numpy(maps[-1]))[0].detach().numpy()
    mean, gamma, beta = (t.detach().numpy()[:, None, None] for t in (bn.running_mean, bn.weight, bn.bias))
    close(out, gamma * (convolve(maps[-1], conv_weight(network, 0), padding=1) - mean) / math.sqrt(1e-6 + 1e-5) + beta)


@pytest.mark.parametrize(
    ("kind", "kernel", "padding"), [(1, np.outer([1, 2, 1], [1, 2, 1]) / 16, 1), (2, np.full((2, 2), 0.25), 0)]
)
def test_antialiasing_moves_the_stride_to_a_blur(kind, kernel, padding, tmp_path):
    text = net(12, 10) + conv(4, 3, 2, bn=0, antialiasing=kind) + maxpool(2, 2, antialiasing=kind)
    network, maps, _ = run(text, tmp_path)
    sharp = leaky(convolve(maps[-1], conv_weight(network, 0), (1, 1), 1) + conv_bias(network, 0))

    def blur(x):
        out = [convolve(x[:, c : c + 1], kernel[None, None], (2, 2), padding) for c in range(x.shape[1])]
        return np.concatenate(out, axis=1)

    close(maps[0], blur(sharp))
    pooled = np.pad(maps[0], ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-np.inf)
    pooled = np.maximum.reduce(
        [pooled[:, :, i : i + maps[0].shape[2], j : j + maps[0].shape[3]] for i in (0, 1) for j in (0, 1)]
    )
    close(maps[1], blur(pooled))
    assert [tuple(row.output_shape) for row in network.table()] == [m.shape[1:] for m in maps[:-1]]


def pool(x, size, stride, padding, reduce):
    """Windows in a map with `padding` pixels in all, half of them before; what lies outside does not count."""
    height, width = ((x.shape[2 + i] + padding - size) // stride[i] + 1 for i in (0, 1))
    out = np.zeros((*x.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            top, left = i * stride[0] - padding // 2, j * stride[1] - padding // 2
            window = x[:, :, max(0, top) : max(0, top + size), max(0, left) : max(0, left + size)]
            out[:, :, i, j] = reduce(window, axis=(2, 3))
    return out


@pytest.mark.parametrize(("kind", "reduce"), [("maxpool", np.max), ("local_avgpool", np.mean)])
@pytest.mark.parametrize(
    ("options", "size", "stride", "padding"),
    [
        ({"size": 2, "stride": 2}, 2, (2, 2), 1),
        ({"size": 2, "stride": 1}, 2, (1, 1), 1),
        ({"size": 3, "stride": 2}, 3, (2, 2), 2),
        ({"size": 3, "stride_x": 2, "stride_y": 1}, 3, (1, 2), 2),
        ({"size": 4, "stride": 2, "padding": 2}, 4, (2, 2), 2),
        ({"size": 3, "stride": 3, "padding": 0}, 3, (3, 3), 0),
        ({"stride": 2}, 2, (2, 2), 1),
    ],
)
def test_pooling_options(kind, reduce, options, size, stride, padding, tmp_path):
    _, maps, out = run(net(11, 9, 2) + section(kind, **options), tmp_path)
    close(out, pool(maps[-1], size, stride, padding, reduce))


def test_maxout_takes_strided_groups_of_channels(tmp_path):
    _, maps, out = run(net(3, 3, 8) + maxpool(1, 1, maxpool_depth=1, out_channels=3), tmp_path)
    x = maps[-1]
    expected = np.stack([x[:, [c for c in range(8) if c % 3 == g]].max(1) for g in range(3)], axis=1)
    close(out, expected)


def test_route_cuts_each_input_before_it_joins_them(tmp_path):
    _, maps, out = run(net(4) + conv(4) + conv(6) + route(-1, -2, groups=2, group_id=1), tmp_path)
    close(out, np.concatenate([maps[1][:, 3:], maps[0][:, 2:]], axis=1))


@pytest.mark.parametrize(("own", "other"), [(6, 4), (4, 6), (5, 5)])
def test_shortcut_adds_the_common_channels_then_activates(own, other, tmp_path):
    _, maps, out = run(net(4) + conv(other) + conv(own, 3) + shortcut(-2, "relu"), tmp_path)
    expected = maps[1].copy()
    common = min(own, other)
    expected[:, :common] += maps[0][:, :common]
    close(out, expected.clip(0))


@pytest.mark.parametrize(("width", "height", "stride"), [(8, 8, 2), (12, 8, 2), (9, 9, 1)])
def test_old_shortcut_reads_every_nth_pixel_of_a_larger_map(width, height, stride, tmp_path):
    # n is Darknet's whole quotient of the widths: 8 to 4 pixels are read two apart, 9 to 5 pixels one apart.
    _, maps, out = run(net(width, height) + conv(4) + conv(6, 3, 2) + shortcut(-2), tmp_path)
    expected = maps[1].copy()
    for row in range(expected.shape[2]):
        for column in range(expected.shape[3]):
            expected[:, :4, row, column] += maps[0][:, :, stride * row, stride * column]
    close(out, expected)


def test_shortcut_of_maps_that_no_multiple_relates_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"layer 2 adds layer 0 \(4 x 7 x 10\) to 6 x 4 x 5"):
        load_text(net(10, 7) + conv(4) + conv(6, 3, 2) + shortcut(-2), tmp_path)


def test_old_shortcut_spreads_a_smaller_map(tmp_path):
    text = net(8) + conv(4, 3, 2) + section("upsample", stride=2) + shortcut(0)
    _, maps, out = run(text, tmp_path)
    expected = maps[1].copy()
    expected[:, :, ::2, ::2] += maps[0]
    close(out, expected)


@pytest.mark.parametrize("weights_type", ["per_feature", "per_channel"])
@pytest.mark.parametrize("normalization", ["none", "relu", "softmax"])
def test_weighted_shortcut_of_three_maps(weights_type, normalization, tmp_path):
    options = {"weights_type": weights_type, "weights_normalization": normalization}
    text = net(4) + conv(5) + conv(5) + conv(5) + shortcut("-2,-3", "leaky", **options)
    network = load_text(text, tmp_path)
    weight = network.stack[3].weight
    with torch.no_grad():
        weight.copy_(torch.randn_like(weight))
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        first, second, third = (network.stack[0](x), None, None)
        second = network.stack[1](first)
        third = network.stack[2](second)
        (out,) = network(x)
    w = weight.detach().numpy().astype(np.float64)
    if normalization == "relu":
        w = w.clip(0) / (w.clip(0).sum(0) + 1e-4)
    elif normalization == "softmax":
        w = np.exp(w - w.max(0)) / (np.exp(w - w.max(0)).sum(0) + 1e-4)
    w = w[:, None, :, None, None]
    close(out.numpy(), leaky(w[0] * third.numpy() + w[1] * second.numpy() + w[2] * first.numpy()))


def test_sum_of_three_maps_without_weights(tmp_path):
    _, maps, out = run(net(4) + conv(5) + conv(5) + conv(5) + shortcut("-2,-3"), tmp_path)
    close(out, maps[2] + maps[1] + maps[0])


def test_reorg3d_puts_the_place_in_the_block_outermost(tmp_path):
    _, maps, out = run(net(6, 4, 3) + section("reorg3d", stride=2), tmp_path)
    x = maps[-1]
    expected = np.concatenate([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=1)
    close(out, expected)


def test_scale_by_a_map(tmp_path):
    text = net(4) + conv(5) + conv(1, 3, activation="logistic") + section("scale_channels", scale_wh=1, **{"from": -2})
    _, maps, out = run(text, tmp_path)
    close(out, maps[0] * maps[1])


def test_upsample_scales_its_values(tmp_path):
    _, maps, out = run(net(3) + section("upsample", stride=2, scale=0.5), tmp_path)
    close(out, maps[-1].repeat(2, axis=2).repeat(2, axis=3) * 0.5)


def test_shared_weights_are_stored_once_and_used_twice(tmp_path):
    text = net(8) + conv(3, 3) + conv(3, 3, 2, "relu", share_index=0) + conv(3, 3, 1, "leaky", share_index=-2)
    network, maps, _ = run(text, tmp_path)
    assert len(network.slots()) == 1
    assert [row.parameters > 0 for row in network.table()] == [True, False, False]
    bn = network.stack[0].bn
    mean, var, gamma, beta = (
        t.detach().numpy()[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    plain = convolve(maps[0], conv_weight(network, 0), (2, 2), 1)
    close(maps[1], (gamma * (plain - mean) / np.sqrt(var + 1e-5) + beta).clip(0))


def test_implicit_layers_multiply_maps_and_add_to_vectors(tmp_path):
    text = net(4) + conv(5) + section("implicit", filters=5) + section("scale_channels", **{"from": -2})
    text += section("avgpool") + shortcut(1)
    network, maps, out = run(text, tmp_path)
    constant = network.stack[1].weight.detach().numpy()
    close(maps[2], maps[0] * constant)
    close(out, maps[2].mean((2, 3), keepdims=True) + constant)
    assert network.table()[1].parameters == 5


def test_batchnorm_layer(tmp_path):
    network, maps, out = run(net(4) + section("batchnorm"), tmp_path)
    bn = network.stack[0].bn
    mean, var, gamma, beta = (
        t.detach().numpy()[:, None, None] for t in (bn.running_mean, bn.running_var, bn.weight, bn.bias)
    )
    close(out, gamma * (maps[-1] - mean) / np.sqrt(var + 1e-5) + beta)


def test_connected_layer_with_batch_norm(tmp_path):
    network, maps, out = run(net(3, 2) + section("connected", output=4, batch_normalize=1, activation="relu"), tmp_path)
    layer = network.stack[0]
    mean, var, gamma, beta = (
        t.detach().numpy() for t in (layer.bn.running_mean, layer.bn.running_var, layer.bn.weight, layer.bn.bias)
    )
    plain = maps[-1].reshape(2, -1) @ layer.linear.weight.detach().numpy().T
    close(out.reshape(2, 4), (gamma * (plain - mean) / np.sqrt(var + 1e-5) + beta).clip(0))


@torch.no_grad()
def test_local_layer_has_weights_of_its_own_at_every_place(tmp_path):
    text = net(6, 5, 2) + section("local", filters=3, size=3, stride=2, pad=1, activation="linear")
    network = load_text(text, tmp_path)
    layer = network.stack[0]
    layer.bias.copy_(torch.randn_like(layer.bias))
    x = torch.randn(1, 2, 5, 6)
    (out,) = network(x)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    weight, bias = layer.weight.numpy(), layer.bias.numpy()
    for i in range(3):
        for j in range(3):
            patch = padded[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].ravel()
            close(out[0, :, i, j].numpy(), weight[3 * i + j] @ patch + bias[:, i, j])


def test_response_normalisation_follows_darknets_running_sum(tmp_path):
    size, alpha, beta, kappa = 5, 0.1, 0.75, 2.0
    text = net(3, 3, 9) + section("normalization", size=size, alpha=alpha, beta=beta, kappa=kappa)
    _, maps, out = run(text, tmp_path)
    x = maps[-1].astype(np.float64)
    norms = np.zeros_like(x)
    norms[:, 0] = kappa + alpha * (x[:, : size // 2] ** 2).sum(1)
    for k in range(1, x.shape[1]):
        leaves, enters = k - (size - 1) // 2 - 1, k + size // 2
        norms[:, k] = norms[:, k - 1]
        if leaves >= 0:
            norms[:, k] -= alpha * x[:, leaves] ** 2
        if enters < x.shape[1]:
            norms[:, k] += alpha * x[:, enters] ** 2
    close(out, x * norms**-beta)


@pytest.mark.parametrize(("options", "scale", "shift"), [({}, 2, -1), ({"noadjust": 1}, 1, 0)])
def test_crop_takes_the_centre(options, scale, shift, tmp_path):
    _, maps, out = run(net(8, 6) + section("crop", crop_height=4, crop_width=4, **options), tmp_path)
    close(out, maps[-1][:, :, 1:5, 2:6] * scale + shift)


@pytest.mark.parametrize("kind", ["dropout", "cost", "contrastive", "empty"])
def test_layers_of_training_pass_their_input_on(kind, tmp_path):
    _, maps, out = run(net(4) + conv(3) + section(kind), tmp_path)
    close(out, maps[0])


def test_activation_layer_leaves_its_input_to_others(tmp_path):
    _, maps, out = run(
        net(4) + conv(3, activation="linear") + section("activation", activation="relu") + route(-1, -2), tmp_path
    )
    close(out, np.concatenate([maps[0].clip(0), maps[0]], axis=1))


@pytest.mark.parametrize(
    ("options", "axis_sizes"), [({"temperature": 2}, 1), ({"groups": 2}, 2), ({"temperature": 0.5, "groups": 4}, 4)]
)
def test_softmax_of_groups(options, axis_sizes, tmp_path):
    _, maps, out = run(net(1, 1, 8) + section("softmax", **options), tmp_path)
    logits = maps[-1].reshape(2, axis_sizes, -1) / options.get("temperature", 1)
    weights = np.exp(logits)
    close(out, (weights / weights.sum(2, keepdims=True)).reshape(out.shape))


def test_spatial_softmax_is_across_channels(tmp_path):
    _, maps, out = run(net(3, 2, 4) + section("softmax", spatial=1), tmp_path)
    close(out, np.exp(maps[-1]) / np.exp(maps[-1]).sum(1, keepdims=True))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


FORMULAS = {
    "leaky": leaky,
    "relu": lambda x: x.clip(0),
    "relu6": lambda x: x.clip(0, 6),
    "swish": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "linear": lambda x: x,
    "logistic": sigmoid,
    "tanh": lambda x: (np.exp(2 * x) - 1) / (np.exp(2 * x) + 1),
    "elu": lambda x: np.where(x >= 0, x, np.exp(x) - 1),
    "selu": lambda x: np.where(x >= 0, 1.0507 * x, 1.0507 * 1.6732 * (np.exp(x) - 1)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3)),
    "hardtan": lambda x: x.clip(-1, 1),
    "hard_mish": lambda x: np.select([x > 0, x > -2], [x, x * x / 2 + x], 0),
    "loggy": lambda x: 2 * sigmoid(x) - 1,
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "relie": lambda x: np.where(x > 0, x, 0.01 * x),
    "plse": lambda x: np.select([x < -4, x > 4], [0.01 * (x + 4), 0.01 * (x - 4) + 1], 0.125 * x + 0.5),
    "lhtan": lambda x: np.select([x < 0, x > 1], [0.001 * x, 0.001 * (x - 1) + 1], x),
    "stair": lambda x: np.where(np.floor(x) % 2 == 0, np.floor(x / 2), x - np.floor(x) + np.floor(x / 2)),
    "normalize_channels": lambda x: x.clip(0) / (x.clip(0).sum(1, keepdims=True) + 1e-4),
    "normalize_channels_softmax": lambda x: np.exp(x) / (np.exp(x).sum(1, keepdims=True) + 1e-4),
    "normalize_channels_softmax_maxval": lambda x: (
        np.exp(x - x.max(1, keepdims=True)) / (np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True) + 1e-4)
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_activation_equals_its_formula(name):
    x = torch.linspace(-7.9, 8.3, 120).view(2, 5, 4, 3)
    expected = FORMULAS[name](x.numpy().astype(np.float64))
    np.testing.assert_allclose(darknet_activation(name)(x.clone()).numpy(), expected, rtol=1e-4, atol=1e-4)
