"""PyTorch itself: it runs models as they are, fused, channels last, in bfloat16 and compiled if wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from crossstage.deploy.backends.base import Arithmetic, Backend

if TYPE_CHECKING:
    from torch import nn

    Network = TypeVar("Network", bound=nn.Module)


def fast(model: Network, precision: Arithmetic = "fp32", compiled: bool = False) -> Network:
    """Return a copy of a model that computes the same faster; it is of the same class and takes and gives float32.

    Args:
        model: A model of this package.
        precision: What the copy computes in.
        compiled: Whether to compile the copy when it first runs, which takes a minute.
    """
    import torch

    from crossstage.nn.fuse import fuse

    made = fuse(model).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] (a stub lacks it)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    if dtype != torch.float32:
        made = made.to(dtype)
        made.register_forward_hook(lambda *parts: _floats(parts[-1]))
    made.register_forward_pre_hook(
        lambda _, inputs: (inputs[0].to(dtype=dtype, memory_format=torch.channels_last), *inputs[1:])
    )
    if compiled:
        made.compile()
    return made


def _floats(output: Any) -> Any:
    return {name: x.float() for name, x in output.items()} if isinstance(output, dict) else output.float()


BACKENDS = {
    "torch": Backend(
        label="PyTorch", module="torch", install="torch", preference=0, distributions=("torch",), prepare=fast
    )
}
