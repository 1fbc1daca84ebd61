"""Darknet's activations by name (AlexeyAB's fork)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.nn import ACTIVATIONS

_EPS = 1e-4  # Darknet's, in the denominators of the channel normalisations


class _Function(nn.Module):
    """An activation without settings, as a module that prints its name."""

    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name = name
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


def _stair(x: Tensor) -> Tensor:
    whole, half = x.floor(), (x / 2).floor()
    return torch.where(whole % 2 == 0, half, x - whole + half)


def _plse(x: Tensor) -> Tensor:
    inner = x.clamp(-4, 4)
    return 0.125 * inner + 0.5 + 0.01 * (x - inner)


def _lhtan(x: Tensor) -> Tensor:
    inner = x.clamp(0, 1)
    return inner + 0.001 * (x - inner)


def _normalize_channels(x: Tensor) -> Tensor:
    positive = x.relu()
    return positive / (positive.sum(1, keepdim=True) + _EPS)


def _softmax_channels(x: Tensor) -> Tensor:
    weights = x.exp()
    return weights / (weights.sum(1, keepdim=True) + _EPS)


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "hardtan": F.hardtanh,
    "hard_mish": lambda x: x * (x + 2).clamp(0, 2) / 2,
    "loggy": lambda x: 2 * x.sigmoid() - 1,
    "ramp": lambda x: x.relu() + 0.1 * x,
    "relie": lambda x: F.leaky_relu(x, 0.01),
    "plse": _plse,
    "lhtan": _lhtan,
    "stair": _stair,
    "normalize_channels": _normalize_channels,
    "normalize_channels_softmax": _softmax_channels,
    "normalize_channels_softmax_maxval": lambda x: _softmax_channels(x - x.amax(1, keepdim=True)),
}

_SHARED = ("leaky", "relu", "relu6", "swish", "mish", "linear")

NAMES: tuple[str, ...] = (*_SHARED, *_FUNCTIONS)


def darknet_activation(name: str) -> nn.Module:
    """Build an activation. Those shared with :mod:`crossstage.nn` work in place: give them a fresh tensor.

    Args:
        name: One of ``NAMES``.
    """
    return _Function(name, _FUNCTIONS[name]) if name in _FUNCTIONS else ACTIVATIONS[name]()
