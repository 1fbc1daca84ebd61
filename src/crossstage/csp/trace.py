"""A network as a graph of tensor operations, in which every operation knows the module it belongs to."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Node

from crossstage.analysis import count_flops
from crossstage.csp.training import Reads, reads_in_training
from crossstage.errors import ConfigError, first_line


@dataclass(frozen=True)
class Subgraph:
    """The operations of a module that reads one feature map and gives one.

    Attributes:
        nodes: The operations, in the order in which they run.
        source: The node that the input comes from.
        result: The node whose value is the output.
    """

    nodes: tuple[Node, ...]
    source: Node
    result: Node

    @property
    def in_shape(self) -> tuple[int, ...]:
        """``(N, C, H, W)`` of the input."""
        return shape_of(self.source)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """``(N, C, H, W)`` of the output."""
        return shape_of(self.result)

    @property
    def strided(self) -> bool:
        """Whether the output is of another height or width."""
        return self.in_shape[2:] != self.out_shape[2:]


class Trace:
    """What a network computes.

    Args:
        model: The network.
        example: A batch that the network takes; its floating point type becomes that of the network's weights.

    Attributes:
        model: A copy of the network on the meta device, in evaluation mode.
        example: The batch that it was traced on.
        reads: Which modules read what each module gives when the network is trained, which may be more than in the
            graph, as that is of evaluation.
        nodes: All operations, in the order in which they run.
        names: Name in the state dict of each node that stands for a parameter or buffer.
        inputs: The nodes that stand for what the network is given.

    Raises:
        ConfigError: The network does not run on the example, or torch.export cannot follow it.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.example = example = _as_weights(model, example)
        self.model = copy.deepcopy(model).to("meta").eval()
        meta = torch.empty_like(example, device="meta")
        try:
            with _quiet():
                program = torch.export.export(self.model, (meta,), strict=False)
        except Exception as error:  # whatever the network's own code raises
            raise ConfigError(
                f"{type(model).__name__} cannot be traced on an input of {tuple(example.shape)}: "
                f"{first_line(error)}; expected a network that torch.export can follow, and its input as example_input"
            ) from error
        signature = program.graph_signature
        tensors = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        self.reads: Reads = reads_in_training(self.model, meta)
        self.nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        self.names = {node: tensors[node.name] for node in program.graph.nodes if node.name in tensors}
        self.inputs = {node for node in program.graph.nodes if node.op == "placeholder"} - self.names.keys()
        self._members: Mapping[str, list[Node]] = defaultdict(list)
        self._flops: dict[tuple[str, ...], int] = {}
        for node in self.nodes:
            for path in module_paths(node):
                self._members[path].append(node)

    def region(self, paths: Iterable[str]) -> Subgraph | None:
        """Return what the modules of these names compute together.

        It is None if they read or give more than one feature map, or share their weights with others.
        """
        nodes = tuple(node for path in paths for node in self._members.get(path, ()))
        inside = set(nodes)
        read = {node for member in nodes for node in member.all_input_nodes} - inside
        weights = read & self.names.keys()
        sources = read - weights
        results = [node for node in nodes if not inside.issuperset(node.users)]
        if len(sources) != 1 or len(results) != 1 or any(not inside.issuperset(node.users) for node in weights):
            return None
        made = Subgraph(nodes, sources.pop(), results[0])
        return made if len(made.in_shape) == 4 and len(made.out_shape) == 4 else None

    def flops(self, paths: tuple[str, ...], input_shape: Sequence[int]) -> int:
        """Count the operations of modules that run in a row, once however many plans ask.

        Args:
            paths: Names of the modules, in the order in which they run.
            input_shape: Shape of what the first reads, ``(N, C, H, W)``.
        """
        if paths not in self._flops:
            row = nn.Sequential(*(self.model.get_submodule(path) for path in paths))
            self._flops[paths] = count_flops(row, input_shape)
        return self._flops[paths]


def _as_weights(model: nn.Module, example: Tensor) -> Tensor:
    """Return a batch of the floating point type that a network's weights have."""
    types = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return example.to(next(types, example.dtype)) if example.is_floating_point() else example


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch.export says while it fails to itself; its error says it again."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def module_paths(node: Node) -> list[str]:
    """Return names of the modules that an operation runs in, outermost first; a second call's ends in ``@1``."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's tensor; empty if its value is none."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def is_written(value: Node, nodes: Iterable[Node]) -> bool:
    """Tell whether some of these operations, in the order in which they run, write into a tensor or a view of it."""
    views = {value}
    for node in nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None:  # a piece of what gives several
            views |= {node} if views.intersection(node.all_input_nodes) else set()
            continue
        for argument, given in zip(schema.arguments, node.args, strict=False):
            if given in views and argument.alias_info:
                if argument.alias_info.is_write:
                    return True
                views.add(node)
    return False
