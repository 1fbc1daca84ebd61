"""What a network does when it is trained and not when it is evaluated.

Branches that run in training alone, such as auxiliary classifiers, are in no graph of evaluation. A pass over shapes
tells which modules read what other modules give.
"""

from __future__ import annotations

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from crossstage.errors import ConfigError, first_line

BATCH = 2  # batch norm refuses to train on a single value

Reads = Mapping[str, frozenset[tuple[str, ...]]]
"""Where the map that a module gives is read, by the module's name: the names of the modules inside each other that run
then, outermost first."""


def reads_in_training(model: nn.Module, example: Tensor) -> Reads:
    """Return who reads what when a network is trained, as far as the pass runs on shapes alone.

    Args:
        model: A network on the meta device, which is left untouched.
        example: A batch that it takes, on the meta device.
    """
    watch = _Watch()
    sketch = copy.deepcopy(model).train()
    for path, module in sketch.named_modules():
        module.register_forward_pre_hook(watch.entering(path))
        module.register_forward_hook(watch.leaving(path))
    try:
        with warnings.catch_warnings(), torch.no_grad(), watch:
            warnings.simplefilter("ignore")
            watch.read(sketch(_batch(example)))
    except Exception:  # whatever the network's own code raises: what was seen until then counts
        pass
    return {path: frozenset(readers) for path, readers in watch.readers.items()}


class _Watch(TorchFunctionMode):
    """Records in which module each map is read."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        self._givers: dict[int, set[str]] = defaultdict(set)
        self._alive: list[Tensor] = []  # as ids of tensors that are gone are given again
        self._inside: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # not a question for the shape
            self.read((args, kwargs))
        return result

    def read(self, values: object) -> None:
        """Record that the modules that run read values."""
        for leaf in tree_leaves(values):
            for giver in self._givers.get(id(leaf), ()):
                self.readers[giver].add(tuple(self._inside))

    def entering(self, path: str) -> Callable[..., None]:
        """Return a hook that runs before a module."""

        def enter(*_: object) -> None:
            self._inside.append(path)

        return enter

    def leaving(self, path: str) -> Callable[..., None]:
        """Return a hook that runs after a module."""

        def leave(_module: nn.Module, _given: object, result: object) -> None:
            self._inside.pop()
            for leaf in tree_leaves(result):
                if isinstance(leaf, Tensor):  # one that is handed through is given by the last module
                    inside = {name for name in self._givers[id(leaf)] if not path or name.startswith(f"{path}.")}
                    self._givers[id(leaf)] = inside | {path}
                    self._alive.append(leaf)

        return leave


def check_training(model: nn.Module, converted: nn.Module, example: Tensor) -> None:
    """See that a converted network can be trained as the plain one can.

    A network that does not train on images alone, such as one that reads its targets, is not looked at.

    Raises:
        ConfigError: It cannot, or gives something of another shape.
    """
    name = type(model).__name__
    try:
        before = _pass(model, example)
    except Exception:  # whatever the network's own code raises
        return
    try:
        after = _pass(converted, example)
    except Exception as error:  # the same
        raise ConfigError(
            f"{name} cannot be trained with partial stages: {first_line(error)}; expected stages= without those"
        ) from error
    if after != before:
        raise ConfigError(f"{name} gives {after} in training with partial stages; expected {before}, as before")


def _pass(model: nn.Module, example: Tensor) -> list[tuple[int, ...]]:
    """Go forth and back through a network on shapes alone; return those of its outputs."""
    sketch = copy.deepcopy(model).to("meta").train()
    for parameter in sketch.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = [leaf for leaf in tree_leaves(sketch(_batch(example))) if isinstance(leaf, Tensor)]
        learned = [output.float().sum() for output in outputs if output.requires_grad]
        torch.stack(learned).sum().backward()
    return [tuple(output.shape) for output in outputs]


def _batch(example: Tensor) -> Tensor:
    return torch.empty(max(BATCH, len(example)), *example.shape[1:], dtype=example.dtype, device="meta")
