"""A Triton kernel for what CSP stages and dense layers do between their blocks, beside torch's own.

One 1x1 convolution reads one or two channels-last maps as if they were concatenated and writes its channels into one or
two maps, with bias and leaky activation on the way; maps may be slices of wider ones. So the split is one launch, T
writes where U reads, and no concatenation is ever written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from crossstage.nn import ConvNormAct


class Tile(NamedTuple):
    """How a product is cut: pixels, channels out, channels in, warps and pipeline stages of a program."""

    pixels: int
    outs: int
    ins: int
    warps: int
    stages: int


TILES = (
    Tile(128, 128, 64, 8, 3),
    Tile(128, 256, 64, 8, 3),
    Tile(128, 64, 64, 4, 4),
    Tile(256, 64, 32, 8, 4),
    Tile(64, 128, 64, 4, 4),
    Tile(128, 64, 32, 4, 4),
    Tile(128, 32, 32, 4, 4),
)


@triton.jit
def _add_product(
    sums,
    x,
    weight,
    rows,
    columns,
    pixels,
    outs,
    ins,
    row_step,
    weight_step,
    INS: tl.constexpr,  # noqa: N803 (Triton's custom)
):
    for start in range(0, ins, INS):
        depth = start + tl.arange(0, INS)
        read = (rows[:, None] < pixels) & (depth[None, :] < ins)
        a = tl.load(x + rows[:, None] * row_step + depth[None, :], mask=read, other=0.0)
        known = (depth[:, None] < ins) & (columns[None, :] < outs)
        b = tl.load(weight + columns[None, :] * weight_step + depth[:, None], mask=known, other=0.0)
        sums = tl.dot(a, b, sums)
    return sums


@triton.jit
def _pointwise(
    x1, x2, weight, bias, y1, y2, slope,
    pixels, ins1, ins2, outs1, outs2, x1_step, x2_step, y1_step, y2_step,
    PIXELS: tl.constexpr, OUTS: tl.constexpr, INS: tl.constexpr,  # noqa: N803
):  # fmt: skip
    outs = outs1 + outs2
    across = tl.cdiv(outs, OUTS)  # neighbours share pixels, which the cache then holds
    rows = (tl.program_id(0) // across * PIXELS + tl.arange(0, PIXELS)).to(tl.int64)
    columns = tl.program_id(0) % across * OUTS + tl.arange(0, OUTS)
    sums = tl.zeros((PIXELS, OUTS), dtype=tl.float32)
    step = ins1 + ins2
    sums = _add_product(sums, x1, weight, rows, columns, pixels, outs, ins1, x1_step, step, INS)
    sums = _add_product(sums, x2, weight + ins1, rows, columns, pixels, outs, ins2, x2_step, step, INS)
    sums += tl.load(bias + columns, mask=columns < outs, other=0.0)[None, :]
    sums = tl.where(sums > 0, sums, sums * slope)
    found = sums.to(y1.dtype.element_ty)
    inside = rows[:, None] < pixels
    tl.store(y1 + rows[:, None] * y1_step + columns[None, :], found, mask=inside & (columns[None, :] < outs1))
    second = columns[None, :] - outs1
    tl.store(y2 + rows[:, None] * y2_step + second, found, mask=inside & (second >= 0) & (second < outs2))


class Pointwise(NamedTuple):
    """A 1x1 convolution with its norm folded in.

    Attributes:
        weight: ``(outs, ins)``, contiguous.
        bias: ``(outs,)`` in float32.
        slope: Of the activation below zero; 1 for none.
    """

    weight: Tensor
    bias: Tensor
    slope: float


def folded(*blocks: nn.Module) -> Pointwise:
    """Blocks that read the same map, as one convolution; their activations must be alike."""
    convolutions = []
    slopes = set()
    for block in blocks:
        assert isinstance(block, ConvNormAct) and isinstance(block.bn, nn.BatchNorm2d)
        convolutions.append(fuse_conv_bn_eval(block.conv.float(), block.bn.float()))
        slopes.add(1.0 if block.linear else float(getattr(block.act, "negative_slope", 0.0)))
    (slope,) = slopes
    weight = torch.cat([conv.weight.detach().flatten(1) for conv in convolutions])
    return Pointwise(weight, torch.cat([conv.bias.detach() for conv in convolutions if conv.bias is not None]), slope)


def row_step(x: Tensor) -> int:
    """Values from one pixel to the next in a channels-last map or a slice of its channels."""
    _, channels, height, width = x.shape
    step = x.stride(3)
    assert channels == 1 or x.stride(1) == 1
    assert x.stride(2) == width * step and x.stride(0) == height * width * step
    return step


def pointwise(inputs: Sequence[Tensor], how: Pointwise, outputs: Sequence[Tensor], tile: Tile) -> None:
    """Convolve the concatenation of one or two maps into one or two others.

    Args:
        inputs: ``(N, C, H, W)`` in channels-last order, or slices of such by channels.
        how: The convolution; its weight has the type of the maps.
        outputs: Where its channels go, in order.
        tile: How to cut the product.
    """
    x1, x2 = inputs[0], inputs[-1]
    y1, y2 = outputs[0], outputs[-1]
    ins2 = x2.shape[1] if len(inputs) > 1 else 0
    outs2 = y2.shape[1] if len(outputs) > 1 else 0
    batch, ins1, height, width = x1.shape
    pixels, outs = batch * height * width, y1.shape[1] + outs2
    grid = (triton.cdiv(pixels, tile.pixels) * triton.cdiv(outs, tile.outs),)
    _pointwise[grid](
        x1, x2, how.weight, how.bias, y1, y2, how.slope,
        pixels, ins1, ins2, y1.shape[1], outs2, row_step(x1), row_step(x2), row_step(y1), row_step(y2),
        PIXELS=tile.pixels, OUTS=tile.outs, INS=tile.ins,
        num_warps=tile.warps, num_stages=tile.stages,  # pyright: ignore[reportCallIssue] (the launcher takes them)
    )  # fmt: skip


def channels_last(like: Tensor, channels: int) -> Tensor:
    """An uninitialised channels-last map of another's type and size."""
    batch, _, height, width = like.shape
    shape = (batch, channels, height, width)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
