"""Faster inference on the same weights: batch norm folded away, fewer and larger operations, fewer copies.

The parts, and what each saves:

- a convolution takes up the batch norm and the activation behind it; on a CPU all three are one oneDNN call on weights
  laid out in advance, and so is the sum behind a residual body's last convolution;
- the two projections of a cross stage partial split are one convolution, whose output is also where T's result goes:
  only that is copied, where a concatenation copies both parts;
- branches that are summed are one convolution, and what serves training alone is left out;
- a dense block writes every layer's maps once, into one buffer in which a layer reads a prefix of the channels, where
  concatenations copy all earlier maps for every layer. In a pre-activated layer batch norm and ReLU become one clamp:
  for a scale s > 0, ``relu(s x + b) = s (max(x, -b / s) + b / s)``, and the 1x1 convolution behind takes up the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from crossstage.nn.conv import ConvNormAct, FrozenBatchNorm, NormActConv
from crossstage.nn.deconv import DeconvNormAct
from crossstage.nn.deform import DeformConvNormAct
from crossstage.nn.dense import DenseBlock, DenseLayer, TwoWayDenseLayer
from crossstage.nn.osa import SeparableConv
from crossstage.nn.packed import PackedConv, PackedResidual, recorded
from crossstage.nn.partial import CrossStage, Split
from crossstage.nn.rep import RepConv, inference_copy
from crossstage.nn.residual import Residual
from crossstage.nn.shared import PerMap, SharedConvNormAct

_Network = TypeVar("_Network", bound=nn.Module)
_BATCH_NORMS = (nn.BatchNorm2d, FrozenBatchNorm)


def fuse(model: _Network) -> _Network:
    """Return a copy of a model for inference that computes the same faster.

    The copy is in evaluation mode and cannot be trained. It runs where the model ran; on a CPU in float32 it uses
    oneDNN directly where torch has it. Under ``torch.compile`` and when traced or exported it consists of plain
    convolutions.

    Args:
        model: Any model of this package, or a module that holds its blocks.

    Returns:
        The copy; outputs agree with the model's in evaluation mode up to rounding.

    Example:
        >>> fast = fuse(create_model("cspresnet50"))
        >>> with torch.inference_mode():
        ...     logits = fast(images)
    """
    fused = inference_copy(model).requires_grad_(False)
    return _fused(fused)  # pyright: ignore[reportReturnType] (a model itself is no block, and stays of its class)


def _fused(module: nn.Module) -> nn.Module:
    """Return the fused counterpart of a module; its inside is fused first where it is not replaced as a whole."""
    whole = _WHOLE.get(type(module))
    if whole is not None and (replacement := whole(module)) is not None:
        return replacement
    for name, child in module.named_children():
        setattr(module, name, _fused(child))
    outer = _OUTER.get(type(module))
    return module if outer is None else outer(module)


def _conv(conv: nn.Conv2d, norm: nn.Module, act: nn.Module) -> nn.Module:
    if isinstance(norm, _BATCH_NORMS):
        return PackedConv(fuse_conv_bn_eval(conv, norm), act)  # pyright: ignore[reportArgumentType] (reads five tensors)
    if isinstance(norm, nn.Identity):
        return PackedConv(conv, act)
    return nn.Sequential(PackedConv(conv, nn.Identity()), norm, act)


def _residual(block: nn.Module) -> nn.Module:
    assert isinstance(block, Residual)
    body = block.body
    if isinstance(body, nn.Sequential) and isinstance(body[-1], PackedConv) and isinstance(body[-1].act, nn.Identity):
        return PackedResidual(body, block.shortcut, block.act)
    return block


class FusedCrossStage(nn.Module):
    """A stage whose parts are projected by one convolution, into the buffer that U reads.

    Args:
        project: One convolution for both parts, in the order of the concatenation: processed, carried.
        processed: Number of channels of the processed part.
        body: The blocks and the transition T.
        merge: The transition U.
    """

    def __init__(self, project: PackedConv, processed: int, body: nn.Module, merge: nn.Module) -> None:
        super().__init__()
        self.project = project
        self.processed = processed
        self.body = body
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stage's output."""
        parts = self.project(x)
        y = self.body(parts[:, : self.processed].contiguous(memory_format=torch.channels_last))
        if y.shape[1] != self.processed or recorded():
            return self.merge(torch.cat([y, parts[:, self.processed :]], dim=1))
        parts[:, : self.processed].copy_(y)
        return self.merge(parts)


