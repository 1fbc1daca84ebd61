"""From a cfg's sections to a plan: every layer's inputs, shape, size and cost, worked out before memory is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from crossstage.darknet.cfg import Section

MAX_PARAMETERS = 1 << 29  # 2 GiB of float32; the largest published network, YOLOv1, has half of that
MAX_ELEMENTS = 1 << 31  # values in one feature map


class FeatureShape(NamedTuple):
    """A feature map without its batch dimension."""

    channels: int
    height: int
    width: int

    @property
    def elements(self) -> int:
        """Values in the map."""
        return self.channels * self.height * self.width

    def __str__(self) -> str:
        return f"{self.channels} x {self.height} x {self.width}"


@dataclass(frozen=True)
class PlannedLayer:
    """One planned layer.

    Attributes:
        index: Position after ``[net]``, from 0.
        section: The section of the cfg that describes it.
        sources: Indices of the layers it reads; -1 is the network's input.
        shape: FeatureShape of its output at the cfg's own input size.
        build: Function that makes the module from those of the layers before it.
        parameters: Number of learned values, running statistics of batch norm excluded.
        operations: Number of floating-point operations in Darknet's counting.
        is_output: Whether its input is an output of the network.
    """

    index: int
    section: Section
    sources: tuple[int, ...]
    shape: FeatureShape
    build: Callable[[Sequence[nn.Module]], nn.Module]
    parameters: int = 0
    operations: int = 0
    is_output: bool = False

    @property
    def kind(self) -> str:
        """The section's name."""
        return self.section.kind

    @property
    def place(self) -> str:
        """How messages name the layer."""
        return f"layer {self.index} [{self.kind}] (line {self.section.line})"


@dataclass
class Scope:
    """What the planning of one layer may look at: its section and the layers before it."""

    section: Section
    layers: list[PlannedLayer]
    net_shape: FeatureShape

    @property
    def index(self) -> int:
        """Index of the layer being planned."""
        return len(self.layers)

    @property
    def previous(self) -> int:
        """Index of the layer just before; -1 for the network's input."""
        return self.index - 1

    @property
    def shape(self) -> FeatureShape:
        """Output shape of the layer just before."""
        return self.shape_of(self.previous)

    def shape_of(self, index: int) -> FeatureShape:
        """Return the output shape of an earlier layer, or of the network's input for -1."""
        return self.layers[index].shape if index >= 0 else self.net_shape

    def references(self, key: str) -> tuple[int, ...]:
        """Return the earlier layers that an option names: negative numbers count back from here, others from the start.

        Raises:
            ConfigError: The option is missing, or it names this layer, a later one, or one before the first.
        """
        found = self.section.integers(key)
        if not found:
            raise self.section.error(f"{key}= is missing; expected the layers to read")
        resolved = tuple(value + self.index if value < 0 else value for value in found)
        for value, index in zip(found, resolved, strict=True):
            if not 0 <= index < self.index:
                where = (
                    "itself" if index == self.index else "a later layer" if index > 0 else "a layer before the first"
                )
                raise self.section.error(
                    f"{key}={value} in layer {self.index} refers to {where}; expected an earlier layer, "
                    f"0 to {self.index - 1} or -1 to {-self.index}",
                    key,
                )
        return resolved

    def layer(
        self,
        shape: FeatureShape,
        build: Callable[[Sequence[nn.Module]], nn.Module],
        *,
        sources: tuple[int, ...] | None = None,
        parameters: int = 0,
        operations: int = 0,
        is_output: bool = False,
    ) -> PlannedLayer:
        """Plan the layer; by default it reads the one just before.

        Raises:
            ConfigError: Its output is empty or larger than anything sensible.
        """
        if min(shape) < 1:
            raise self.section.error(f"the output of layer {self.index} would be {shape}; its input is {self.shape}")
        if shape.elements > MAX_ELEMENTS:
            raise self.section.error(
                f"the output of layer {self.index} would be {shape}; more than {MAX_ELEMENTS:,} values"
            )
        if sources is None:
            sources = (self.previous,)
        return PlannedLayer(self.index, self.section, sources, shape, build, parameters, operations, is_output)


def plan_network(
    sections: Sequence[Section], kinds: dict[str, Callable[[Scope], PlannedLayer]]
) -> tuple[FeatureShape, list[PlannedLayer]]:
    """Plan every layer of a network.

    Args:
        sections: The sections of the cfg, ``[net]`` first, see :func:`crossstage.darknet.cfg.read_cfg`.
        kinds: Functions that plan a layer, by section name.

    Returns:
        The network's input shape and its layers.

    Raises:
        ConfigError: A section is unknown or unsupported, an option is out of range, shapes do not fit, or the network
            is too large.
    """
    net_shape = _net_shape(sections[0])
    layers: list[PlannedLayer] = []
    parameters = 0
    for section in sections[1:]:
        plan = kinds.get(section.kind)
        if plan is None:
            raise section.error(f"is not a layer this reader knows; expected one of {', '.join(sorted(kinds))}")
        layer = plan(Scope(section, layers, net_shape))
        parameters += layer.parameters
        if parameters > MAX_PARAMETERS:
            raise section.error(
                f"layer {layer.index} has {layer.parameters:,} parameters and brings the network to {parameters:,}; "
                f"the limit is {MAX_PARAMETERS:,}"
            )
        layers.append(layer)
    return net_shape, layers


def _net_shape(net: Section) -> FeatureShape:
    width, height = net.integer("width", 0, low=0), net.integer("height", 0, low=0)
    channels = net.integer("channels", 0, low=0)
    if not (width or height or channels):
        inputs = net.integer("inputs", 0, low=0)
        shape = FeatureShape(inputs, 1, 1)
    else:
        shape = FeatureShape(channels, height, width)
    if min(shape) < 1:
        raise net.error(f"width={width} height={height} channels={channels}; expected positive sizes")
    if shape.elements > MAX_ELEMENTS:
        raise net.error(f"the input would be {shape}; more than {MAX_ELEMENTS:,} values")
    return shape
