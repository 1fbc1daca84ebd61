"""Activations by the names that papers and configuration files use."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from crossstage.errors import ConfigError, one_of

LEAKY_SLOPE = 0.1  # Darknet's; torch defaults to 0.01

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky": lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(inplace=True),  # torch's slope, which timm's CSP networks were trained with
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "swish": lambda: nn.SiLU(inplace=True),
    "mish": lambda: nn.Mish(inplace=True),
    "gelu": nn.GELU,
    "hardswish": lambda: nn.Hardswish(inplace=True),
    "linear": nn.Identity,
}


def activation(name: str) -> nn.Module:
    """Build an activation.

    Args:
        name: One of ``ACTIVATIONS``: leaky (slope 0.1), leaky_relu (slope 0.01), relu, relu6, silu or swish,
            mish, gelu, hardswish, linear.

    Raises:
        ConfigError: The name is unknown.
    """
    try:
        return ACTIVATIONS[name]()
    except KeyError:
        raise ConfigError(f"activation {name!r} is unknown; {one_of(name, ACTIVATIONS)}") from None