def _cross_stage(stage: nn.Module) -> nn.Module:
    assert isinstance(stage, CrossStage)
    split = stage.split
    if stage.carried_first or not isinstance(split, Split):
        return stage
    carried, processed = split.carried, split.processed
    if not (isinstance(carried, PackedConv) and isinstance(processed, PackedConv)):
        return stage
    joined = _joined(processed, carried)
    if joined is None:
        return stage
    body = nn.Sequential(stage.blocks, stage.transition)
    return FusedCrossStage(joined, processed.conv.out_channels, body, stage.merge)


def _joined(first: PackedConv, second: PackedConv) -> PackedConv | None:
    """Join two 1x1 convolutions of one input to one; None if they are something else or activated unlike."""
    one, two = first.conv, second.conv
    alike = one.kernel_size == two.kernel_size == one.stride == two.stride == (1, 1) and one.groups == two.groups == 1
    if not alike or repr(first.act) != repr(second.act):
        return None
    conv = nn.Conv2d(one.in_channels, one.out_channels + two.out_channels, 1).to(one.weight)
    conv.weight = nn.Parameter(torch.cat([one.weight, two.weight]), requires_grad=False)
    biases = [c.bias if c.bias is not None else c.weight.new_zeros(c.out_channels) for c in (one, two)]
    conv.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return PackedConv(conv, first.act)


