"""Activations against their formulas."""

import pytest
import torch

from crossstage.errors import ConfigError
from crossstage.nn import activation

X = torch.linspace(-8, 8, 101)
FORMULAS = {
    "leaky": torch.where(X > 0, X, 0.1 * X),
    "relu": X.clamp(min=0),
    "relu6": X.clamp(0, 6),
    "silu": X / (1 + (-X).exp()),
    "swish": X / (1 + (-X).exp()),
    "mish": X * torch.tanh(torch.log1p(X.exp())),
    "gelu": X * (1 + torch.erf(X / 2**0.5)) / 2,
    "hardswish": X * (X + 3).clamp(0, 6) / 6,
    "linear": X,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_activation_equals_its_formula(name):
    torch.testing.assert_close(activation(name)(X.clone()), FORMULAS[name])


def test_unknown_activation_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"'relu7'.*leaky, leaky_relu, relu"):
        activation("relu7")
