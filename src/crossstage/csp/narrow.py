"""Layers with fewer channels, whose weights are cut from those of the wider layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossstage.csp.parts import Kept

NormLayer = nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm
KeptChannels = int | Sequence[tuple[int, int]]
"""The number of channels that stay, the last ones; or for concatenated ones, pairs (how many stay, of how many)."""

TENSORS = ("weight", "bias", "running_mean", "running_var")


def narrow(layer: nn.Module, outputs: KeptChannels | None = None, inputs: KeptChannels | None = None) -> None:
    """Leave a layer fewer channels, in place.

    The last channels stay, as they do where a stage's input is sliced and its first channels are carried past.
    A convolution in groups keeps the width of a group and has fewer of them.

    Args:
        layer: A convolution, linear layer or norm.
        outputs: Channels of the output that stay, and of the input too if it is a norm or works in groups; None for
            all.
        inputs: Channels of the input that stay; None for all.
    """
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        before = layer.weight.shape[0]
        _cut(layer, "weight", outputs, inputs)
        _cut(layer, "bias", outputs)
        width, width_in = layer.weight.shape[:2]
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = width, width_in
        else:
            layer.groups = layer.groups * width // before if layer.groups > 1 else 1
            layer.out_channels, layer.in_channels = width, width_in * layer.groups
        return
    assert isinstance(layer, NormLayer) and outputs is not None
    before = _width(layer)
    for name in TENSORS:
        _cut(layer, name, outputs)
    after = outputs if isinstance(outputs, int) else sum(stay for stay, _ in outputs)
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (after,)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_groups = layer.num_groups * after // before if layer.num_groups > 1 else 1
        layer.num_channels = after
    else:
        layer.num_features = after


def narrow_tensor(module: nn.Module, name: str, *channels: KeptChannels | None) -> None:
    """Leave a parameter or buffer that a module holds itself fewer channels, in place.

    Args:
        module: The module that holds the tensor.
        name: Name of the tensor in it.
        channels: The channels that stay along each dimension; None for all, as along dimensions that are not named.
    """
    _cut(module, name, *channels)


def _width(norm: NormLayer) -> int:
    if isinstance(norm, nn.LayerNorm):
        return norm.normalized_shape[0]
    return norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features


def _cut(module: nn.Module, name: str, *channels: KeptChannels | None) -> None:
    tensor = getattr(module, name, None)
    if tensor is None:
        return
    value = tensor.detach()
    for dim, stay in enumerate(channels):
        if stay is not None:
            value = value.index_select(dim, _last(stay, value.shape[dim]).to(value.device))
    if isinstance(tensor, nn.Parameter):
        value = nn.Parameter(value.clone(), requires_grad=tensor.requires_grad)
    setattr(module, name, value)


def _last(stay: KeptChannels, size: int) -> Tensor:
    """Return the indices of the channels that stay."""
    pieces: list[Tensor] = []
    offset = 0
    for kept, of in [(stay, size)] if isinstance(stay, int) else stay:
        offset += of
        pieces.append(torch.arange(offset - kept, offset))
    return torch.cat(pieces)


def width_of(kept: Kept) -> int:
    """Return the number of channels that stay."""
    return sum(stay for stay, _ in kept)
