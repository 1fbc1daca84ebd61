"""How alike the gradients are that reach the layers of a stage.

CSPNet (arXiv 1911.11929, section 3.1) argues that in a dense stage much the same gradient is used to update layer after
layer, and that a partial stage whose transitions cut the flow lowers that. Here a *signal* is the gradient of the loss
with respect to a map, one row for each picture and position, one column for each channel, and two signals are compared
by the rows that they share. Both measures lie between 0 and 1, take signals of different widths, and do not change when
channels are rotated or all scaled alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crossstage.errors import ConfigError
from crossstage.nn import CrossStage, DenseBlock, OneShotAggregation, Residual, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENERGY = 0.9  # share of a signal's variance that its subspace holds

Tap = tuple[nn.Module, Literal["input", "output"]]
"""Where a gradient is read: at what a module is given, or at what it yields."""


@dataclass(frozen=True)
class Similarity:
    """How alike the signals of a stage are, pair by pair.

    Attributes:
        names: Of the signals, see :func:`stage_taps`.
        cka: ``(signals, signals)``, linear CKA, see :func:`linear_cka`.
        overlap: ``(signals, signals)``, see :func:`subspace_overlap`.
    """

    names: tuple[str, ...]
    cka: NDArray[np.float64]
    overlap: NDArray[np.float64]


def stage_taps(model: nn.Module) -> dict[str, dict[str, Tap]]:
    """Where to read gradients in a network of ours, by stage.

    Of a partial stage ``"carried"`` is x0', ``"input"`` x0'', and ``"1"`` and so on are what its layers yield: those of
    dense blocks and aggregations, the bodies of residual blocks. Of a plain dense block or aggregation ``"input"`` is
    what it is given. A plain stage of residual blocks has its bodies alone, as its input is a larger map.
    """
    found: dict[str, dict[str, Tap]] = {}
    covered: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in covered:
            continue
        taps: dict[str, Tap] = {}
        layers = _layers(module)
        if isinstance(module, CrossStage) and isinstance(module.split, Split):
            taps = {"carried": (module.split.carried, "output"), "input": (module.split.processed, "output")}
            layers = _layers(module.blocks)
        elif not (isinstance(module, nn.Sequential) and _residual(module)):
            taps = {"input": (module, "input")}
        if layers:
            for number, layer in enumerate(layers, start=1):
                taps[str(number)] = (layer, "output")
            found[name] = taps
            covered.update(module.modules())
    return found


def gradient_similarity(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    stages: Mapping[str, Mapping[str, Tap]] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> dict[str, Similarity]:
    """Compare the gradients within each stage.

    Args:
        model: As it is to be looked at: in training mode, batch norm takes its statistics from each batch, as it does
            where these gradients are used, and updates its running ones. Parameters get no gradient.
        batches: ``(images, targets)``; the signals of all are put one below the other.
        stages: Places whose signals are compared, by stage and name, each of which runs once in a pass; they all lie on
            the gradient's way to the images. By default those of :func:`stage_taps`.
        loss: ``(outputs, targets)`` to a scalar.

    Raises:
        ConfigError: There are no stages or batches, or the maps of a stage differ in size.
    """
    stages = stage_taps(model) if stages is None else stages
    if not stages:
        raise ConfigError("the model has no stage of dense, aggregation or residual blocks; expected stages")
    signals: dict[str, dict[str, list[Tensor]]] = {stage: {name: [] for name in taps} for stage, taps in stages.items()}
    with _reading(stages, signals):
        for images, targets in batches:
            given = images.detach().clone().requires_grad_()
            torch.autograd.grad(loss(model(given), targets), given)
    return {stage: _similarity(stage, read) for stage, read in signals.items()}


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear centred kernel alignment (arXiv 1905.00414): ``|X'Y|^2 / (|X'X| |Y'Y|)`` in Frobenius norms.

    For unrelated signals it is not quite 0, but about ``sqrt(p q) / n``.

    Args:
        first: ``(n, p)``.
        second: ``(n, q)``.

    Returns:
        0 for uncorrelated signals, 1 for equal ones; NaN if one is constant.
    """
    return _cka(_centred(first), _centred(second))


def subspace_overlap(first: Tensor, second: Tensor, energy: float = ENERGY) -> float:
    """Share of the smaller principal subspace that lies in the larger: the mean squared cosine of the angles between.

    A signal's principal subspace is spanned by the fewest principal components (directions among its n rows) that hold
    ``energy`` of its variance. Unlike CKA, it counts weak components like strong ones.

    Args:
        first: ``(n, p)``.
        second: ``(n, q)``.
        energy: Share of the variance, in (0, 1].

    Returns:
        0 for orthogonal subspaces, 1 where one contains the other; NaN if a signal is constant.
    """
    return _overlap(_components(_centred(first), energy), _components(_centred(second), energy))


