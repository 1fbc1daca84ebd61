"""How weights are drawn before training, as in the sources."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from crossstage.nn.residual import Residual

Init = Literal["darknet", "fan_in", "fan_out"]


def initialise(module: nn.Module, scheme: Init, *, zero_last: bool = False) -> None:
    """Draw the weights of all convolutions, norms and linear layers.

    Args:
        module: What to initialise, in place.
        scheme: For convolutions: ``"darknet"``, uniform in ±sqrt(2 / fan in) (Darknet's ``make_convolutional_layer``);
            ``"fan_in"``, normal with variance 2 / fan in (DenseNet, VoVNet); ``"fan_out"``, normal with variance 2 /
            fan out (ResNet, MobileNetV2, PeleeNet, timm). Fans count the kernel, fan in a group's channels alone, fan
            out those of all groups.
        zero_last: Start each residual block's last norm at zero, so that it begins as its shortcut (timm's choice for
            CSP and Darknet networks).
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return  # nothing to draw, and torch is slow at it
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            if scheme == "darknet":
                bound = math.sqrt(2 / fan_in)
                nn.init.uniform_(layer.weight, -bound, bound)
            else:
                nn.init.normal_(layer.weight, 0, math.sqrt(2 / (fan_in if scheme == "fan_in" else fan_out)))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    if zero_last:
        for block in module.modules():
            if isinstance(block, Residual):
                last = [layer for layer in block.body.modules() if isinstance(layer, (nn.BatchNorm2d, nn.GroupNorm))]
                nn.init.zeros_(last[-1].weight)
