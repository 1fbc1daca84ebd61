"""How many channels a network reads."""

from __future__ import annotations

from torch import nn


def input_channels(module: nn.Module) -> int | None:
    """Return the channels of a network's input; None if nothing in it tells.

    A module's attribute ``in_chans`` says so, as those of our backbones and of timm's networks do; else they are what
    the first convolution reads, which is not true of a stem that folds pixels into channels before it.
    """
    for part in module.modules():
        named = getattr(part, "in_chans", None)
        if isinstance(named, int):
            return named
        if isinstance(part, nn.Conv2d):
            return part.in_channels
    return None
