"""What CSP stages and dense blocks do between their convolutions, by torch eager, compiled, and by our kernel.

Two pieces are cut out of real networks at their real sizes. The *joints* of a CSP stage: split, T, concatenation and U,
given what its blocks yield. The *reads* of a dense block: each layer's first 1x1 convolution on all maps before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import monotonic
from typing import Any

import torch
from torch import Tensor, nn

from crossstage import create_model, fuse
from crossstage.nn import ConvNormAct, CrossStage, DenseBlock, Split, TwoWayDenseLayer
from research.bench.gpu_kernels import TILES, Pointwise, Tile, channels_last, folded, pointwise
from research.bench.roofline import BYTES, Work, replayed_ms
from research.bench.workers import Link, reason

BATCH = 256
CHECKED = 4  # images on which the kernel is compared with float32
Maps = list[Tensor]


class Joints(nn.Module):
    """Split, T, concatenation and U of a stage: ``x, blocks(x'') -> x'', U([T(blocks(x'')), x'])``."""

    def __init__(self, stage: CrossStage) -> None:
        super().__init__()
        self.split, self.transition, self.merge = stage.split, stage.transition, stage.merge

    def forward(self, x: Tensor, y: Tensor) -> Maps:
        """What the blocks read, and the stage's output."""
        carried, processed = self.split(x)
        return [processed, self.merge(torch.cat([self.transition(y), carried], dim=1))]


class Reads(nn.Module):
    """The first convolutions of a dense block's layers, on the maps that they read."""

    def __init__(self, block: DenseBlock) -> None:
        super().__init__()
        layers = [layer for layer in block.layers if isinstance(layer, TwoWayDenseLayer)]
        assert len(layers) == len(block.layers)
        self.near = nn.ModuleList(layer.near[0] for layer in layers)
        self.far = nn.ModuleList(layer.far[0] for layer in layers)

    def forward(self, *maps: Tensor) -> Maps:
        """What each layer's two branches go on with."""
        found: Maps = []
        for index, (near, far) in enumerate(zip(self.near, self.far, strict=True)):
            x = torch.cat(maps[: index + 1], dim=1)
            found += [near(x), far(x)]
        return found


@dataclass(frozen=True)
class Piece:
    """A piece of a network.

    Attributes:
        label: Where it is.
        module: It.
        shapes: ``(C, H, W)`` of each of its inputs.
    """

    label: str
    module: nn.Module
    shapes: tuple[tuple[int, int, int], ...]

    def inputs(self, batch: int, device: str, dtype: torch.dtype) -> Maps:
        """Random maps."""
        return [
            torch.randn(batch, *shape, device=device).to(dtype, memory_format=torch.channels_last)
            for shape in self.shapes
        ]


def pieces_of(name: str, size: int) -> list[Piece]:
    """The pieces of a network, in evaluation mode, with norms that are not neutral."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    assert isinstance(model, nn.Module)
    shapes: dict[nn.Module, list[tuple[int, int, int]]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        shapes[module] = [tuple(inputs[0].shape[1:])]  # pyright: ignore[reportArgumentType]
        if isinstance(module, CrossStage):
            shapes[module].append(shapes[module.transition][0])

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    kept = [m for m in model.modules() if isinstance(m, (CrossStage, DenseBlock))]
    for module in kept + [m.transition for m in kept if isinstance(m, CrossStage)]:
        module.register_forward_hook(note)
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size))
    return list(_cut(name, kept, shapes))


def _cut(name: str, kept: Sequence[nn.Module], shapes: dict[nn.Module, list[tuple[int, int, int]]]) -> Iterator[Piece]:
    for kind, title, make in ((CrossStage, "joints", Joints), (DenseBlock, "dense reads", Reads)):
        for number, module in enumerate((m for m in kept if isinstance(m, kind)), 1):
            given = shapes[module]
            if isinstance(module, DenseBlock):
                channels, height, width = given[0]
                growth = (module.out_channels - channels) // len(module.layers)
                given = given + [(growth, height, width)] * (len(module.layers) - 1)
            yield Piece(f"{name}, stage {number}: {title}", make(module), tuple(given))  # pyright: ignore[reportArgumentType]


class KernelJoints:
    """:class:`Joints` by the kernel: T writes where U reads, or where the output is."""

    def __init__(self, joints: Joints) -> None:
        split = joints.split
        assert isinstance(split, Split) and isinstance(split.processed, ConvNormAct)
        self.split = folded(split.processed, split.carried)
        self.processed = split.processed.conv.out_channels
        self.transition = None if isinstance(joints.transition, nn.Identity) else folded(joints.transition)
        self.merge = None if isinstance(joints.merge, nn.Identity) else folded(joints.merge)

    @property
    def steps(self) -> list[Pointwise]:
        """Its convolutions, in order."""
        return [step for step in (self.split, self.transition, self.merge) if step is not None]

    def __call__(self, tiles: list[Tile], x: Tensor, y: Tensor) -> Maps:
        """As :meth:`Joints.forward`."""
        carried_width = len(self.split.weight) - self.processed
        made = y.shape[1] if self.transition is None else len(self.transition.weight)
        joined = channels_last(x, made + carried_width)
        processed = channels_last(x, self.processed)
        rest = iter(tiles)
        pointwise([x], self.split, [processed, joined[:, made:]], next(rest))
        if self.transition is None:
            joined[:, :made].copy_(y)
        else:
            pointwise([y], self.transition, [joined[:, :made]], next(rest))
        if self.merge is None:
            return [processed, joined]
        out = channels_last(x, len(self.merge.weight))
        pointwise([joined], self.merge, [out], next(rest))
        return [processed, out]


class KernelReads:
    """:class:`Reads` by the kernel: maps are copied into one buffer once, and layers read prefixes of it."""

    def __init__(self, reads: Reads) -> None:
        self.steps = [folded(near, far) for near, far in zip(reads.near, reads.far, strict=True)]

    def __call__(self, tiles: list[Tile], *maps: Tensor) -> Maps:
        """As :meth:`Reads.forward`."""
        ends = list(accumulate(x.shape[1] for x in maps))
        buffer = channels_last(maps[0], ends[-1])
        found: Maps = []
        for x, end, how, tile in zip(maps, ends, self.steps, tiles, strict=True):
            buffer[:, end - x.shape[1] : end].copy_(x)
            half = len(how.weight) // 2
            new = [channels_last(x, half), channels_last(x, half)]
            pointwise([buffer[:, :end]], how, new, tile)
            found += new
        return found


def work_of(piece: Piece, batch: int = BATCH) -> list[Work]:
    """What the piece has to do: each convolution reads its maps once and writes its own once."""
    kernel = _kernel(piece)
    pixels = batch * piece.shapes[0][1] * piece.shapes[0][2]
    return [
        Work(2 * pixels * how.weight.numel(), BYTES * (pixels * sum(how.weight.shape) + how.weight.numel()))
        for how in kernel.steps
    ]


def _kernel(piece: Piece) -> KernelJoints | KernelReads:
    return KernelReads(piece.module) if isinstance(piece.module, Reads) else KernelJoints(piece.module)  # pyright: ignore[reportArgumentType]


class PieceTimes:
    """A piece on the device in its three forms."""

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.exact = piece.module.cuda().float()
        self.kernel = _kernel(piece)
        for field in ("split", "transition", "merge"):
            if isinstance(self.kernel, KernelJoints) and (how := getattr(self.kernel, field)) is not None:
                setattr(self.kernel, field, how._replace(weight=how.weight.bfloat16()))
        if isinstance(self.kernel, KernelReads):
            self.kernel.steps = [how._replace(weight=how.weight.bfloat16()) for how in self.kernel.steps]
        self.tiles = [TILES[0]] * len(self.kernel.steps)
        to: dict[str, Any] = {"dtype": torch.bfloat16, "memory_format": torch.channels_last}
        fused = fuse(self.exact).to(**to)
        self.eager = fused
        self.compiled = torch.compile(fused, dynamic=False)
        self.maps = piece.inputs(BATCH, "cuda", torch.bfloat16)

    def prepare(self) -> float:
        """Compile everything; returns the kernel's error against float32, relative to its norm."""
        errors = []
        for tile in TILES:
            few = self.piece.inputs(CHECKED, "cuda", torch.bfloat16)
            expected = self.exact(*(x.float() for x in few))
            found = self.kernel([tile] * len(self.tiles), *few)
            for one, other in zip(found, expected, strict=True):
                errors.append((one.float() - other).norm() / other.norm())
        self.compiled(*self.maps)
        return float(torch.stack(errors).max())  # NaN if any is

    def measure(self) -> dict[str, float]:
        """Milliseconds of each form, launches not counted; of each convolution the best tile is taken."""
        times = {
            "eager": replayed_ms(lambda: self.eager(*self.maps)),
            "compiled": replayed_ms(lambda: self.compiled(*self.maps)),
        }
        for place in range(len(self.tiles)):
            tried = {}
            for tile in TILES:
                tiles = [*self.tiles[:place], tile, *self.tiles[place + 1 :]]
                tried[tile] = replayed_ms(lambda tiles=tiles: self.kernel(tiles, *self.maps), 2, 0.02)
            self.tiles[place] = min(tried, key=tried.__getitem__)
        return times | {"kernel": replayed_ms(lambda: self.kernel(self.tiles, *self.maps))}


def work_stages(link: Link, name: str, size: int, until: float) -> None:
    """A process that prepares a network's pieces, and measures them on request."""
    torch.backends.cudnn.allow_tf32 = False  # the comparison is with float32
    prepared: list[tuple[PieceTimes, float]] = []
    with torch.no_grad():
        for piece in pieces_of(name, size):
            if monotonic() > until:
                link.send({"failed": piece.label, "why": "no time was left to compile it"})
                continue
            try:
                measured = PieceTimes(piece)
                prepared.append((measured, measured.prepare()))
            except Exception as error:  # compilers fail in many ways, and the others are measured
                link.send({"failed": piece.label, "why": reason(error)})
        torch.cuda.empty_cache()
        link.send("ready")
        link.recv()
        for measured, error in prepared:
            try:
                times = measured.measure()
            except Exception as failure:
                link.send({"failed": measured.piece.label, "why": reason(failure)})
                continue
            tiles = [list(tile) for tile in measured.tiles]
            link.send({"piece": measured.piece.label, "ms": times, "error": error, "tiles": tiles})
    link.send("done")
    link.recv()
