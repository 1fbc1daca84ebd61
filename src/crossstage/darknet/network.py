"""A network built from a Darknet cfg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from crossstage.darknet.cfg import Section, read_cfg
from crossstage.darknet.heads import BoxOutput
from crossstage.darknet.kinds import KINDS
from crossstage.darknet.layers import StoredLayer
from crossstage.darknet.plan import FeatureShape, PlannedLayer, plan_network
from crossstage.darknet.weights import Slot, WeightsHeader
from crossstage.errors import ConfigError

_PASSIVE = ("cost", "dropout", "contrastive", "empty")
_FIXED_SIZE = ("connected", "local", "detection", "crop")


@dataclass(frozen=True)
class LayerRow:
    """One line of :meth:`DarknetNetwork.table`.

    Attributes:
        index: Position after ``[net]``, from 0.
        kind: The section's name.
        output_shape: Channels, height and width at the cfg's own input size.
        parameters: Number of learned values; running statistics of batch norm are not counted.
        bflops: Billions of operations in Darknet's counting: convolutions two for each multiply-add, pools the window's
            size for each output, shortcuts one for each addition, nothing else.
    """

    index: int
    kind: str
    output_shape: FeatureShape
    parameters: int
    bflops: float


class DarknetNetwork(nn.Module):
    """A feed-forward network read from a Darknet cfg; see :func:`crossstage.darknet.load`.

    Shape: ``(N, C, H, W)`` RGB in [0, 1] to a list of raw tensors, see :meth:`forward`. Fully convolutional networks
    take other sizes than the cfg's as long as the layers they join still meet.

    Args:
        sections: The sections that :func:`crossstage.darknet.cfg.read_cfg` returned. Memory is taken as soon as the
            shapes are known to fit; under ``torch.device("meta")`` none is.

    Attributes:
        input_shape: Channels, height and width that the cfg states.
        layers: The plan, one entry for each section.
        header: Version and images seen, of the weights file if one was read.

    Raises:
        ConfigError: The network cannot be planned, see :func:`crossstage.darknet.plan.plan_network`.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        super().__init__()
        shape, self.layers = plan_network(sections, KINDS)
        self.input_shape: FeatureShape = shape
        self.letter_box: bool = sections[0].flag("letter_box")
        self.header = WeightsHeader()
        built: list[nn.Module] = []
        for layer in self.layers:
            built.append(layer.build(built))
        self.stack = nn.ModuleList(built)
        self.outputs = _output_indices(self.layers)
        self._last_use = {source: layer.index for layer in self.layers for source in layer.sources}
        self._fixed_size = any(layer.kind in _FIXED_SIZE for layer in self.layers)

    @classmethod
    def from_cfg(cls, path: str | Path) -> DarknetNetwork:
        """Read a cfg and build its network.

        Raises:
            ConfigError: The cfg cannot be read, or its network cannot be built.
        """
        return cls(read_cfg(path))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the raw tensor that enters each output layer, in file order.

        For ``[yolo]`` that is the convolution before it, ``(N, A * (5 + classes), H, W)``; for a classifier the input
        of the softmax, ``(N, classes, 1, 1)``; for a network without an output layer, what leaves its last layer.

        Raises:
            ConfigError: The input has the wrong channels, or a size at which the network's layers do not meet.
        """
        self._check_input(x)
        maps: dict[int, Tensor] = {-1: x}
        raw: list[Tensor] = []
        for layer, module in zip(self.layers, self.stack, strict=True):
            inputs = [maps[source] for source in layer.sources]
            if layer.index in self.outputs:
                raw.append(inputs[0])
            try:
                maps[layer.index] = module(*inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                sizes = " and ".join(str(tuple(map_.shape)) for map_ in inputs)
                raise ConfigError(
                    f"{layer.place} cannot take {sizes} for an input of {tuple(x.shape)}: {error}"
                ) from error
            for source in layer.sources:
                if self._last_use[source] == layer.index:
                    maps.pop(source, None)
        return raw or [maps[self.layers[-1].index]]

    def detections(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return decoded boxes and scores of every box output, in file order, before any filtering.

        Args:
            x: A batch of images, ``(N, C, H, W)`` RGB in [0, 1].

        Returns:
            Boxes ``(N, K, 4)`` as xyxy in pixels of ``x``, and scores ``(N, K, classes)``, objectness times class, in
            [0, 1]. Of each output layer anchors are outermost, then rows, then columns.

        Raises:
            ConfigError: The network has no box output.
        """
        return self.decode(self(x), (x.shape[2], x.shape[3]))

    def decode(self, raw: Sequence[Tensor], input_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Turn raw tensors into boxes and scores; see :meth:`detections`.

        Args:
            raw: What :meth:`forward` returned.
            input_size: Height and width of the input in pixels.

        Raises:
            ConfigError: The network has no box output, or its outputs have different classes.
        """
        heads = [(head, raw[position]) for position, head in enumerate(self._heads()) if isinstance(head, BoxOutput)]
        if not heads:
            raise ConfigError("the network has no [yolo], [region] or other box layer; use forward() for a classifier")
        boxes, scores = zip(*(head.decode(tensor, input_size) for head, tensor in heads), strict=True)
        if len({part.shape[2] for part in scores}) > 1:
            raise ConfigError(
                f"the output layers have {[part.shape[2] for part in scores]} classes; expected as many each"
            )
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)

    @property
    def num_classes(self) -> int:
        """Classes of the box outputs.

        Raises:
            ConfigError: The network has none.
        """
        with torch.device("meta"), torch.no_grad():
            raw = [torch.empty(1, *self.layers[index].shape) for index in self.outputs]
            return self.decode(raw, (self.input_shape.height, self.input_shape.width))[1].shape[2]

    @property
    def max_stride(self) -> int:
        """The number that heights and widths of the input should be multiples of, in pixels."""
        return max((self.input_shape.height // self.layers[index].shape.height for index in self.outputs), default=1)

    def input_size_of(self, raw: Sequence[Tensor]) -> tuple[int, int]:
        """Return height and width of the input that gave these raw tensors, from their size and the cfg's own."""
        planned, (_, height, width) = self.layers[self.outputs[0]].shape, self.input_shape
        return raw[0].shape[2] * height // planned.height, raw[0].shape[3] * width // planned.width

    def table(self) -> list[LayerRow]:
        """Return one row for each layer; see :class:`LayerRow` for the counting."""
        return [
            LayerRow(layer.index, layer.kind, layer.shape, layer.parameters, layer.operations / 1e9)
            for layer in self.layers
        ]

    def slots(self) -> list[Slot]:
        """Return what a ``.weights`` file keeps of this network, in file order."""
        slots: list[Slot] = []
        for layer, module in zip(self.layers, self.stack, strict=True):
            if isinstance(module, StoredLayer) and (tensors := module.file_tensors()):
                slots.append(Slot(layer.place, tensors))
        return slots

    def _heads(self) -> list[nn.Module]:
        return [self.stack[index] for index in self.outputs]

    def _check_input(self, x: Tensor) -> None:
        channels, height, width = self.input_shape
        if x.dim() != 4 or x.shape[1] != channels:
            raise ConfigError(f"input of shape {tuple(x.shape)}; expected (N, {channels}, H, W)")
        if self._fixed_size and x.shape[2:] != (height, width):
            raise ConfigError(
                f"input of {x.shape[2]} x {x.shape[3]} pixels; this network has layers of fixed size and takes "
                f"{height} x {width}"
            )


def _output_indices(layers: Sequence[PlannedLayer]) -> tuple[int, ...]:
    """Return the indices of output layers, but for a softmax whose result another layer goes on with."""
    read = {source for layer in layers if layer.kind not in _PASSIVE for source in layer.sources}
    return tuple(
        layer.index for layer in layers if layer.is_output and not (layer.kind == "softmax" and layer.index in read)
    )
