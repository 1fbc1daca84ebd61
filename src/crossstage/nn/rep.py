"""What a network has in training alone: branches that fold into one convolution, and modules that are left out.

:func:`crossstage.nn.fuse` does either.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from crossstage.nn.conv import ConvNormAct, ConvStyle, FrozenBatchNorm

_Network = TypeVar("_Network", bound=nn.Module)


class TrainingOnly(nn.Module):
    """A module that serves training alone: what is fused or exported has None in its place."""


def inference_copy(model: _Network) -> _Network:
    """Return a copy of a model in evaluation mode without the modules that serve training alone."""
    own = copy.deepcopy(model).eval()
    for module in list(own.modules()):
        for name, child in module.named_children():
            if isinstance(child, TrainingOnly):
                setattr(module, name, None)
    return own


class RepConv(nn.Module):
    """A 3x3 and a 1x1 convolution, each normalised, whose sum is activated (RepVGG, arXiv 2101.03697).

    YOLOv9's has no third branch that normalises the input itself. Once trained, both are one 3x3 convolution.

    Shape: ``(N, in_channels, H, W) -> (N, out_channels, H, W)``.
    """

    def __init__(self, in_channels: int, out_channels: int, *, style: ConvStyle) -> None:
        super().__init__()
        self.spatial = ConvNormAct(in_channels, out_channels, 3, style=style.linear)
        self.pointwise = ConvNormAct(in_channels, out_channels, style=style.linear)
        self.act = style.activate()

    def forward(self, x: Tensor) -> Tensor:
        """Add the branches, then activate."""
        return self.act(self.spatial(x) + self.pointwise(x))

    def folded(self) -> nn.Conv2d | None:
        """Return the one convolution, with bias, that computes the same before activation.

        Returns:
            None where the branches' norms are of a kind that cannot be folded.
        """
        whole, point = _folded(self.spatial), _folded(self.pointwise)
        if whole is None or point is None or whole.bias is None or point.bias is None:
            return None
        whole.weight.data += F.pad(point.weight, (1, 1, 1, 1))
        whole.bias.data += point.bias
        return whole


def folded_copy(model: _Network) -> _Network:
    """Return a copy of a model in evaluation mode of plain layers: branches are folded, nothing serves training alone.

    Args:
        model: The model, which is left as it is.
    """
    own = inference_copy(model)
    for module in list(own.modules()):
        for name, child in module.named_children():
            if isinstance(child, RepConv) and (convolution := child.folded()) is not None:
                setattr(module, name, nn.Sequential(convolution, child.act))
    return own


def _folded(branch: ConvNormAct) -> nn.Conv2d | None:
    conv, norm = branch.conv.eval(), branch.bn.eval()
    if isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm)):
        return fuse_conv_bn_eval(conv, norm)  # pyright: ignore[reportArgumentType] (reads five tensors)
    return copy.deepcopy(conv) if isinstance(norm, nn.Identity) else None
