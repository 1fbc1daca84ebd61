"""Darknet's layers with weights, as torch modules.

Every map is ``(N, C, H, W)``; vectors are ``(N, C, 1, 1)``. ``file_tensors`` lists what a layer keeps in a ``.weights``
file, in file order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.darknet.operations import Blur, partial_add
from crossstage.nn import BN_EPS
from crossstage.nn.conv import FrozenBatchNorm


def conv_file_tensors(conv: nn.Conv2d, bn: nn.BatchNorm2d | FrozenBatchNorm | None) -> list[Tensor]:
    """Return what a convolution keeps in a ``.weights`` file, in order: biases, batch norm, weights.

    Args:
        conv: The convolution; without a norm it has a bias.
        bn: The batch norm behind it, frozen or not; None if there is none.
    """
    if bn is not None:
        assert bn.running_mean is not None and bn.running_var is not None
        return [bn.bias, bn.weight, bn.running_mean, bn.running_var, conv.weight]
    assert conv.bias is not None
    return [conv.bias, conv.weight]


class StoredLayer(nn.Module, ABC):
    """A layer that keeps tensors in a ``.weights`` file."""

    @abstractmethod
    def file_tensors(self) -> list[Tensor]:
        """Return the tensors that the file keeps of the layer, in file order."""


class StoredConvolution(StoredLayer):
    """``act(bn(conv(x)))``, with a bias in place of batch norm where the cfg has none.

    ``conv`` and ``bn`` come from outside because ``share_index`` makes two layers use the same ones; the stride and
    padding are the layer's own.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        bn: nn.BatchNorm2d | None,
        act: nn.Module,
        *,
        stride: tuple[int, int],
        padding: int,
        dilation: int,
        blur: Blur | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.conv, self.bn, self.act, self.blur = conv, bn, act, blur
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        x = F.conv2d(x, conv.weight, conv.bias, self.stride, self.padding, self.dilation, conv.groups)
        if self.bn is not None:
            x = self.bn(x)
        x = self.act(x)
        return x if self.blur is None else self.blur(x)

    def file_tensors(self) -> list[Tensor]:
        return [] if self.shared else conv_file_tensors(self.conv, self.bn)


class Connected(StoredLayer):
    """A linear layer on the flattened map, with batch norm or a bias."""

    def __init__(self, inputs: int, outputs: int, act: nn.Module, *, normalize: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=not normalize)
        self.bn = nn.BatchNorm1d(outputs, eps=BN_EPS) if normalize else None
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x.flatten(1))
        if self.bn is not None:
            x = self.bn(x)
        return self.act(x[..., None, None])

    def file_tensors(self) -> list[Tensor]:
        if self.bn is None:
            return [self.linear.bias, self.linear.weight]
        assert self.bn.running_mean is not None and self.bn.running_var is not None
        return [self.bn.bias, self.linear.weight, self.bn.weight, self.bn.running_mean, self.bn.running_var]


class Local(StoredLayer):
    """A convolution whose weights differ from place to place (YOLOv1)."""

    def __init__(
        self, channels: int, filters: int, size: int, stride: int, padding: int, out: tuple[int, int], act: nn.Module
    ) -> None:
        super().__init__()
        places = out[0] * out[1]
        self.weight = nn.Parameter(torch.empty(places, filters, channels * size * size))
        self.bias = nn.Parameter(torch.empty(filters, *out))
        self.size, self.stride, self.padding, self.act = size, stride, padding, act
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=(2 / self.weight.shape[2]) ** 0.5)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        columns = F.unfold(x, self.size, padding=self.padding, stride=self.stride)  # (N, C * size^2, places)
        out = torch.einsum("pfk,nkp->nfp", self.weight, columns)
        return self.act(out.unflatten(2, self.bias.shape[1:]) + self.bias)

    def file_tensors(self) -> list[Tensor]:
        return [self.bias, self.weight]


class BatchNorm(StoredLayer):
    """Batch normalisation as a layer of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(x)

    def file_tensors(self) -> list[Tensor]:
        assert self.bn.running_mean is not None and self.bn.running_var is not None
        return [self.bn.bias, self.bn.weight, self.bn.running_mean, self.bn.running_var]


class WeightedShortcut(StoredLayer):
    """A shortcut whose addends are scaled by learned weights, one each or one for each channel of each (BiFPN's idea).

    Args:
        count: Number of addends, the layer before included.
        channels: Number of channels of a weight: 1 (``per_feature``) or the layer's (``per_channel``).
        normalization: ``none``, ``relu`` or ``softmax`` across the addends.
        act: Activation of the sum.
    """

    def __init__(self, count: int, channels: int, normalization: str, act: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, channels))
        self.normalization = normalization
        self.act = act
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        weights = self.weight
        if self.normalization == "relu":
            weights = weights.relu()
        elif self.normalization == "softmax":
            weights = (weights - weights.amax(0)).exp()
        if self.normalization != "none":
            weights = weights / (weights.sum(0) + 1e-4)
        total = x * weights[0].view(1, -1, 1, 1)
        for weight, other in zip(weights[1:], others, strict=True):
            channels = min(x.shape[1], other.shape[1])
            scale = weight.view(1, -1, 1, 1)[:, :channels]
            total = partial_add(total, other[:, :channels] * scale)
        return self.act(total)

    def file_tensors(self) -> list[Tensor]:
        return [self.weight]


class Implicit(StoredLayer):
    """A learned constant map (YOLOR, arXiv 2105.04206)."""

    def __init__(self, channels: int, height: int, mean: float, spread: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, height, 1))
        self.mean, self.spread = mean, spread
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.weight, self.mean - self.spread, self.mean + self.spread)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.expand(x.shape[0], -1, -1, -1)

    def file_tensors(self) -> list[Tensor]:
        return [self.weight]
