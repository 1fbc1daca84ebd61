"""One-shot aggregation: run convolutions in a row and concatenate their outputs once, at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from crossstage.nn.attention import EffectiveSqueezeExcite
from crossstage.nn.conv import ConvNormAct, ConvStyle


class ConvPair(nn.Module):
    """YOLOv4-tiny's block: two 3x3 convolutions in a row, both outputs kept, the later one first.

    The smallest one-shot aggregation without the input (VoVNet, arXiv 1904.09730, also keeps the input).

    Shape: ``(N, channels, H, W) -> (N, 2 * channels, H, W)``.
    """

    def __init__(self, channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, channels, 3, style=style)
        self.second = ConvNormAct(channels, channels, 3, style=style)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate ``[second(first(x)), first(x)]``."""
        first = self.first(x)
        return torch.cat([self.second(first), first], dim=1)


class SeparableConv(nn.Module):
    """Depthwise 3x3, then 1x1, with one normalisation and activation at the end (VoVNetV2's "dw" networks).

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, style: ConvStyle) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=style.bias)
        self.bn = style.normalise(out_channels)
        self.act = style.activate()

    def forward(self, x: Tensor) -> Tensor:
        """Filter each channel, then mix them."""
        return self.act(self.bn(self.conv(self.depthwise(x))))


class OneShotAggregation(nn.Module):
    r"""VoVNet's module (arXiv 1904.09730, section 3; V2: arXiv 1911.06667, figure 2).

    With :math:`y_0 = x` and 3x3 convolutions :math:`y_i = w_i * y_{i-1}`, the output is
    :math:`attend(w * [y_0, y_1, \dots, y_n])`, plus :math:`x` if ``identity``.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.

    Args:
        in_channels: Channels of the input.
        width: Channels of each 3x3 convolution.
        out_channels: Channels after the 1x1 convolution of the concatenation.
        layers: Number of 3x3 convolutions.
        style: Normalisation and activation.
        depthwise: Whether convolutions are separable; a 1x1 convolution first brings the input to ``width`` if it
            differs, while the concatenation keeps the input as it is.
        attend: Whether the output is gated by eSE.
        identity: Whether the input is added; needs ``in_channels == out_channels``.
        drop_path: Probability that an image's module is left out in training, where there is an identity.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        layers: int,
        *,
        style: ConvStyle,
        depthwise: bool = False,
        attend: bool = False,
        identity: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        reduce = depthwise and in_channels != width
        self.reduce = ConvNormAct(in_channels, width, style=style) if reduce else nn.Identity()
        first = width if reduce else in_channels
        self.layers = nn.ModuleList(
            SeparableConv(width, width, style=style)
            if depthwise
            else ConvNormAct(first if index == 0 else width, width, 3, style=style)
            for index in range(layers)
        )
        self.aggregate = ConvNormAct(in_channels + layers * width, out_channels, style=style)
        self.attention = EffectiveSqueezeExcite(out_channels) if attend else nn.Identity()
        self.identity = identity
        self.drop_path = StochasticDepth(drop_path, mode="row") if identity and drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Aggregate the outputs of all layers at once."""
        outputs = [x]
        y = self.reduce(x)
        for layer in self.layers:
            y = layer(y)
            outputs.append(y)
        y = self.attention(self.aggregate(torch.cat(outputs, dim=1)))
        return x + self.drop_path(y) if self.identity else y
