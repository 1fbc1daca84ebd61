"""How channels flow through a stage: which channels of which weights are the same ones.

The operations are those that torch.export leaves: a few dozen kinds, whatever library a network comes from.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.fx import Node

from crossstage.csp.parts import Axis, ChannelsError, Parts
from crossstage.csp.trace import Subgraph, Trace, module_paths, shape_of
from crossstage.errors import ConfigError, first_line

Axes = tuple[Axis | None, ...]
"""The channels along each dimension of a tensor; None where there are none to narrow."""


@dataclass(frozen=True)
class Use:
    """An operation that is given numbers of channels.

    Attributes:
        node: The operation.
        sizes: The numbers.
        axes: The channels that each counts; None where it counts something else.
    """

    node: Node
    sizes: tuple[int, ...]
    axes: tuple[Axis | None, ...]


class Flow:
    """The channels of a stage.

    Args:
        trace: The network that was traced.
        region: The operations of the stage.
        rules: What each operation does to channels, by its name in torch, see :mod:`crossstage.csp.rules`.

    Attributes:
        parts: The parts that all axes consist of.
        source: Channels of the input.
        result: Channels of the output.
        weights: Channels of the parameters and buffers, by their names in the state dict.
        norms: Channels of the norms, by the names of their modules.
        uses: The numbers of channels that operations are given, whoever holds them.

    Raises:
        ConfigError: An operation is not understood, so the stage cannot be narrowed.
    """

    def __init__(self, trace: Trace, region: Subgraph, rules: Mapping[str, Callable[..., Any]]) -> None:
        self.parts = Parts()
        self._rules = rules
        self.source = self.parts.new(region.in_shape[1])
        self.norms: dict[str, Axis] = {}
        self.uses: list[Use] = []
        self._names = trace.names
        self._axes: dict[Node, Any] = {region.source: (None, self.source, None, None)}
        for node in region.nodes:
            try:
                self._axes[node] = self._pass(node)
            except ChannelsError as error:
                raise _refusal(node, str(error)) from None
            except (LookupError, TypeError) as error:
                raise _refusal(
                    node, f"it works on {shape_of(node)} in a way not foreseen ({first_line(error)})"
                ) from None
        result = self._axes[region.result][1]
        if result is None:
            raise _refusal(region.result, "its output's channels do not come from a layer that can be narrowed")
        self.result: Axis = result
        self.weights: dict[str, Axes] = {
            trace.names[node]: axes for node, axes in self._axes.items() if node in trace.names
        }

    def _pass(self, node: Node) -> Any:
        if node.target is operator.getitem:
            value, index = node.args
            return self._axes[cast(Node, value)][index]
        name = str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.")
        rule = self._rules.get(name) or self._rules.get(name.removesuffix("_"))
        if rule:
            return rule(self, node, *node.args, **node.kwargs)
        if torch.Tag.pointwise in getattr(node.target, "tags", ()):
            return self.pointwise(node)
        raise ChannelsError(f"{name} is not an operation whose channels are known")

    def of(self, node: Node) -> Axes:
        """Return the channels along each dimension of a tensor."""
        if node in self._names and node not in self._axes:  # a weight that is met outside a layer
            self._axes[node] = tuple(self.parts.new(size) if size > 1 else None for size in shape_of(node))
        return self._axes[node]

    def channels(self, node: Node, dim: int) -> Axis:
        """Return the channels along one dimension; ones that cannot be narrowed if nothing is known of them."""
        axis = self.of(node)[dim]
        if axis is None:
            axis = self.parts.new(shape_of(node)[dim])
            self.parts.keep_whole(axis)
        return axis

    def set_weight(self, node: Node | None, *axes: Axis | None) -> None:
        """Record what the dimensions of a weight are; those not named have no channels."""
        if node is None:
            return
        given = (*axes, *[None] * (len(shape_of(node)) - len(axes)))
        for axis, known in zip(given, self._axes.get(node, given), strict=True):
            if axis is not None and known is not None:
                self.parts.unite(axis, known)
        self._axes[node] = given

    def set_norm(self, node: Node, axis: Axis, *tensors: Node | None) -> None:
        """Record which channels a norm works on, and hence what its weights are."""
        self.norms[module_paths(node)[-1].partition("@")[0]] = axis
        for tensor in tensors:
            self.set_weight(tensor, axis)

    def pointwise(self, node: Node) -> Axes:
        """Return the channels of a sum, product or activation: channels that meet are the same."""
        shape = shape_of(node)
        made: list[Axis | None] = [None] * len(shape)
        for operand in node.all_input_nodes:
            sizes, axes = shape_of(operand), self.of(operand)
            for dim in range(-len(sizes), 0):
                axis, known = axes[dim], made[dim]
                if sizes[dim] != shape[dim] or axis is None:
                    continue
                if known is not None:
                    self.parts.unite(known, axis)
                made[dim] = axis
        for operand in node.all_input_nodes:  # what meets a dimension without channels cannot be narrowed
            sizes, axes = shape_of(operand), self.of(operand)
            for dim in range(-len(sizes), 0):
                if made[dim] is not None and axes[dim] is None and sizes[dim] == shape[dim]:
                    self.parts.keep_whole(cast(Axis, made[dim]))
        return tuple(made)


def _refusal(node: Node, why: str) -> ConfigError:
    stack = node.meta.get("nn_module_stack", {})
    path = next(reversed(module_paths(node)), "")
    kind = next(reversed([kind for _, kind in stack.values()]), nn.Module)
    name = kind if isinstance(kind, str) else kind.__name__
    return ConfigError(f"{path or 'the network'} ({name.rpartition('.')[2]}): {why}")
