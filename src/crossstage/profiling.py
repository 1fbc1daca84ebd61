"""What a network costs, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from crossstage.analysis import Profile, profile_module
from crossstage.analysis.cost import NeedsValuesError
from crossstage.errors import ConfigError
from crossstage.weights.loading import placed
from crossstage.weights.ref import Ref
from crossstage.weights.resolving import input_of, resolve


def profile(
    model: str | Path | Ref | nn.Module,
    input_size: int | Sequence[int] | None = None,
    *,
    batch: int = 1,
    measure: bool = False,
    device: str | None = None,
) -> Profile:
    """Count what a network costs: parameters, operations, memory traffic, peak memory, bottleneck; layer by layer.

    Only shapes go through the network, unless it is measured; weights are neither read nor allocated.

    Args:
        model: What :func:`~crossstage.weights.resolving.resolve` takes, where ``"timm:<name>"`` is our network and
            ``"timm-network:<name>"`` timm's own; or a module.
        input_size: Side of the input in pixels, its height and width, or its whole shape without the batch, such as
            ``(1, 28, 28)``; by default the network's own, see :class:`~crossstage.weights.resolving.Resolved`.
        batch: Number of images in a pass.
        measure: Time each operation, too, in float32 and with random weights, and this machine's best rates.
        device: Device to measure a network on that is given by name; None takes a GPU if there is one.

    Returns:
        All that was counted, and measured.

    Raises:
        ConfigError: The name is unknown, a file fails, or the network cannot run on such an input.

    Example:
        >>> cost = profile("csppeleenet")
        >>> round(cost.bflops, 3), round(cost.darknet_bflops, 3), cost.weights
        (0.887, 0.888, 2831744)
    """
    if isinstance(model, nn.Module):
        shape = input_shape(input_of(model), input_size, batch)
        return profile_module(model, shape, measure=measure)
    found = resolve(model, "cpu" if measure else "meta")
    shape = input_shape(found.input_shape, input_size, batch)
    if measure:
        return profile_module(placed(found.module, device), shape, found.name, measure=True)
    try:
        return profile_module(found.module, shape, found.name)
    except NeedsValuesError:
        return profile_module(resolve(model, "cpu").module, shape, found.name)


def input_shape(own: Sequence[int], wanted: int | Sequence[int] | None, batch: int) -> tuple[int, ...]:
    """Return the shape of a batch.

    Args:
        own: Channels, height and width of the network's own input.
        wanted: What was asked for instead, as :func:`profile` takes it; None takes the network's own.
        batch: Number of images.

    Raises:
        ConfigError: A size is not positive.
    """
    if wanted is None:
        shape = tuple(own)
    elif isinstance(wanted, int):
        shape = (own[0], wanted, wanted)
    else:
        shape = (own[0], *wanted) if len(wanted) == 2 else tuple(wanted)
    if batch < 1 or min(shape, default=0) < 1:
        raise ConfigError(f"an input of {batch} x {shape}; expected sizes of at least 1")
    return batch, *shape
