"""How alike the gradients are that reach the layers of a stage.

CSPNet (arXiv 1911.11929, section 3.1) argues that in a dense stage much the same gradient is used to update layer after
layer, and that a partial stage whose transitions cut the flow lowers that. Here a *signal* is the gradient of the loss
with respect to a map, one row for each image and position, one column for each channel, and two signals are compared
by the rows that they share. Both measures lie between 0 and 1, take signals of different widths, and do not change when
channels are rotated or all scaled alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
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

Side = Literal["input", "output"]
Tap = tuple[nn.Module, Side]
"""A place where a gradient is read: a module's input or its output."""


@dataclass(frozen=True)
class Similarity:
    """How alike the signals of a stage are, pair by pair.

    Attributes:
        names: Names of the signals, see :func:`stage_taps`.
        cka: Linear CKA of each pair, ``(signals, signals)``, see :func:`linear_cka`.
        overlap: Subspace overlap of each pair, ``(signals, signals)``, see :func:`subspace_overlap`.
    """

    names: tuple[str, ...]
    cka: NDArray[np.float64]
    overlap: NDArray[np.float64]


def stage_taps(model: nn.Module) -> dict[str, dict[str, Tap]]:
    """Find where to read gradients in a network of this package, by stage.

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
        model: The model, in the mode that it is to be looked at: in training mode, batch norm takes its statistics
            from each batch, as it does where these gradients are used, and updates its running ones. Parameters get no
            gradient.
        batches: Pairs ``(images, targets)``; the signals of all are put one below the other.
        stages: Places whose signals are compared, by stage and name, each of which runs once in a pass; they all lie
            on the gradient's way to the images. By default those of :func:`stage_taps`.
        loss: Function from ``(outputs, targets)`` to a scalar.

    Raises:
        ConfigError: There are no stages or batches, or the maps of a stage differ in size.
    """
    stages = stage_taps(model) if stages is None else stages
    if not stages:
        raise ConfigError("the model has no stage of dense, aggregation or residual blocks; expected stages")
    moments = {stage: _Moments(stage) for stage in stages}
    with _reading(stages) as passing:
        for images, targets in batches:
            given = images.detach().clone().requires_grad_()
            torch.autograd.grad(loss(model(given), targets), given)
            for stage, taps in stages.items():
                moments[stage].add({name: passing.pop((stage, name), None) for name in taps})
    return {stage: found.similarity() for stage, found in moments.items()}


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Compute linear centred kernel alignment (arXiv 1905.00414): ``|X'Y|^2 / (|X'X| |Y'Y|)`` in Frobenius norms.

    For unrelated signals it is not quite 0, but about ``sqrt(p q) / n``.

    Args:
        first: A signal, ``(n, p)``.
        second: Another, ``(n, q)``, whose rows belong to those of the first.

    Returns:
        0 for uncorrelated signals, 1 for equal ones; NaN if one is constant.
    """
    return _Moments.of(first, second).cka()[0, 1].item()


def subspace_overlap(first: Tensor, second: Tensor, energy: float = ENERGY) -> float:
    """Compute the share of the smaller principal subspace that lies in the larger.

    It is the mean squared cosine of the angles between both.

    A signal's principal subspace is spanned by the fewest principal components (directions among its n rows) that hold
    ``energy`` of its variance. Unlike CKA, it counts weak components like strong ones.

    Args:
        first: A signal, ``(n, p)``.
        second: Another, ``(n, q)``, whose rows belong to those of the first.
        energy: Share of the variance, in (0, 1].

    Returns:
        0 for orthogonal subspaces, 1 where one contains the other; NaN if a signal is constant.
    """
    return _Moments.of(first, second).overlap(energy)[0, 1].item()


def plot_similarity(found: Mapping[str, Similarity]) -> Figure:
    """Draw heat maps for each stage: linear CKA above, subspace overlap below.

    Args:
        found: The similarities by stage, of at least one.
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
    for row, title in enumerate(("linear CKA", "subspace overlap")):
        figure.colorbar(places[row, 0].images[0], ax=places[row], shrink=0.8, label=title)
    return figure


def _layers(blocks: nn.Module) -> list[nn.Module]:
    """Return the layers of a stage's blocks; none if these are nothing that a stage is made of."""
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


Passing = dict[tuple[str, str], Tensor]  # by stage and name, the signal of the batch at hand


