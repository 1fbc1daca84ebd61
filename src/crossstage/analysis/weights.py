"""How much each layer weighs what the layers before it yield.

The heat maps of DenseNet (arXiv 1608.06993, figure 5) and VoVNet (arXiv 1904.09730, figure 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossstage.nn import CrossStage, DenseBlock, ElasticDenseLayer, OneShotAggregation, TwoWayDenseLayer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class WeightNorms:
    """Mean L1 norms of the weights between the layers of a block.

    Attributes:
        name: Dotted name of the block.
        sources: Names of what is read: ``"input"``, then the block's layers from ``"1"`` on; ``"carried"`` is last
            where the transition reads a partial stage's other part as well.
        targets: Names of what reads: the layers from ``"1"`` on, and ``"transition"``, the 1x1 convolution (or the
            classifier's linear layer) behind a dense block, and in a one-shot aggregation the convolution of its
            concatenation.
        values: ``(sources, targets)``, the mean of ``|w|`` over the weights by which a target reads a source; NaN where
            it does not.
    """

    name: str
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    values: NDArray[np.float64]

    @property
    def relative(self) -> NDArray[np.float64]:
        """``values``, each target's in units of its largest: what the heat maps show."""
        return self.values / np.nanmax(self.values, axis=0, keepdims=True)


def weight_norms(model: nn.Module) -> list[WeightNorms]:
    """Compute mean L1 norms of the weights in every dense block and one-shot aggregation of a model, in order.

    A layer's weights are those of the convolutions that read the concatenation: the 1x1 of a bottleneck, both of a
    two-way layer. What batch norm multiplies channels by before or after them is left out, as in the papers.

    Args:
        model: A network of this package, or one of its blocks.
    """
    modules = dict(model.named_modules())
    found = []
    for name, module in modules.items():
        if isinstance(module, DenseBlock):
            found.append(_dense(name, module, modules))
        elif isinstance(module, OneShotAggregation):
            found.append(_one_shot(name, module))
    return found


def plot_weight_norms(norms: Sequence[WeightNorms]) -> Figure:
    """Draw one heat map for each block: sources down, targets across, each column in units of its largest value.

    Args:
        norms: The norms of at least one block.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 3.4 * len(norms), 4.2), layout="constrained")
    places = figure.subplots(1, len(norms), squeeze=False)[0]
    for axes, block in zip(places, norms, strict=True):
        axes.imshow(block.relative, cmap="viridis", vmin=0, vmax=1)
        axes.set_xticks(range(len(block.targets)), block.targets, rotation=90, fontsize="x-small")
        axes.set_yticks(range(len(block.sources)), block.sources, fontsize="x-small")
        axes.set(xlabel="target", ylabel="source", title=block.name)
    figure.colorbar(places[0].images[0], ax=places, shrink=0.8, label="mean |w|, of the target's largest")
    return figure


Read = dict[str, slice]  # by source, the channels that it has in what a target reads
Target = tuple[Sequence[Tensor], Read]  # kernels (out, in, ...) that read the same channels


def _dense(name: str, block: DenseBlock, modules: Mapping[str, nn.Module]) -> WeightNorms:
    kernels = [_reading(layer) for layer in block.layers]
    given = kernels[0][0].shape[1]
    growth = (block.out_channels - given) // len(kernels)
    widths = {"input": given} | {str(number): growth for number in range(1, len(kernels) + 1)}
    names = list(widths)
    targets: dict[str, Target] = {
        str(number): (kernel, _placed({names[i]: widths[names[i]] for i in chosen}))
        for number, (kernel, chosen) in enumerate(zip(kernels, block.sources, strict=True), start=1)
    }
    reader = _first_kernel_after(name, modules)
    carried = 0 if reader is None else reader.shape[1] - block.out_channels
    stage = next(
        (module for module in modules.values() if isinstance(module, CrossStage) and module.blocks is block), None
    )
    if carried > 0 and stage is not None:
        widths = {"carried": carried} | widths if stage.carried_first else widths | {"carried": carried}
    if reader is not None and reader.shape[1] == sum(widths.values()):
        targets["transition"] = ([reader], _placed(widths))
    return _norms(name, widths, targets)


def _one_shot(name: str, block: OneShotAggregation) -> WeightNorms:
    kernels = [_first(layer) for layer in block.layers]
    if not isinstance(block.reduce, nn.Identity):
        kernels[0] = _first(block.reduce)
    width = _last_width(block.layers[0])
    aggregate = _first(block.aggregate)
    widths = {"input": aggregate.shape[1] - width * len(kernels)}
    widths |= {str(number): width for number in range(1, len(kernels) + 1)}
    targets: dict[str, Target] = {
        str(number): ([kernel], {source: slice(None)})
        for number, (kernel, source) in enumerate(zip(kernels, widths, strict=False), start=1)
    }
    targets["transition"] = ([aggregate], _placed(widths))
    return _norms(name, widths, targets)


def _norms(name: str, widths: Mapping[str, int], targets: Mapping[str, Target]) -> WeightNorms:
    sources = sorted(widths, key="carried".__eq__)
    values = np.full((len(sources), len(targets)), np.nan)
    for column, (kernels, read) in enumerate(targets.values()):
        for source, channels in read.items():
            weights = torch.cat([kernel.detach()[:, channels].flatten() for kernel in kernels])
            values[sources.index(source), column] = weights.abs().double().mean().item()
    return WeightNorms(name, tuple(sources), tuple(targets), values)


def _placed(widths: Mapping[str, int]) -> Read:
    ends = accumulate(widths.values())
    return {source: slice(end - width, end) for (source, width), end in zip(widths.items(), ends, strict=True)}


def _reading(layer: nn.Module) -> list[Tensor]:
    """Return the kernels of a dense layer that read its input."""
    if isinstance(layer, ElasticDenseLayer):
        return [_first(layer.fine), _first(layer.coarse)]
    if isinstance(layer, TwoWayDenseLayer):
        return [_first(layer.near), _first(layer.far)]
    return [_first(layer)]


def _kernels(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            yield part.weight


def _first(module: nn.Module) -> Tensor:
    return next(_kernels(module))


def _last_width(module: nn.Module) -> int:
    return list(_kernels(module))[-1].shape[0]


def _first_kernel_after(name: str, modules: Mapping[str, nn.Module]) -> Tensor | None:
    """Return the kernel after a module; networks here register their modules in the order in which they run."""
    names = list(modules)
    last = max(position for position, other in enumerate(names) if other == name or other.startswith(f"{name}."))
    later = (modules[other] for other in names[last + 1 :])
    return next((module.weight for module in later if isinstance(module, (nn.Conv2d, nn.Linear))), None)
