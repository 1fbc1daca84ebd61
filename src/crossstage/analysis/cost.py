"""Operations of a forward pass, what each computes and what it moves, counted without computing anything."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crossstage.analysis.layer import Layer, LayerKind
from crossstage.errors import ConfigError, CrossStageError

_ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
_WINDOWS = ("max_pool2d_with_indices", "avg_pool2d", "max_pool3d_with_indices", "avg_pool3d")
_OPERATORS: dict[LayerKind, tuple[str, ...]] = {
    "convolution": ("convolution", "deform_conv2d"),
    "matmul": ("mm", "addmm", "bmm", "baddbmm", *_ATTENTION),  # "linear" if one of the two is learned
    "pooling": (*_WINDOWS, "_adaptive_avg_pool2d", "adaptive_max_pool2d", "mean"),
    "norm": ("native_batch_norm", "native_group_norm", "native_layer_norm"),
    "activation": (
        *("relu", "leaky_relu", "silu", "mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "gelu", "elu"),
        *("softplus", "tanh", "clamp", "clamp_min", "clamp_max", "_prelu_kernel", "_softmax", "_safe_softmax"),
    ),
    "elementwise": ("add", "sub", "mul", "div"),
    "maxout": ("maximum",),
    "upsampling": ("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d"),
    "concatenation": ("cat", "stack"),
}
_GROUPS = {"convolution": 8, "deform_conv2d": 11}  # place of the number of groups among the arguments
_KINDS: dict[str, LayerKind] = {name: kind for kind, names in _OPERATORS.items() for name in names}
_SHAPE_KEEPING = ("relu", "leaky_relu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid")


@torch.inference_mode(False)  # which joins operations
def operations(model: nn.Module, input_shape: Sequence[int], *, timed: bool = False) -> list[Layer]:
    """Return the operations of a forward pass, in order.

    Shapes alone go through the model: its weights are neither read nor copied. A model that looks at values, and has
    some, runs for real. Its training mode is left as it was; the pass is one of evaluation.

    Args:
        model: A model, on the meta device or with weights.
        input_shape: Shape of the input, ``(N, C, H, W)`` or whatever the model takes.
        timed: Whether to run for real, where the model's weights are, and take the time of each operation. Needs
            weights.

    Raises:
        ConfigError: The model cannot run on such an input, or needs values and has none.
    """
    device = next((tensor.device for tensor in _tensors_of(model)), torch.device("cpu"))
    if not timed:
        try:
            return _pass(_without_data(model), input_shape, torch.device("meta"))
        except NeedsValuesError:
            if device.type == "meta":
                raise
    return _pass(model, input_shape, device, timed=timed)


def count_flops(model: nn.Module, input_shape: Sequence[int], *, pooling: bool = False) -> int:
    """Count the operations of a forward pass, two for each multiply-add of a convolution, linear layer or product.

    Args:
        model: A model, on the meta device or with weights.
        input_shape: Shape of the input, ``(N, C, H, W)``.
        pooling: Whether pooling over windows counts as well, as in Darknet and so in CSPNet's tables.
    """
    return sum(layer.darknet_flops if pooling else layer.flops for layer in operations(model, input_shape))


class NeedsValuesError(ConfigError):
    """A model cannot run on shapes alone, because it looks at values."""


def cannot_run(what: str, input_shape: Sequence[int], device: torch.device, error: Exception) -> ConfigError:
    """Return the error to raise for a pass that failed.

    Args:
        what: The module that failed, for the message.
        input_shape: Shape of the input.
        device: The device that the pass ran on.
        error: The error that stopped it.
    """
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    # torch has no type of its own for what fails because a meta tensor holds no values; its messages name the device
    valueless = device.type == "meta" and (isinstance(error, NotImplementedError) or "meta" in str(error).lower())
    problem = f"{what} cannot run on an input of {tuple(input_shape)}: {reason}"
    return NeedsValuesError(problem) if valueless else ConfigError(problem)


def _tensors_of(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _without_data(model: nn.Module) -> nn.Module:
    """Return a copy whose parameters and buffers are on the meta device; the model's own are not copied."""

    def empty(tensor: Tensor) -> Tensor:
        made = torch.empty_like(tensor, device="meta")
        return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made

    try:
        return copy.deepcopy(model, {id(tensor): empty(tensor) for tensor in _tensors_of(model)})
    except Exception as error:  # whatever a user's module holds
        raise NeedsValuesError(f"{type(model).__name__} cannot be copied without its values: {error}") from error


def _pass(model: nn.Module, input_shape: Sequence[int], device: torch.device, *, timed: bool = False) -> list[Layer]:
    running: list[str] = []
    types = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    images = torch.rand(*input_shape, device=device, dtype=next(types, None))
    recorder = _Recorder(running, list(model.parameters()), list(model.buffers()), images, timed=timed)
    try:
        with _apart(), evaluating(model), _named(model, running), recorder:
            output = model(images)
    except CrossStageError:
        raise
    except Exception as error:  # whatever a user's module raises
        where = f"module {running[-1]!r}" if running and running[-1] else type(model).__name__
        raise cannot_run(where, input_shape, device, error) from error
    return recorder.layers(output)


@dataclass
class _Storage:
    """Memory of a map: the number of its values, and the first and last operation that need it."""

    values: int
    born: int
    last: int = -1


