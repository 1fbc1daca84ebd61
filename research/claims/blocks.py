"""Claims about blocks and single layers: traffic, memory access, gradient paths, aggregation."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from crossstage.analysis import (
    Layer,
    dense_block_cio,
    gradient_paths,
    operations,
    partial_dense_block_cio,
    profile_module,
)
from crossstage.nn import (
    ConvNormAct,
    ConvStyle,
    CrossStage,
    DenseBlock,
    DenseLayer,
    OneShotAggregation,
    Residual,
    slice_split,
)
from crossstage.nn.residual import basic_body
from crossstage.weights.loading import create_model
from research.claims.ledger import Found, Value

STYLE = ConvStyle("relu")
DENSE_BLOCKS = {  # channels of the input, layers, growth
    "DenseNet-121, block 1": (64, 6, 32),
    "DenseNet-121, block 3": (256, 24, 32),
    "2048 channels, 6 layers of 8": (2048, 6, 8),
}


def network(name: str, **settings: Any) -> nn.Module:
    """A network without data, in evaluation mode."""
    with torch.device("meta"):
        model = create_model(name, **settings).eval()
    assert isinstance(model, nn.Module)
    return model


def dense_block(channels: int, layers: int, growth: int) -> DenseBlock:
    """A dense block of single convolutions, without data."""
    with torch.device("meta"):
        return DenseBlock(channels, layers, growth, lambda given: DenseLayer(given, growth, None, style=STYLE)).eval()


def block_cio(channels: int, layers: int, growth: int) -> int:
    """CIO of a dense block for each pixel, counted."""
    return profile_module(dense_block(channels, layers, growth), (1, channels, 1, 1)).cio


def cio() -> Found:
    """CIO of dense and partial dense blocks beside the paper's formulas, and of two networks at 256 pixels, in M."""
    found: dict[str, Any] = {}
    for name, (c, m, d) in DENSE_BLOCKS.items():
        found[f"{name}: dense"] = Value(dense_block_cio(c, m, d), block_cio(c, m, d))
        found[f"{name}: partial"] = Value(partial_dense_block_cio(c, m, d), block_cio(c // 2, m, d))
    for name, title in (("resnext50", "ResNeXt-50, M"), ("cspresnext50", "CSPResNeXt-50, M")):
        found[title] = profile_module(network(name), (1, 3, 256, 256)).cio_with_pooling / 1e6
    return found


def traffic_half() -> Found:
    """Share of a dense block's CIO that its partial form saves at γ = 0.5, in percent."""
    return {name: 100 * (1 - block_cio(c // 2, m, d) / block_cio(c, m, d)) for name, (c, m, d) in DENSE_BLOCKS.items()}


def split_paths() -> Found:
    """How many times as many gradient paths a stage has once it is split and merged."""
    with torch.device("meta"):
        blocks: dict[str, nn.Module] = {
            "a chain of 4 convolutions": nn.Sequential(*[ConvNormAct(8, 8, 3, style=STYLE) for _ in range(4)]),
            "4 residual blocks": nn.Sequential(
                *[Residual(basic_body(8, 8, style=STYLE), nn.Identity(), STYLE.activate()) for _ in range(4)]
            ),
            "a dense block of 4 layers": DenseBlock(8, 4, 8, lambda c: DenseLayer(c, 8, None, style=STYLE)),
        }
        stages = {name: _stage(block) for name, block in blocks.items()}
    return {name: _paths(stages[name], 16) / _paths(block, 8) for name, block in blocks.items()}


def _stage(blocks: nn.Module) -> CrossStage:
    """A cross stage partial stage of 16 channels, half of them processed, with both transitions."""
    width = blocks.out_channels if isinstance(blocks, DenseBlock) else 8
    merge = ConvNormAct(16, 16, style=STYLE)
    return CrossStage(slice_split(16, 8), blocks, ConvNormAct(width, 8, style=STYLE), merge)


def _paths(module: nn.Module, channels: int) -> int:
    """Gradient paths from a module's output to its input."""
    found = gradient_paths(module, (1, channels, 4, 4))
    return next(row.paths for row in found if row.layer == "input")


def no_bottleneck() -> Found:
    """Memory access of the 1x1 convolutions in CSPResNeXt-50's blocks over its lower bound, by stage."""
    layers = operations(network("cspresnext50"), (1, 3, 256, 256))
    found: dict[str, float] = {}
    for stage in range(4):
        inside = [layer for layer in layers if layer.name.startswith(f"backbone.stages.{stage}.1.blocks")]
        found[f"stage {stage + 1}"] = _over_bound([layer for layer in inside if layer.kernel == (1, 1)])
    return found


def _over_bound(layers: list[Layer]) -> float:
    return sum(layer.memory_access for layer in layers) / sum(layer.memory_access_bound for layer in layers)


def mac_bound() -> Found:
    """Memory access of 1x1 convolutions of 4,096 weights on a 56x56 map, the shapes from 8 to 512 channels."""
    access: dict[float, float] = {}
    for given in (8, 16, 32, 64, 128, 256, 512):
        with torch.device("meta"):
            layer = nn.Conv2d(given, 4096 // given, 1, bias=False)
        access[4096 / given**2] = _over_bound(operations(layer, (1, given, 56, 56)))
    return {
        "MAC over its bound at equal widths": access[1],
        "output to input channels of the least MAC": min(access, key=access.__getitem__),
    }


def against_densenet40(osa: str) -> Found:
    """Memory access of the convolutions of DenseNet-40 and of a network that aggregates at once, in M."""
    found: dict[str, float] = {}
    for title, name in (("DenseNet-40", "densenet40"), ("OSA", osa)):
        layers = operations(network(name), (1, 3, 32, 32))
        found[title] = sum(layer.memory_access for layer in layers if layer.kind == "convolution") / 1e6
    return found


def with_bottlenecks(model: nn.Module) -> nn.Module:
    """Put a 1x1 convolution to half the channels before each 3x3 convolution of a network's aggregations."""
    for module in model.modules():
        if isinstance(module, OneShotAggregation):
            for index, layer in enumerate(module.layers):
                assert isinstance(layer, ConvNormAct)
                given, width = layer.conv.in_channels, layer.conv.out_channels
                module.layers[index] = nn.Sequential(
                    ConvNormAct(given, width // 2, style=STYLE), ConvNormAct(width // 2, width, 3, style=STYLE)
                )
    return model


def osa_bottleneck() -> Found:
    """Change of VoVNet-27-slim's operations by bottlenecks."""
    plain = profile_module(network("vovnet27_slim"), (1, 3, 300, 300)).flops
    with torch.device("meta"):
        narrowed = with_bottlenecks(network("vovnet27_slim"))
    return {"FLOPs": 100 * (profile_module(narrowed.eval(), (1, 3, 300, 300)).flops / plain - 1)}


def vovnet39_and_resnet50() -> Found:
    """VoVNet-39's operations against ResNet-50's, backbones alone at 320 pixels."""
    ours, theirs = (
        profile_module(network(name), (1, 3, 320, 320)).flops for name in ("vovnet39", "resnet50_torchvision")
    )
    return {"FLOPs": 100 * (ours / theirs - 1)}


def attention_and_identity() -> Found:
    """What eSE and identity add to the operations of VoVNetV2's networks, elementwise ones included."""

    def operations_of(name: str, **settings: Any) -> int:
        layers = operations(network(name, **settings), (1, 3, 224, 224))
        elementwise = sum(layer.written for layer in layers if layer.kind in ("elementwise", "activation"))
        return elementwise + sum(layer.darknet_flops for layer in layers)

    return {
        f"VoVNetV2-{size}": 100
        * (operations_of(f"vovnet{size}_v2") / operations_of(f"vovnet{size}_v2", attend="none", identity=False) - 1)
        for size in (19, 39, 57, 99)
    }