@contextmanager
def _reading(stages: Mapping[str, Mapping[str, Tap]]) -> Iterator[Passing]:
    """Catch the gradients of every pass."""
    passing: Passing = {}
    hooks = [
        _read(module, side, passing, (stage, name))
        for stage, taps in stages.items()
        for name, (module, side) in taps.items()
    ]
    try:
        yield passing
    finally:
        for hook in hooks:
            hook.remove()


def _read(module: nn.Module, side: Side, passing: Passing, place: tuple[str, str]) -> RemovableHandle:
    def keep(gradient: Tensor) -> None:
        passing[place] = gradient.movedim(1, -1).flatten(0, -2)  # (N, C, H, W) -> (NHW, C)

    # Hooked as it passes, a map that is changed in place later on gives the gradient of what it was before.
    def given(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].register_hook(keep)

    def yielded(_: nn.Module, __: object, output: Tensor) -> None:
        output.register_hook(keep)

    return module.register_forward_pre_hook(given) if side == "input" else module.register_forward_hook(yielded)


class _Moments:
    """Second moments of a stage's signals, to which batches are added: all that the measures need of them."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.rows = 0
        self.channels: dict[str, slice] = {}
        self.mean: Tensor | float = 0.0
        self.products: Tensor | float = 0.0  # of the centred signals, (channels of all, channels of all)

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> _Moments:
        moments = cls("signals")
        moments.add({"first": first, "second": second})
        return moments

    def add(self, signals: Mapping[str, Tensor | None]) -> None:
        read = {name: signal for name, signal in signals.items() if signal is not None}
        if missing := signals.keys() - read.keys():
            raise ConfigError(
                f"{self.stage}: no gradient came by {', '.join(missing)}; expected maps between images and loss"
            )
        if len({len(signal) for signal in read.values()}) > 1:
            sizes = ", ".join(f"{name} {len(signal)}" for name, signal in read.items())
            raise ConfigError(f"{self.stage}: maps differ in positions ({sizes}); expected maps of one size")
        ends = accumulate(signal.shape[1] for signal in read.values())
        self.channels = {name: slice(end - read[name].shape[1], end) for name, end in zip(read, ends, strict=True)}
        rows = torch.cat(list(read.values()), dim=1).double()
        mean = rows.mean(0)
        rows -= mean
        shift, before = mean - self.mean, self.rows  # of this batch's mean from that of all before
        self.rows += len(rows)
        self.mean = self.mean + shift * (len(rows) / self.rows)
        self.products = self.products + rows.T @ rows + torch.outer(shift, shift) * (before * len(rows) / self.rows)

    def similarity(self) -> Similarity:
        """Compare all pairs.

        Raises:
            ConfigError: There was no batch.
        """
        if not self.rows:
            raise ConfigError(f"{self.stage}: no gradients to compare; expected at least one batch")
        return Similarity(tuple(self.channels), self.cka(), self.overlap(ENERGY))

    def cka(self) -> NDArray[np.float64]:
        """Compute linear CKA of all pairs."""
        norms = np.array([[torch.linalg.norm(block).item() for block in row] for row in self._blocks()])
        own = np.diag(norms)
        with np.errstate(invalid="ignore"):
            return norms**2 / np.outer(own, own)

    def overlap(self, energy: float) -> NDArray[np.float64]:
        """Compute the overlap of all pairs' principal subspaces."""
        blocks = self._blocks()
        bases = [_whitening(row[index], energy) for index, row in enumerate(blocks)]
        found = np.full((len(bases), len(bases)), np.nan)
        for i, j in np.ndindex(found.shape):
            if smaller := min(bases[i].shape[1], bases[j].shape[1]):
                cosines = bases[i].T @ blocks[i][j] @ bases[j]
                found[i, j] = torch.linalg.norm(cosines).item() ** 2 / smaller
        return found

    def _blocks(self) -> list[list[Tensor]]:
        """Return ``X'Y`` of every pair of centred signals."""
        assert isinstance(self.products, Tensor)
        places = self.channels.values()
        return [[self.products[rows, columns] for columns in places] for rows in places]


def _whitening(covariance: Tensor, energy: float) -> Tensor:
    """Return the matrix that turns a centred signal into an orthonormal basis of its principal subspace."""
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    if values[0] == 0:
        return vectors[:, :0]
    rank = int((values.cumsum(0) / values.sum() < energy * (1 - 1e-12)).sum()) + 1
    return vectors[:, :rank] / values[:rank].sqrt()
