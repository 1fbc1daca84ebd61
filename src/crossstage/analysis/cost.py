"""Operations of a forward pass, what each computes and what it moves, counted without computing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Kind = Literal["convolution", "linear", "pooling", "maxout", "upsampling", "concatenation", "other"]


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        module: Dotted name of the innermost module that it runs in.
        kind: What it is.
        flops: Two for each multiply-add of a convolution or linear layer; for pooling one for each value of a window,
            as Darknet counts; 0 for the rest.
        weights: Values of its kernel.
        read: Values of its inputs, without weights.
        written: Values of its output.
        output_shape: Of its output.
    """

    module: str
    kind: Kind
    flops: int
    weights: int
    read: int
    written: int
    output_shape: tuple[int, ...]


_KINDS: dict[str, Kind] = {
    "aten.convolution": "convolution",
    "aten.mm": "linear",
    "aten.addmm": "linear",
    "aten.max_pool2d_with_indices": "pooling",
    "aten.avg_pool2d": "pooling",
    "aten._adaptive_avg_pool2d": "pooling",
    "aten.mean": "pooling",
    "aten.maximum": "maxout",
    "aten.upsample_nearest2d": "upsampling",
    "aten.cat": "concatenation",
}


def operations(model: nn.Module, input_shape: Sequence[int]) -> list[Operation]:
    """The operations of a forward pass, in order; views, norms and activations, which cost nothing of their own once
    a network is fused, are among "other".

    Args:
        model: A model on the meta device, whose passes cost next to nothing, in evaluation mode.
        input_shape: ``(N, C, H, W)``.
    """
    stack: list[str] = []
    recorder = _Recorder(stack)
    with torch.no_grad(), _named(model, stack), recorder:
        model(torch.empty(*input_shape, device="meta"))
    return recorder.found


def count_flops(model: nn.Module, input_shape: Sequence[int], *, pooling: bool = False) -> int:
    """Floating-point operations of a forward pass, two for each multiply-add of a convolution or linear layer.

    Args:
        model: See :func:`operations`.
        input_shape: ``(N, C, H, W)``.
        pooling: Count pooling over windows as well, as Darknet and so CSPNet's tables do.
    """
    counted = ("convolution", "linear", "pooling") if pooling else ("convolution", "linear")
    return sum(operation.flops for operation in operations(model, input_shape) if operation.kind in counted)


class _Recorder(TorchDispatchMode):
    def __init__(self, stack: Sequence[str]) -> None:
        super().__init__()
        self.stack = stack
        self.found: list[Operation] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        output = result[0] if isinstance(result, (tuple, list)) else result
        if not isinstance(output, Tensor):
            return result
        name = str(func.overloadpacket)
        kind = _KINDS.get(name, "other")
        inputs = _tensors(args[:1] if kind in ("convolution", "pooling") else args)
        weights = 0
        if kind == "convolution":
            weights = args[1].numel()
        elif kind == "linear":
            *inputs, weight = inputs
            weights = weight.numel()
        self.found.append(
            Operation(
                module=self.stack[-1] if self.stack else "",
                kind=kind,
                flops=_flops(name, kind, args, output),
                weights=weights,
                read=sum(tensor.numel() for tensor in inputs),
                written=output.numel(),
                output_shape=tuple(output.shape),
            )
        )
        return result


def _flops(name: str, kind: Kind, args: Sequence[Any], output: Tensor) -> int:
    if kind == "convolution":
        return 2 * output.numel() * args[1][0].numel()
    if kind == "linear":
        return 2 * output.numel() * args[-1].shape[0]
    if kind == "pooling" and name in ("aten.max_pool2d_with_indices", "aten.avg_pool2d"):
        return output.numel() * prod(args[1])
    return args[0].numel() if kind == "pooling" else 0


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found += _tensors(arg)
    return found


@contextmanager
def _named(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the names of the modules that run on the stack."""

    def entering(name: str) -> Callable[..., None]:
        return lambda *_: stack.append(name)

    def leaving(*_: object) -> None:
        stack.pop()

    hooks = [
        hook
        for name, module in model.named_modules()
        for hook in (module.register_forward_pre_hook(entering(name)), module.register_forward_hook(leaving))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
