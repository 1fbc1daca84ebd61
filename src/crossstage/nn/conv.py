"""The convolution that every network here is made of, and what all convolutions of a network have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from crossstage.errors import ConfigError
from crossstage.nn.activation import activation

BN_EPS = 1e-5  # Darknet's and PyTorch's; OpenCV's Darknet importer uses 1e-6
GROUP_NORM_GROUPS = 32  # Wu and He, arXiv 1803.08494

Norm = Literal["batch", "group", "frozen", "none"]


class FrozenBatchNorm(FrozenBatchNorm2d):
    """Batch normalisation whose statistics, scale and shift are buffers, so that training changes none of them.

    It computes what :class:`torchvision.ops.FrozenBatchNorm2d` does, and takes the state of a batch norm; being one
    operation instead of five, it is counted, traced and exported as a batch norm.

    Shape: ``(N, num_features, H, W)`` to the same.
    """

    eps: float
    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the stored statistics."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


@dataclass(frozen=True)
class ConvStyle:
    """What the convolutions of a network have in common.

    Attributes:
        act: Name of the activation, see :func:`crossstage.nn.activation`.
        norm: What normalises a convolution's output. ``"batch"``: batch norm. ``"group"``: group norm, for batches too
            small for statistics, with 32 groups or the most below that divide the channels. ``"frozen"``: batch norm
            that keeps the statistics, scales and shifts it was given, as detectors do with pretrained backbones.
            ``"none"``: nothing; convolutions then have a bias.
        momentum: Share of the newest batch in batch norm's running statistics, in [0, 1]: torch's default is 0.1,
            Darknet's 0.01.
        eps: What norms add to a variance before its root is taken: 1e-5 in torch and Darknet, 1e-3 in TensorFlow,
            YOLOX and YOLOv9.

    Raises:
        ConfigError: ``norm`` is unknown.
    """

    act: str = "leaky"
    norm: Norm = "batch"
    momentum: float = 0.1
    eps: float = BN_EPS

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ConfigError(f"norm is {self.norm!r}; expected {', '.join(get_args(Norm)[:-1])} or none")

    @property
    def linear(self) -> ConvStyle:
        """The same style without activation."""
        return replace(self, act="linear")

    @property
    def bias(self) -> bool:
        """Whether convolutions have a bias, which a normalisation behind them would cancel or bring itself."""
        return self.norm == "none"

    def normalise(self, channels: int) -> nn.Module:
        """Build a normalisation layer for a map of so many channels."""
        if self.norm == "none":
            return nn.Identity()
        if self.norm == "batch":
            return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)
        if self.norm == "frozen":
            return FrozenBatchNorm(channels, eps=self.eps)
        groups = next(n for n in range(min(GROUP_NORM_GROUPS, channels), 0, -1) if channels % n == 0)
        return nn.GroupNorm(groups, channels, eps=self.eps)

    def activate(self) -> nn.Module:
        """Build an activation layer."""
        return activation(self.act)


class SamePad(nn.Module):
    """TensorFlow's "same" padding before a convolution in steps: where it is odd, more below and to the right.

    Shape: ``(N, C, H, W)`` to what a convolution without padding turns into ``(N, D, ceil(H / 2), ceil(W / 2))``.

    Args:
        kernel_size: Side of the convolution's kernel, odd. Its step is 2.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """Pad with zeros; an odd side gets one more before than an even one."""
        after = self.kernel_size // 2
        top, left = (after - 1 + side % 2 for side in x.shape[2:])
        return F.pad(x, (left, after, top, after))

    def extra_repr(self) -> str:
        """Return the settings that ``repr`` shows."""
        return f"{self.kernel_size}"


class ConvNormAct(nn.Module):
    """Convolution, normalisation, activation: ``act(bn(conv(x)))``; the convolution has a bias only without a norm.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))`` for odd kernels, which
    are padded by ``dilation * (kernel_size // 2)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the square kernel.
        stride: Step in pixels.
        groups: Blocks of channels that are convolved apart; divides both channel counts.
        dilation: Distance in pixels between the pixels that a kernel reads.
        same: Whether a convolution in steps of 2 is padded as TensorFlow does it, see :class:`SamePad`.
        style: Normalisation and activation.

    Raises:
        ConfigError: ``groups`` does not divide the channels, or the style's activation is unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        same: bool = False,
        style: ConvStyle,
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ConfigError(
                f"{groups} groups do not divide a convolution from {in_channels} to {out_channels} channels"
            )
        self.pad = SamePad(kernel_size) if same and stride == 2 else None
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            0 if self.pad else dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=style.bias,
        )
        self.bn = style.normalise(out_channels)
        self.act = style.activate()
        self.linear = style.act == "linear"

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution, normalisation and activation."""
        if self.pad is not None:
            x = self.pad(x)
        x = self.bn(self.conv(x))
        return x if self.linear else self.act(x)  # calling an identity would cost a percent in small networks


def spatial_conv(
    in_channels: int, out_channels: int, stride: int = 1, *, depthwise: bool, style: ConvStyle
) -> nn.Module:
    """Build a 3x3 convolution, or a depthwise 3x3 and a 1x1 convolution that are both activated (YOLOX-Nano)."""
    if not depthwise:
        return ConvNormAct(in_channels, out_channels, 3, stride, style=style)
    return nn.Sequential(
        ConvNormAct(in_channels, in_channels, 3, stride, groups=in_channels, style=style),
        ConvNormAct(in_channels, out_channels, style=style),
    )


class NormActConv(nn.Module):
    """Normalisation, activation, 1x1 convolution: the pre-activated order of DenseNet's transitions.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.bn = style.normalise(in_channels)
        self.act = style.activate()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=style.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply normalisation, activation and convolution."""
        return self.conv(self.act(self.bn(x)))