class FusedTwoWayLayer(nn.Module):
    """PeleeNet's layer with the 1x1 convolutions of both branches in one."""

    def __init__(self, reduce: PackedConv, near: nn.Module, far: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.reduce = reduce
        self.near = near
        self.far = far
        self.attention = attention

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return new maps made from all earlier ones."""
        x = torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]
        near, far = self.reduce(x).chunk(2, dim=1)
        return self.attention(torch.cat([self.near(near), self.far(far)], dim=1))


def _two_way(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, TwoWayDenseLayer)
    near, far = layer.near[0], layer.far[0]
    joined = _joined(near, far) if isinstance(near, PackedConv) and isinstance(far, PackedConv) else None
    return layer if joined is None else FusedTwoWayLayer(joined, layer.near[1:], layer.far[1:], layer.attention)


class Clamp(nn.Module):
    """Limit each channel: ``(N, C, H, W)`` to the same, in one pass."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.low = nn.Buffer(low.view(1, -1, 1, 1))
        self.high = nn.Buffer(high.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Clamp."""
        return torch.clamp(x, self.low, self.high)


def _clamped(norm: nn.Module, act: nn.Module, conv: nn.Module) -> tuple[Clamp, nn.Conv2d] | None:
    """Turn batch norm, ReLU and 1x1 convolution into a clamp and a convolution with bias; None if they are not such."""
    if not (isinstance(norm, _BATCH_NORMS) and isinstance(act, nn.ReLU) and isinstance(conv, nn.Conv2d)):
        return None
    mean, variance = norm.running_mean, norm.running_var
    if conv.kernel_size != (1, 1) or mean is None or variance is None:
        return None
    scale = norm.weight / (variance + norm.eps).sqrt()
    shift = norm.bias - mean * scale
    turn = torch.where(scale == 0, torch.zeros_like(shift), -shift / scale)  # where the ReLU's argument changes sign
    infinite = torch.full_like(shift, torch.inf)
    low, high = torch.where(scale < 0, -infinite, turn), torch.where(scale > 0, infinite, turn)
    constant = torch.where(scale == 0, shift.clamp(min=0), shift)  # what the convolution adds for each channel
    weight = conv.weight.flatten(1)
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, 1).to(conv.weight)
    folded.weight = nn.Parameter((weight * scale).view_as(conv.weight), requires_grad=False)
    folded.bias = nn.Parameter(weight @ constant, requires_grad=False)
    return Clamp(low, high), folded.eval()


def _pre_activated(layer: DenseLayer) -> nn.Module | None:
    """Turn a DenseNet layer into clamp, 1x1 and 3x3 convolution; None if it has no bottleneck, batch norm or ReLU."""
    folded = _clamped(layer.norm1, layer.act1, layer.conv1)
    if folded is None or not isinstance(layer.norm2, _BATCH_NORMS):
        return None
    clamp, reduce = folded
    return nn.Sequential(clamp, _conv(reduce, layer.norm2, layer.act2), _fused_conv(layer.conv2))


def _fused_conv(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.Conv2d):
        return PackedConv(module, nn.Identity())
    for name, child in module.named_children():
        setattr(module, name, _fused_conv(child))
    return module


def _transition(module: NormActConv, pool: nn.Module | None = None) -> nn.Module | None:
    """Fold DenseNet's transition; the 1x1 convolution runs on the pooled map, as it commutes with mean pooling."""
    folded = _clamped(module.bn, module.act, module.conv)
    if folded is None:
        return None
    clamp, conv = folded
    return nn.Sequential(clamp, pool or nn.Identity(), PackedConv(conv, nn.Identity()))


class FusedDenseBlock(nn.Module):
    """Dense layers that read prefixes of one buffer and append to it.

    Shape: as :class:`~crossstage.nn.DenseBlock`'s.
    """

    def __init__(self, layers: list[nn.Module], out_channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the buffer."""
        if recorded():
            for layer in self.layers:
                x = torch.cat([x, layer(x)], dim=1)
            return x
        batch, filled, height, width = x.shape
        shape = (batch, self.out_channels, height, width)
        buffer = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        buffer[:, :filled].copy_(x)
        for layer in self.layers:
            new = layer(buffer[:, :filled])
            buffer[:, filled : filled + new.shape[1]].copy_(new)
            filled += new.shape[1]
        return buffer


def _dense_block(block: nn.Module) -> nn.Module | None:
    assert isinstance(block, DenseBlock)
    layers = [_pre_activated(layer) if isinstance(layer, DenseLayer) else None for layer in block.layers]
    folded = [layer for layer in layers if layer is not None]
    if block.sparse or len(folded) < len(layers):
        return None
    return FusedDenseBlock(folded, block.out_channels)


def _sequence(sequence: nn.Module) -> nn.Module | None:
    assert isinstance(sequence, nn.Sequential)
    match list(sequence):
        case [NormActConv() as transition, nn.AvgPool2d() as pool]:
            return _transition(transition, pool)
    return None


def _conv_norm_act(block: nn.Module) -> nn.Module:
    assert isinstance(block, ConvNormAct)
    fused = _conv(block.conv, block.bn, block.act)
    return fused if block.pad is None else nn.Sequential(block.pad, fused)


def _deconv_norm_act(block: nn.Module) -> nn.Module:
    assert isinstance(block, DeconvNormAct)
    if isinstance(block.bn, _BATCH_NORMS):
        norm: Any = block.bn  # of which five tensors are read
        block.conv, block.bn = fuse_conv_bn_eval(block.conv, norm, transpose=True), nn.Identity()
    return block


def _deform_norm_act(block: nn.Module) -> nn.Module:
    assert isinstance(block, DeformConvNormAct)
    if isinstance(block.bn, _BATCH_NORMS):
        norm: Any = block.bn
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        block.conv.weight.data = block.conv.weight * scale.view(-1, 1, 1, 1)
        block.conv.bias.data = norm.bias + (block.conv.bias - norm.running_mean) * scale
        block.bn = nn.Identity()
    return block


def _rep_conv(block: nn.Module) -> nn.Module | None:
    assert isinstance(block, RepConv)
    folded = block.folded()
    return None if folded is None else PackedConv(folded, block.act)


def _norm_act_conv(block: nn.Module) -> nn.Module | None:
    assert isinstance(block, NormActConv)
    return _transition(block)


def _separable(block: nn.Module) -> nn.Module:
    assert isinstance(block, SeparableConv)
    return nn.Sequential(PackedConv(block.depthwise, nn.Identity()), _conv(block.conv, block.bn, block.act))


def _shared(block: nn.Module) -> nn.Module:
    assert isinstance(block, SharedConvNormAct)
    return PerMap(_conv(block.conv, norm, block.act) for norm in block.norms)


# Blocks that are replaced with all they hold, if they are of the kind that can be, and blocks whose inside goes first.
_WHOLE: dict[type[nn.Module], Callable[[nn.Module], nn.Module | None]] = {
    ConvNormAct: _conv_norm_act,
    DeconvNormAct: _deconv_norm_act,
    DeformConvNormAct: _deform_norm_act,
    DenseBlock: _dense_block,
    NormActConv: _norm_act_conv,
    RepConv: _rep_conv,
    SeparableConv: _separable,
    SharedConvNormAct: _shared,
    nn.Sequential: _sequence,
}
_OUTER: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
    CrossStage: _cross_stage,
    Residual: _residual,
    TwoWayDenseLayer: _two_way,
}
