"""How weights are drawn before training, as in the sources."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from crossstage.nn.residual import Residual

Init = Literal["darknet", "fan_in", "fan_out", "torch"]
_LEARNED_NORMS = (nn.BatchNorm2d, nn.GroupNorm)


def initialise(module: nn.Module, scheme: Init, *, zero_last: bool = False) -> None:
    """Draw the weights of all convolutions, and set scales of norms to one and shifts and biases to zero.

    Args:
        module: The network to initialise, in place. A network on the meta device is left as it is.
        scheme: The distribution of a convolution's weights. ``"darknet"``: uniform in ±sqrt(2 / fan in) (Darknet's
            ``make_convolutional_layer``). ``"fan_in"``: normal with variance 2 / fan in (DenseNet, VoVNet).
            ``"fan_out"``: normal with variance 2 / fan out (ResNet, MobileNetV2, PeleeNet, timm). ``"torch"``: uniform
            in ±1 / sqrt(fan in), which is what torch's layers begin with (YOLOX, RTMDet, YOLOv9). Fans count the
            kernel, fan in a group's channels alone, fan out those of all groups.
        zero_last: Start each residual block as its shortcut (timm's choice for CSP and Darknet networks): the scale of
            its last norm is zero, or, where no norm is learned, the weights of its last convolution.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return  # nothing to draw, and torch is slow at it
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            _draw(layer, scheme)
        elif isinstance(layer, _LEARNED_NORMS):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    if zero_last:
        for block in module.modules():
            if isinstance(block, Residual):
                nn.init.zeros_(_last(block.body).weight)


def xavier_(module: nn.Module) -> None:
    """Draw a module's convolutions uniformly by Glorot's rule, as SSD does (arXiv 1512.02325); biases are zero."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _draw(layer: nn.Conv2d, scheme: Init) -> None:
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    if scheme in ("darknet", "torch"):
        bound = math.sqrt((2 if scheme == "darknet" else 1) / fan_in)
        nn.init.uniform_(layer.weight, -bound, bound)
    else:
        nn.init.normal_(layer.weight, 0, math.sqrt(2 / (fan_in if scheme == "fan_in" else fan_out)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _last(body: nn.Module) -> nn.BatchNorm2d | nn.GroupNorm | nn.Conv2d:
    """Return the layer whose zero makes a body's output zero; a frozen norm could never leave zero again."""
    layers = list(body.modules())
    norms = [layer for layer in layers if isinstance(layer, _LEARNED_NORMS)]
    return norms[-1] if norms else [layer for layer in layers if isinstance(layer, nn.Conv2d)][-1]
