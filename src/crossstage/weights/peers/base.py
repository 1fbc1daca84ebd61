"""What a peer is: another library, and a network of it whose tensors have a place in one of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from crossstage.structures import Preprocessing

State = Mapping[str, Tensor]
"""Tensors by name."""

Adapter = Callable[[State, str], dict[str, Tensor]]
"""Gives a peer's tensors the names, and where needed the order, of ours; the second argument names them in errors."""


def linear_rows(state: State) -> int:
    """Return the number of classes of a classifier, the rows of its linear layer; 0 if it has none."""
    return len(state["fc.weight"]) if "fc.weight" in state else 0


@dataclass(frozen=True)
class Twin:
    """The network of ours that is the same as a peer's.

    Attributes:
        model: Name of our network.
        adapt: Turns the peer's tensors into ours.
        settings: Fields of our network's row that the peer's network has otherwise.
        count_classes: Reads the number of classes off the adapted tensors.
        class_names: Names by class id of the peer's own weights; for tensors of as many classes.
        preprocessing: How the peer's network wants its images, where its weights do not say; None takes our network's.
        released: What the library does with its own weights that their tensors do not show, done to the tensors.
    """

    model: str
    adapt: Adapter
    settings: Mapping[str, Any] = field(default_factory=dict)
    count_classes: Callable[[State], int] = linear_rows
    class_names: Sequence[str] = ()
    preprocessing: Preprocessing | None = None
    released: Callable[[State], State] | None = None


@dataclass(frozen=True)
class Library:
    """Another library of networks.

    Attributes:
        fetch: Fetches trained tensors by the network's name and the weights' tag, empty for the library's default, and
            says how the network wants its images; raises a ``ConfigError`` for an unknown tag, ``OSError`` or
            ``RuntimeError`` if they cannot be fetched.
        build: Builds the library's own network by name and tag, at random, and gives the shape of its input (channels,
            height, width); raises a ``ConfigError`` for an unknown name.
        networks: Lists the names of its networks; raises a ``ConfigError`` if the library is not installed.
        imports: The line of Python that imports it.
        expression: Python that builds the network ``{name}`` at random.
    """

    fetch: Callable[[str, str], tuple[State, Preprocessing | None]]
    build: Callable[[str, str], tuple[nn.Module, tuple[int, int, int]]]
    networks: Callable[[], Sequence[str]]
    imports: str
    expression: str
