"""Convolutions for inference on a CPU: one oneDNN call with the activation, or the sum, behind it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# oneDNN's name and arguments for an activation that it applies to the values it has just computed.
_POST_OPS: dict[type[nn.Module], Callable[[nn.Module], tuple[str, list[float], str]]] = {
    nn.Identity: lambda _: ("none", [], ""),
    nn.ReLU: lambda _: ("relu", [], ""),
    nn.ReLU6: lambda _: ("hardtanh", [0.0, 6.0], ""),
    nn.LeakyReLU: lambda act: ("leaky_relu", [float(act.negative_slope)], ""),  # pyright: ignore[reportArgumentType]
    nn.SiLU: lambda _: ("swish", [], ""),
    nn.Hardswish: lambda _: ("hardswish", [], ""),
}


def recorded() -> bool:
    """Tell whether operations are being recorded for a graph, which wants plain ones."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]


class PackedConv(nn.Module):
    """Convolution, bias and activation; on a CPU one call on weights that are laid out for it at the first call.

    Shape: as the convolution's. On a CPU the output is in channels-last order.
    """

    def __init__(self, conv: nn.Conv2d, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.act = act
        self._post = _POST_OPS[type(act)](act) if type(act) in _POST_OPS else None
        self._packed: Tensor | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_packed": None}  # opaque to copy and pickle

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self._packed = None
        return super()._apply(fn, recurse)

    def can_pack(self, x: Tensor) -> bool:
        """Tell whether this input goes the direct way, to oneDNN."""
        return (
            not recorded()  # asked first, as the compiler cannot follow the questions about oneDNN
            and x.device.type == "cpu"
            and x.dtype == torch.float32 == self.conv.weight.dtype
            and not x.requires_grad
            and torch.backends.mkldnn.is_available()
            and torch.backends.mkldnn.enabled
            and self.conv.padding_mode == "zeros"
        )

    def packed(self, x: Tensor) -> tuple[Tensor, list[int], list[int], list[int], int]:
        """Return weights and geometry in the order of oneDNN's operators; weights are laid out at the first call."""
        conv = self.conv
        geometry = [int(p) for p in conv.padding], list(conv.stride), list(conv.dilation), conv.groups
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *geometry, list(x.shape))
        assert self._packed is not None
        return self._packed, *geometry

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and activate."""
        if not self.can_pack(x):
            return self.act(self.conv(x))
        weight, *geometry = self.packed(x)
        if self._post is not None:
            return torch.ops.mkldnn._convolution_pointwise(x, weight, self.conv.bias, *geometry, *self._post)
        return self.act(torch.ops.mkldnn._convolution_pointwise(x, weight, self.conv.bias, *geometry, "none", [], ""))


class PackedResidual(nn.Module):
    """``act(shortcut(x) + body(x))`` with the sum and a ReLU inside of the body's last, linear convolution."""

    def __init__(self, body: nn.Sequential, shortcut: nn.Module | None, act: nn.Module | None) -> None:
        super().__init__()
        self.body = body[:-1]
        self.last = body[-1]
        self.shortcut = shortcut
        self.act = act or nn.Identity()
        self.relu = isinstance(act, nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output to the shortcut's, then activate."""
        last, y = self.last, self.body(x)
        bypass = x if self.shortcut is None else self.shortcut(x)
        assert isinstance(last, PackedConv)
        if not last.can_pack(y):
            return self.act(last(y) + bypass)
        weight, *geometry = last.packed(y)
        post = "relu" if self.relu else None
        y = torch.ops.mkldnn._convolution_pointwise.binary(
            y, bypass, weight, last.conv.bias, *geometry, "add", None, post, [], ""
        )
        return y if self.relu else self.act(y)
