r"""The cross stage partial stage (CSPNet, arXiv 1911.11929, section 3).

A stage receives :math:`x_0` and cuts it by channels into :math:`x_0 = [x_0', x_0'']`. The first part is *carried*
across the stage, the second is *processed* by the stage's blocks :math:`F`; two *transitions* :math:`T` and
:math:`U` join them again:

.. math::
    x_T &= T(F(x_0''))              \\
    x_U &= U([x_T, x_0'])

For a dense stage, :math:`F` yields :math:`[x_0'', x_1, \dots, x_k]` with :math:`x_k = w_k * [x_0'', x_1, \dots,
x_{k-1}]`, so that :math:`x_T = w_T * [x_0'', x_1, \dots, x_k]` and :math:`x_U = w_U * [x_0', x_T]`. The gradient that
reaches the weights of one branch never mixes with the other's: each transition cuts it off.

Where the fusion happens (paper, figure 3) decides which transitions exist:

=========  ==============  ==============
fusion     T               U
=========  ==============  ==============
``first``  identity        convolution
``last``   convolution     identity
``both``   convolution     convolution
``none``   identity        identity
=========  ==============  ==============
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn.conv import ConvNormAct, ConvStyle

Fusion = Literal["none", "first", "last", "both"]
SplitKind = Literal["slice", "project"]


@dataclass(frozen=True)
class Partial:
    """What makes a stage partial.

    Attributes:
        gamma: Share of the channels that is carried past the blocks, in (0, 1). Larger is cheaper. This is the paper's
            γ; the suffix "-gamma" of released files names a training recipe and has nothing to do with it.
        fusion: The transitions that exist, see the table above.
        split: ``"slice"`` cuts the channels (the paper's drawing, YOLOv4-tiny); ``"project"`` reads the whole input
            with one 1x1 convolution for each part (every classifier that the authors released).

    Raises:
        ConfigError: A value is out of range or unknown.
    """

    gamma: float = 0.5
    fusion: Fusion = "both"
    split: SplitKind = "project"

    def __post_init__(self) -> None:
        if not 0 < self.gamma < 1:
            raise ConfigError(f"Partial.gamma is {self.gamma}; expected a share of channels between 0 and 1, exclusive")
        if self.fusion not in ("none", "first", "last", "both"):
            raise ConfigError(f"Partial.fusion is {self.fusion!r}; expected none, first, last or both")
        if self.split not in ("slice", "project"):
            raise ConfigError(f"Partial.split is {self.split!r}; expected slice or project")

    @property
    def has_transition(self) -> bool:
        """Whether T, which acts on the processed part alone, is a convolution."""
        return self.fusion in ("last", "both")

    @property
    def has_merge(self) -> bool:
        """Whether U, which acts on the concatenation, is a convolution."""
        return self.fusion in ("first", "both")

    def transition_width(self, carried: int, processed: int, out: int) -> int:
        """Return the number of channels after T: that of the blocks, unless T alone must lead to the stage's output.

        Args:
            carried: Number of channels of the carried part.
            processed: Number of channels that the blocks yield.
            out: Number of channels of the stage's output.

        Raises:
            ConfigError: The carried part alone is as wide as the output.
        """
        if self.fusion != "last":
            return processed
        if carried >= out:
            raise ConfigError(
                f"Partial.gamma = {self.gamma} carries {carried} channels into a stage that is {out} wide, and fusion "
                "'last' has no U to narrow them; expected a smaller gamma or fusion 'both'"
            )
        return out - carried

    def widths(self, channels: int) -> tuple[int, int]:
        """Return the numbers of channels ``(carried, processed)`` of a stage ``channels`` wide.

        Raises:
            ConfigError: γ does not cut ``channels`` into whole, non-empty parts.
        """
        carried = round(self.gamma * channels)
        if abs(self.gamma * channels - carried) > 1e-6 or not 0 < carried < channels:
            raise ConfigError(
                f"Partial.gamma = {self.gamma} carries {self.gamma * channels:g} of {channels} channels; "
                "expected a whole number of them, with at least one on either side"
            )
        return carried, channels - carried


class Channels(nn.Module):
    """Cut channels ``start`` to ``stop``: ``(N, C, H, W) -> (N, stop - start, H, W)``, without copying."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start = start
        self.stop = stop

    def forward(self, x: Tensor) -> Tensor:
        """Return the chosen channels."""
        return x[:, self.start : self.stop]

    def extra_repr(self) -> str:
        """Return the settings that ``repr`` shows."""
        return f"{self.start}, {self.stop}"


class Copy(nn.Module):
    """Give a copy of a map, where what reads it writes into it and the layer before needs it for its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the copy."""
        return x.clone()


class Split(nn.Module):
    """How the two parts are taken from a stage's input, each by a layer of its own.

    Shape: ``(N, C, H, W) -> (N, carried, H, W), (N, processed, H, W)``; the widths need not add up to ``C``, and with
    strided layers both parts are smaller than the input.

    Args:
        carried: The layer that makes x0', which bypasses the blocks.
        processed: The layer that makes x0'', which the blocks process.
    """

    def __init__(self, carried: nn.Module, processed: nn.Module) -> None:
        super().__init__()
        self.carried = carried
        self.processed = processed

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(carried, processed)``."""
        return self.carried(x), self.processed(x)


def slice_split(channels: int, carried: int) -> Split:
    """Cut the channels: the first ``carried`` of ``channels`` bypass the stage, the rest are processed."""
    return Split(Channels(0, carried), Channels(carried, channels))


def project_split(channels: int, carried: int, processed: int, *, style: ConvStyle) -> Split:
    """Read all ``channels`` with one 1x1 convolution for each part."""
    return Split(ConvNormAct(channels, carried, style=style), ConvNormAct(channels, processed, style=style))


def transition(exists: bool, in_channels: int, out_channels: int, *, style: ConvStyle) -> nn.Module:
    """Build T or U: a 1x1 convolution, or the identity if the fusion does without it."""
    return ConvNormAct(in_channels, out_channels, style=style) if exists else nn.Identity()


class CrossStage(nn.Module):
    """Split, process one part, merge: ``U([T(F(x0'')), x0'])``.

    Args:
        split: The layer ``x -> (x0', x0'')``, see :func:`slice_split` and :func:`project_split`.
        blocks: The stage's blocks F, whatever they are.
        transition: The layer T on the processed part alone; ``nn.Identity()`` when ``fusion`` is first or none.
        merge: The layer U on the concatenation; ``nn.Identity()`` when ``fusion`` is last or none, or when U opens the
            next stage: CSPPeleeNet saves most by running U on the pooled map.
        carried_first: Whether the concatenation is ``[x0', x_T]``, as in YOLOv4-tiny, instead of ``[x_T, x0']``.
    """

    def __init__(
        self,
        split: nn.Module,
        blocks: nn.Module,
        transition: nn.Module,
        merge: nn.Module,
        *,
        carried_first: bool = False,
    ) -> None:
        super().__init__()
        self.split = split
        self.blocks = blocks
        self.transition = transition
        self.merge = merge
        self.carried_first = carried_first

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stage's output."""
        carried, processed = self.split(x)
        processed = self.transition(self.blocks(processed))
        parts = (carried, processed) if self.carried_first else (processed, carried)
        return self.merge(torch.cat(parts, dim=1))
