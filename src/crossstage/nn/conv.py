"""The convolution that every network here is made of, and what all convolutions of a network have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn.activation import activation

BN_EPS = 1e-5  # Darknet's and PyTorch's; OpenCV's Darknet importer uses 1e-6
GROUP_NORM_GROUPS = 32  # Wu and He, arXiv 1803.08494

Norm = Literal["batch", "group"]


@dataclass(frozen=True)
class ConvStyle:
    """What the convolutions of a network have in common.

    Attributes:
        act: Name of the activation, see :func:`crossstage.nn.activation`.
        norm: ``"batch"``, or ``"group"`` for batches too small for statistics: 32 groups, or the most below that
            divide the channels.
        momentum: Share of the newest batch in batch norm's running statistics: torch's default of 0.1, 0.01 in Darknet.

    Raises:
        ConfigError: ``norm`` is unknown.
    """

    act: str = "leaky"
    norm: Norm = "batch"
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if self.norm not in ("batch", "group"):
            raise ConfigError(f"norm is {self.norm!r}; expected batch or group")

    @property
    def linear(self) -> ConvStyle:
        """The same without activation."""
        return replace(self, act="linear")

    def normalise(self, channels: int) -> nn.Module:
        """Build a normalisation layer."""
        if self.norm == "batch":
            return nn.BatchNorm2d(channels, eps=BN_EPS, momentum=self.momentum)
        groups = next(n for n in range(min(GROUP_NORM_GROUPS, channels), 0, -1) if channels % n == 0)
        return nn.GroupNorm(groups, channels, eps=BN_EPS)

    def activate(self) -> nn.Module:
        """Build an activation."""
        return activation(self.act)


class ConvNormAct(nn.Module):
    """Convolution without bias, normalisation, activation: ``act(bn(conv(x)))``.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))`` for odd kernels, which
    are padded by ``kernel_size // 2``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the square kernel.
        stride: Step in pixels.
        groups: Blocks of channels that are convolved apart; divides both channel counts.
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
        style: ConvStyle,
    ) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ConfigError(
                f"{groups} groups do not divide a convolution from {in_channels} to {out_channels} channels"
            )
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        self.bn = style.normalise(out_channels)
        self.act = style.activate()
        self.linear = style.act == "linear"

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution, normalisation and activation."""
        x = self.bn(self.conv(x))
        return x if self.linear else self.act(x)  # calling an identity would cost a percent in small networks


class NormActConv(nn.Module):
    """Normalisation, activation, 1x1 convolution: the pre-activated order of DenseNet's transitions.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.bn = style.normalise(in_channels)
        self.act = style.activate()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply normalisation, activation and convolution."""
        return self.conv(self.act(self.bn(x)))