def plot_similarity(found: Mapping[str, Similarity]) -> Figure:
    """Heat maps for each stage: linear CKA above, subspace overlap below.

    Args:
        found: At least one stage's.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 2.7 * len(found), 5.8), layout="constrained")
    places = figure.subplots(2, len(found), squeeze=False)
    for column, (stage, similarity) in enumerate(found.items()):
        for axes, values in zip(places[:, column], (similarity.cka, similarity.overlap), strict=True):
            axes.imshow(values, cmap="magma", vmin=0, vmax=1)
            axes.set_xticks(range(len(similarity.names)), similarity.names, rotation=90, fontsize="x-small")
            axes.set_yticks(range(len(similarity.names)), similarity.names, fontsize="x-small")
        places[0, column].set_title(stage, fontsize="small")
    for row, told in enumerate(("linear CKA", "subspace overlap")):
        figure.colorbar(places[row, 0].images[0], ax=places[row], shrink=0.8, label=told)
    return figure


def _layers(blocks: nn.Module) -> list[nn.Module]:
    """The layers of a stage's blocks; none if these are nothing that a stage is made of."""
    if isinstance(blocks, (DenseBlock, OneShotAggregation)):
        return list(blocks.layers)
    if not isinstance(blocks, nn.Sequential):
        return []
    if _residual(blocks):
        return [block.body for block in blocks if isinstance(block, Residual)]
    if all(isinstance(block, OneShotAggregation) for block in blocks):
        return [layer for block in blocks for layer in _layers(block)]
    return []


def _residual(blocks: nn.Sequential) -> bool:
    return len(blocks) > 0 and all(isinstance(block, Residual) for block in blocks)


@contextmanager
def _reading(
    stages: Mapping[str, Mapping[str, Tap]], signals: Mapping[str, Mapping[str, list[Tensor]]]
) -> Iterator[None]:
    """Put the gradients of every pass into the lists."""
    hooks = [
        _read(module, side, signals[stage][name])
        for stage, taps in stages.items()
        for name, (module, side) in taps.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _read(module: nn.Module, side: Literal["input", "output"], into: list[Tensor]) -> RemovableHandle:
    def keep(gradient: Tensor) -> None:
        into.append(gradient.movedim(1, -1).flatten(0, -2))  # (N, C, H, W) -> (NHW, C)

    # Hooked as it passes, a map that is changed in place later on gives the gradient of what it was before.
    def given(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].register_hook(keep)

    def yielded(_: nn.Module, __: object, output: Tensor) -> None:
        output.register_hook(keep)

    return module.register_forward_pre_hook(given) if side == "input" else module.register_forward_hook(yielded)


def _similarity(stage: str, read: Mapping[str, list[Tensor]]) -> Similarity:
    if not all(read.values()):
        raise ConfigError(f"{stage}: no gradient came by; expected at least one batch, and maps that lead to the loss")
    signals = {name: torch.cat(parts) for name, parts in read.items()}
    if len({len(signal) for signal in signals.values()}) > 1:
        told = ", ".join(f"{name} {len(signal)}" for name, signal in signals.items())
        raise ConfigError(f"{stage}: maps differ in positions ({told}); expected maps of one size")
    centred = [_centred(signal) for signal in signals.values()]
    components = [_components(signal, ENERGY) for signal in centred]
    return Similarity(
        tuple(signals),
        np.array([[_cka(a, b) for b in centred] for a in centred]),
        np.array([[_overlap(a, b) for b in components] for a in components]),
    )


def _centred(signal: Tensor) -> Tensor:
    return (signal - signal.mean(0)).double()


def _cka(x: Tensor, y: Tensor) -> float:
    scale = torch.linalg.norm(x.T @ x) * torch.linalg.norm(y.T @ y)
    return (torch.linalg.norm(x.T @ y) ** 2 / scale).item()


def _components(centred: Tensor, energy: float) -> Tensor:
    """An orthonormal basis ``(n, r)`` of the principal subspace."""
    values, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    shares = values.cumsum(0) / values.sum()
    rank = int((shares < energy * (1 - 1e-12)).sum()) + 1 if values.sum() > 0 else 0
    return centred @ vectors[:, :rank] / values[:rank].sqrt()


def _overlap(a: Tensor, b: Tensor) -> float:
    smaller = min(a.shape[1], b.shape[1])
    return (torch.linalg.norm(a.T @ b) ** 2 / smaller).item() if smaller else float("nan")
