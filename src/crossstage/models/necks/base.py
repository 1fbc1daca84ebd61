"""What all necks share, and the joints between two scales. Adding a neck takes one file in this room, no other line.

The file of a neck holds, in this order:

1. A docstring: the paper, and where the neck deliberately differs from it.
2. A frozen, keyword-only dataclass that extends :class:`NeckConfig`, or :class:`PyramidConfig` where each map it reads
   is half as wide and high as the one before. Its fields are plain values or tuples of such and have names that no
   backbone and no head uses: the settings of a detector are one flat mapping. ``reads`` says which maps of the
   backbone the neck wants, by their strides.
3. The module: built from the maps' channels and strides, the row and a :class:`~crossstage.nn.ConvStyle`; its forward
   turns the list of maps into the list that the head reads. Two attributes describe these, shallow to deep:
   ``channels``, and ``strides``, pixels of the input per pixel of a map. A neck may return fewer maps than it reads, or
   coarser ones besides (strides 64 and 128, called P6 and P7). Strides are nominal: where maps do not halve exactly,
   such as those of 38, 19, 10, 5, 3 and 1 cells for 300 pixels, they name the levels, and sizes are read off the maps.
4. :meth:`NeckConfig.build`, which makes the module.
5. ``NECKS``, a dictionary of rows by name. The tables of all files are joined to :data:`crossstage.models.necks.NECKS`,
   so that ``<backbone>_<row>`` is a detector that is built, trained, saved and exported by its name.

A program may add a row of its own while it runs: ``NECKS["mine"] = MyConfig(...)`` before the name is used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.contracts import Neck
from crossstage.nn import ConvNormAct, ConvStyle


@dataclass(frozen=True, kw_only=True)
class NeckConfig(ABC):
    """Settings that every neck has.

    Attributes:
        reads: Strides of the backbone's maps that the neck reads, ascending.
        neck_act: Activation of the neck's convolutions; None takes the backbone's.

    Raises:
        ConfigError: The strides are not ascending positive numbers.
    """

    reads: tuple[int, ...] = (8, 16, 32)
    neck_act: str | None = None

    def __post_init__(self) -> None:
        if not self.reads or self.reads[0] < 1 or any(coarse <= fine for fine, coarse in pairwise(self.reads)):
            raise ConfigError(f"the neck reads strides {list(self.reads)}; expected positive numbers, ascending")

    @abstractmethod
    def build(self, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
        """Build the module.

        Args:
            channels: Channels of the backbone's maps, shallow to deep.
            strides: Strides of the backbone's maps, shallow to deep.
            style: Normalisation and activation of every convolution.

        Raises:
            ConfigError: The row does not fit the maps.
        """

    def styled(self, style: ConvStyle) -> ConvStyle:
        """Return the backbone's style with this neck's activation."""
        return replace(style, act=self.neck_act or style.act)


@dataclass(frozen=True, kw_only=True)
class PyramidConfig(NeckConfig):
    """Settings of a neck that joins maps, each half as wide and high as the one before.

    Raises:
        ConfigError: A stride of ``reads`` is not twice the one before.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_strides(self.reads)


def build_neck(config: NeckConfig, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
    """Turn a row of the table, or a changed copy of one, into a neck.

    Args:
        config: The row.
        channels: Channels of the backbone's maps, shallow to deep.
        strides: Strides of the backbone's maps, shallow to deep.
        style: The backbone's normalisation and activation; a row may have an activation of its own.

    Raises:
        ConfigError: The row does not fit the maps.

    Example:
        >>> neck = build_neck(NECKS["efm"], [128, 256, 512, 640], [4, 8, 16, 32], style=ConvStyle())
        >>> neck.channels, neck.strides
        ([64, 128, 128], [8, 16, 32])
    """
    return config.build(channels, strides, style=config.styled(style))


def check_strides(strides: Sequence[int]) -> None:
    """Refuse maps that do not halve from one to the next, for a neck that upsamples one to the size of another.

    Args:
        strides: Strides of the maps, shallow to deep.

    Raises:
        ConfigError: There is no map, or a stride is not twice the one before.
    """
    if not strides or any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ConfigError(f"the neck got strides {list(strides)}; expected each to be twice the one before")


def check_widths(name: str, widths: Sequence[int], count: int) -> None:
    """Refuse a row whose widths are not one for each map, or not even.

    Args:
        name: The neck's name, for the message.
        widths: The row's widths in channels.
        count: Number of maps.

    Raises:
        ConfigError: The row is refused.
    """
    if len(widths) != count or any(width < 2 or width % 2 for width in widths):
        raise ConfigError(f"neck_channels are {tuple(widths)}; expected {count} even numbers for {name}")


def upsample(x: Tensor) -> Tensor:
    """Repeat each pixel in two rows and columns: ``(N, C, H, W) -> (N, C, 2H, 2W)``."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def squeeze_expand(in_channels: int, narrow: int, wide: int, count: int, style: ConvStyle) -> nn.Sequential:
    """Build ``count`` convolutions in a row, in turn 1x1 to ``narrow`` and 3x3 to ``wide`` channels (YOLOv3)."""
    layers = nn.Sequential()
    for index in range(count):
        out, kernel = (wide, 3) if index % 2 else (narrow, 1)
        layers.append(ConvNormAct(in_channels, out, kernel, style=style))
        in_channels = out
    return layers


class TinyEntry(nn.Module):
    """The end of YOLOv3-tiny's trunk: 2x2 max pooling in steps of 1, and a 3x3 convolution.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        shortcut: Add the input to the output and activate (YOLOv3-tiny-PRN); the channels must agree.
        style: Normalisation and activation.

    Raises:
        ConfigError: A shortcut between different channels.
    """

    def __init__(self, in_channels: int, out_channels: int, *, shortcut: bool, style: ConvStyle) -> None:
        super().__init__()
        if shortcut and in_channels != out_channels:
            raise ConfigError(f"entry is {out_channels}; expected the {in_channels} channels of the deepest map")
        self.conv = ConvNormAct(in_channels, out_channels, 3, style=style)
        self.act = style.activate() if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """Pool and convolve. The border is repeated, which no maximum notices."""
        y = self.conv(F.max_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, 1))
        return y if self.act is None else self.act(y + x)
