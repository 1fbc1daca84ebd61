"""Partial Residual Networks (Wang et al., ICCV workshops 2019): YOLOv3-tiny's neck with shortcuts for concatenations.

A shortcut adds as many channels as both sides have and leaves the others alone, so that the channels of one map have
gradients of different lengths. It costs nothing, and what follows it is half as wide as after a concatenation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crossstage.models.contracts import Neck
from crossstage.models.necks.base import NeckConfig, PyramidConfig, TinyEntry, check_strides, check_widths, upsample
from crossstage.nn import ConvNormAct, ConvStyle, PartialShortcut


@dataclass(frozen=True, kw_only=True)
class PRNConfig(PyramidConfig):
    """A PRN.

    Attributes:
        neck_channels: Channels of the outputs, shallow to deep.
        entry: Whether YOLOv3-tiny's last trunk convolution comes first, with a shortcut, see :class:`TinyEntry`.
    """

    reads: tuple[int, ...] = (16, 32)
    neck_channels: tuple[int, ...] = (128, 256)
    entry: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths(type(self).__name__, self.neck_channels, len(self.reads))

    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """See :meth:`NeckConfig.build`."""
        return PRN(channels, strides, self, style=style)


class PRN(nn.Module):
    r"""Top-down by shortcuts. With maps :math:`C_1 \dots C_L`, outputs :math:`O_1 \dots O_L`, activation :math:`a`:

    .. math::
        N &= reduce_L(C_L), \quad S_L = smooth_L(N), \quad O_L = a(S_L + N)                     \\
        U_i &= up(reduce_i(S_{i+1})), \quad S_i = smooth_i(a(U_i + C_i)), \quad
               O_i = a(a(S_i + U_i) + C_i) \quad (i < L)

    where :math:`+ C_i` adds the first channels of :math:`C_i` alone.

    Shape: a list of ``(N, in_channels[i], H_i, W_i)`` to a list of ``(N, neck_channels[i], H_i, W_i)``.

    Args:
        in_channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        config: The row.
        style: Normalisation and activation of every convolution; the activation is that of the sums, too.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], config: PRNConfig, *, style: ConvStyle
    ) -> None:
        super().__init__()
        check_strides(strides)
        widths = config.neck_channels
        check_widths("PRN", widths, len(in_channels))
        self.channels, self.strides = list(widths), list(strides)
        deep = in_channels[-1]
        self.entry = TinyEntry(deep, deep, shortcut=True, style=style) if config.entry else None
        self.reduce = nn.ModuleList(
            ConvNormAct(above, width, style=style) for above, width in zip([*widths[1:], deep], widths, strict=True)
        )
        self.smooth = nn.ModuleList(ConvNormAct(width, width, 3, style=style) for width in widths)
        self.skip = nn.ModuleList(
            PartialShortcut(theirs, width, 1) for theirs, width in zip(in_channels[:-1], widths[:-1], strict=True)
        )
        self.act = style.activate()

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse the maps, deep to shallow."""
        narrow = self.reduce[-1](features[-1] if self.entry is None else self.entry(features[-1]))
        smooth = self.smooth[-1](narrow)
        outputs = [self.act(smooth + narrow)]
        for index in range(len(features) - 2, -1, -1):
            up = upsample(self.reduce[index](smooth))
            skip = self.skip[index](features[index])
            smooth = self.smooth[index](self.act(up + skip))
            outputs.insert(0, self.act(self.act(smooth + up) + skip))
        return outputs


NECKS: dict[str, NeckConfig] = {
    "prn": PRNConfig(),
    "prn3l": PRNConfig(reads=(8, 16, 32), neck_channels=(128, 128, 256)),
}
