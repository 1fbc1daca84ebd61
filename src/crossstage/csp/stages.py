"""Where a network's stages are: blocks of one kind in a row, at one resolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import Node

from crossstage.csp.trace import Subgraph, Trace, shape_of

_LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding, torch.ops.aten.linear.default)
MIN_LAYERS = 2  # of a block


@dataclass(frozen=True)
class FoundStage:
    """Blocks in a row.

    Attributes:
        parent: Dotted name of the module that holds the blocks.
        children: Names of the blocks in it.
        block: Name of the blocks' class, for people.
        region: The operations of all blocks.
        first: The operations of the first block.
        whole: Whether the blocks are all that a ``Sequential`` holds.
    """

    parent: str
    children: tuple[str, ...]
    block: str
    region: Subgraph
    first: Subgraph
    whole: bool

    @property
    def name(self) -> str:
        """The parent's if it holds nothing else, or the children's."""
        if self.whole:
            return self.parent
        first, *_, last = (*self.children[:1], *self.children[-1:])
        return joined(self.parent, first) + (f"..{last}" if last != first else "")

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the blocks in the network."""
        return tuple(joined(self.parent, child) for child in self.children)


@dataclass(frozen=True)
class _Block:
    child: str
    region: Subgraph
    kind: Hashable


def find_stages(trace: Trace) -> list[FoundStage]:
    """Find the stages of a network, in the order in which they run.

    A block is a module that reads one feature map, gives one, and holds at least two convolutions or linear layers at
    the resolution of its output. A stage is a row of blocks of one kind, each reading what the one before gives and
    nothing else reads; a block that changes the resolution begins a stage. A block that stands alone makes a stage if
    its kind is found elsewhere too and it keeps the resolution. Of stages inside each other the outermost of several
    blocks counts, else the outermost.

    A network without any is looked through again for single layers in a row.
    """
    blocks = _all_blocks(trace)
    kinds = Counter(block.kind for found in blocks.values() for block in found)
    stages = list(_stages_below(trace, blocks, kinds, "", trace.model)) or list(_plain_stages(trace, "", trace.model))
    order = {node: number for number, node in enumerate(trace.nodes)}
    return sorted(stages, key=lambda stage: order[stage.region.nodes[0]])


def joined(parent: str, child: str) -> str:
    """Return the dotted name of a child."""
    return f"{parent}.{child}" if parent else child


def _all_blocks(trace: Trace) -> dict[str, list[_Block]]:
    """Return the blocks by the name of their parent. A ``Sequential`` of blocks is none itself."""
    found: dict[str, list[_Block]] = {}
    for path, module in reversed(list(trace.model.named_modules(remove_duplicate=False))):  # children before parents
        found[path] = [
            _Block(name, region, _kind(child))
            for name, child in module.named_children()
            if (region := trace.region([joined(path, name)]))
            and _layers(region) >= MIN_LAYERS
            and not (type(child) is nn.Sequential and found[joined(path, name)])
        ]
    return found


def _stages_below(
    trace: Trace, blocks: dict[str, list[_Block]], kinds: Counter[Hashable], path: str, module: nn.Module
) -> Iterator[FoundStage]:
    taken: set[str] = set()
    for row in _rows(trace, path, blocks[path]):
        if len(row) > 1:
            yield _stage(trace, path, module, row)
            taken |= {block.child for block in row}
    single = {block.child: block for block in blocks[path]}
    for name, child in module.named_children():
        if name in taken:
            continue
        inner = list(_stages_below(trace, blocks, kinds, joined(path, name), child))
        block = single.get(name)
        stands = block and kinds[block.kind] > 1 and not block.region.strided
        if block and stands and all(len(stage.children) == 1 for stage in inner):
            yield _stage(trace, path, module, [block])
        else:
            yield from inner


def _rows(trace: Trace, path: str, blocks: Sequence[_Block]) -> list[list[_Block]]:
    """Return rows of blocks of one kind that follow each other, cut where the resolution changes."""
    rows: list[list[_Block]] = []
    for block in blocks:
        before = rows[-1][-1] if rows else None
        if before and before.kind == block.kind and not block.region.strided and _follows(trace, path, block, before):
            rows[-1].append(block)
        else:
            rows.append([block])
    return rows


def _follows(trace: Trace, path: str, block: _Block, before: _Block) -> bool:
    """Tell whether a block alone reads what the one before gives, in training as well."""
    name = joined(path, block.child)
    read_in = trace.reads.get(joined(path, before.child), frozenset())
    return (
        block.region.source is before.region.result
        and set(block.region.nodes).issuperset(before.region.result.users)
        and all(name in running for running in read_in)
    )


def _stage(trace: Trace, path: str, module: nn.Module, row: Sequence[_Block]) -> FoundStage:
    children = tuple(block.child for block in row)
    region = trace.region(joined(path, child) for child in children)
    assert region
    kind = type(module.get_submodule(children[0])).__name__.lstrip("_")
    whole = bool(path) and runs_in_order(module) and children == tuple(name for name, _ in module.named_children())
    return FoundStage(path, children, kind, region, row[0].region, whole)


def runs_in_order(module: nn.Module) -> bool:
    """Tell whether a module is a ``Sequential`` that calls its children one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _plain_stages(trace: Trace, path: str, module: nn.Module) -> Iterator[FoundStage]:
    """Yield rows of single layers in a ``Sequential``, such as VGG's, from the first that reads a feature map."""
    rows: list[list[_Block]] = [[]]
    for name, child in module.named_children():
        inner = list(_plain_stages(trace, joined(path, name), child))
        yield from inner
        region = trace.region([joined(path, name)])
        if inner or region is None or not runs_in_order(module):
            rows.append([])
        elif rows[-1] and not region.strided and _follows(trace, path, _Block(name, region, None), rows[-1][-1]):
            rows[-1].append(_Block(name, region, None))
        else:
            begins = _layers(region) and region.source not in trace.inputs
            rows.append([_Block(name, region, None)] if begins else [])
    for row in rows:
        if row and _layers(stage := _stage(trace, path, module, row)) >= MIN_LAYERS:
            yield stage


def _layers(found: Subgraph | FoundStage) -> int:
    """Count convolutions and linear layers at the resolution of the output."""
    region = found.region if isinstance(found, FoundStage) else found
    places = region.out_shape[2] * region.out_shape[3]
    return sum(node.target in _LAYERS and _places(node) == places for node in region.nodes)


def _places(node: Node) -> int:
    """Count the positions of a map: pixels of (N, C, H, W) after a convolution, of (N, ..., C) after a linear layer."""
    shape = shape_of(node)
    inner = shape[1:-1] if node.target is torch.ops.aten.linear.default else shape[2:]
    result = 1
    for size in inner:
        result *= size
    return result


def _kind(module: nn.Module) -> Hashable:
    """Return what alike blocks share: their class, or for a ``Sequential`` the kinds of its children."""
    if type(module) is nn.Sequential:
        return tuple(_kind(child) for child in module)
    return type(module)