class _Recorder(TorchDispatchMode):
    def __init__(
        self, running: Sequence[str], learned: Sequence[Tensor], given: Sequence[Tensor], images: Tensor, *, timed: bool
    ) -> None:
        super().__init__()
        self.running = running
        self.learned = {_key(tensor): tensor.numel() for tensor in learned}
        self.constant = {*self.learned, *map(_key, given)}
        self.timed = timed
        self.found: list[Layer] = []
        self.storages: dict[int, _Storage] = {}
        self.kept: list[Tensor] = []  # a storage that is freed would lend its key to another
        self._meet(images)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        start = time.perf_counter()
        result = _run(func, args, kwargs or {})
        inputs = _tensors((args, kwargs))
        if self.timed and inputs and inputs[0].is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start if self.timed else None
        outputs = _tensors(result)
        for tensor in outputs:
            self._meet(tensor)
        view = {_key(tensor) for tensor in outputs} <= {_key(tensor) for tensor in inputs}
        if inputs and outputs and (not view or func._schema.is_mutable):
            for tensor in (*inputs, *(outputs if func._schema.is_mutable else ())):
                self._use(tensor)
            self.found.append(replace(self._layer(func, args, inputs, outputs[0]), seconds=seconds))
        return result

    def layers(self, output: Any) -> list[Layer]:
        """Return the recorded operations with the values held during each, once the pass has returned its output."""
        for tensor in _tensors(output):
            self._use(tensor)
        changes = [0] * (len(self.found) + 1)
        for storage in self.storages.values():
            if storage.last >= 0:  # what nothing reads, such as the indices of a max pooling, need not be kept
                changes[storage.born] += storage.values
                changes[min(storage.last, len(self.found) - 1) + 1] -= storage.values
        return [replace(layer, live=live) for layer, live in zip(self.found, accumulate(changes), strict=False)]

    def _meet(self, tensor: Tensor) -> None:
        key = _key(tensor)
        if key not in self.storages and key not in self.constant:
            values = tensor.untyped_storage().nbytes() // tensor.itemsize
            self.storages[key] = _Storage(values, len(self.found))
            self.kept.append(tensor.detach())

    def _use(self, tensor: Tensor) -> None:
        if storage := self.storages.get(_key(tensor)):
            storage.last = len(self.found)

    def _layer(self, func: Any, args: tuple[Any, ...], inputs: list[Tensor], output: Tensor) -> Layer:
        operator = str(func.overloadpacket).rpartition(".")[2].rstrip("_")
        kind = _KINDS.get(operator, "other")
        weights = 0
        maps = [tensor for tensor in inputs if _key(tensor) not in self.learned]
        if operator == "convolution":
            weights, maps = args[1].numel(), maps[:1]
        elif operator == "deform_conv2d":
            weights, maps = args[1].numel(), [args[0], *args[2:4]]  # the input, offsets and weights of the taps
        elif kind == "matmul" and (sizes := [self.learned[_key(x)] for x in inputs[-2:] if _key(x) in self.learned]):
            kind, weights = "linear", sizes[-1]
        return Layer(
            name=self.running[-1] if self.running else "",
            kind=kind,
            operator=operator,
            input_shapes=tuple(tuple(tensor.shape) for tensor in maps if _key(tensor) not in self.constant),
            output_shape=tuple(output.shape),
            kernel=_kernel(operator, args),
            groups=args[_GROUPS[operator]] if kind == "convolution" else 1,
            macs=_macs(operator, args, inputs, output),
            pooled=_pooled(kind, args, output, windows=operator in _WINDOWS),
            parameters=sum(self.learned[key] for key in {_key(tensor) for tensor in inputs} & self.learned.keys()),
            weights=weights,
            read=sum(tensor.numel() for tensor in maps),
            written=output.numel(),
        )


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation; of those that a network is full of, whose shapes torch works out in Python, give the shape."""
    image = args[0] if args else None
    if isinstance(image, Tensor) and image.is_meta and image.is_floating_point():
        match func.overloadpacket.__name__:
            case "native_batch_norm" if not args[5]:  # in evaluation, where it returns no statistics
                return torch.empty_like(image), image.new_empty(0), image.new_empty(0)
            case "upsample_bilinear2d" if func._overloadname == "default":
                return image.new_empty(*image.shape[:2], *args[1])
            case name if name in _SHAPE_KEEPING and len(args) <= 2:
                return torch.empty_like(image)
            case name if name.rstrip("_") in _SHAPE_KEEPING and len(args) <= 2:
                return image
    return func(*args, **kwargs)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _macs(operator: str, args: Sequence[Any], inputs: Sequence[Tensor], output: Tensor) -> int:
    if operator in _OPERATORS["convolution"]:
        transposed = operator == "convolution" and args[6]
        return (args[0] if transposed else output).numel() * args[1][0].numel()
    if operator in _ATTENTION:
        query, key, value = inputs[:3]
        return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return output.numel() * inputs[-1].shape[-2] if operator in _OPERATORS["matmul"] else 0


def _kernel(operator: str, args: Sequence[Any]) -> tuple[int, ...]:
    if operator in _OPERATORS["convolution"]:
        return tuple(args[1].shape[2:])
    return tuple(args[1]) if operator in _WINDOWS else ()


def _pooled(kind: LayerKind, args: Sequence[Any], output: Tensor, *, windows: bool) -> int:
    if kind != "pooling":
        return 0
    return output.numel() * prod(args[1]) if windows else args[0].numel()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and then each module into its own again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _apart() -> Iterator[None]:
    """Run multi-head attention as the operations it consists of, not as the one that torch has without gradients."""
    attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)


@contextmanager
def _named(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the modules that run on a stack, which ends with the one that failed if one does."""

    def entering(name: str) -> Callable[..., None]:
        return lambda *_: running.append(name)

    def leaving(*_: object) -> None:
        running.pop()

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
