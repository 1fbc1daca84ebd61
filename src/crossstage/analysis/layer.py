"""One operation of a forward pass, and the measures of its cost that the papers use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Literal

LayerKind = Literal[
    "convolution",
    "linear",
    "matmul",
    "pooling",
    "norm",
    "activation",
    "elementwise",
    "maxout",
    "upsampling",
    "concatenation",
    "other",
]
StoragePrecision = Literal["fp32", "fp16", "int8"]

BYTES: dict[StoragePrecision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
RIDING: tuple[LayerKind, ...] = ("norm", "activation")
"""Kinds that an inference runtime computes along with the layer beside them, so that they move nothing of their own."""


@dataclass(frozen=True)
class Layer:
    """One operation of a forward pass; views, which neither compute nor move anything, are none.

    Attributes:
        name: Dotted name of the innermost module that it runs in; empty for the model's own forward.
        kind: The kind of operation: "linear" multiplies a map by learned weights, "matmul" two maps.
        operator: Name of the ATen operator.
        input_shapes: Shapes of the maps that it reads.
        output_shape: Shape of the map that it writes.
        kernel: Sides of a convolution's or pooling's window in pixels; empty for the rest.
        groups: Number of groups of a convolution; 1 for the rest.
        macs: Number of multiply-adds of convolutions, linear layers and matrix products.
        pooled: Number of values that a pooling's windows see, which Darknet counts as operations.
        parameters: Number of learned values that it reads; a weight that several operations share is in each.
        weights: Number of values of a convolution's or linear layer's kernel, without its bias.
        read: Number of values of its inputs, without learned ones.
        written: Number of values of its output.
        live: Number of values of all maps that are held while it runs: those it reads and writes, and those that a
            later operation or the caller still needs. A map is held once however many operations overwrite it in place
            or see it through views.
        seconds: The time that it took; None if it was not measured.
    """

    name: str
    kind: LayerKind
    operator: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    groups: int = 1
    macs: int = 0
    pooled: int = 0
    parameters: int = 0
    weights: int = 0
    read: int = 0
    written: int = 0
    live: int = 0
    seconds: float | None = None

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-add."""
        return 2 * self.macs

    @property
    def darknet_flops(self) -> int:
        """Operations as Darknet prints them, and so CSPNet's tables: with pooling."""
        return self.flops + self.pooled

    @property
    def has_kernel(self) -> bool:
        """Whether the operation is a convolution or linear layer."""
        return self.kind in ("convolution", "linear")

    @property
    def activations(self) -> int:
        """Values that a convolution or linear layer writes; 0 for the rest."""
        return self.written if self.has_kernel else 0

    @property
    def memory_access(self) -> int:
        r"""Memory access cost (VoVNet, arXiv 1904.09730, equation 1): values read, written, and of the kernel.

        :math:`hw(c_i + c_o) + k^2 c_i c_o / g` for a convolution of stride 1; with a stride, the input's own height and
        width go with :math:`c_i`. 0 for what has no kernel.
        """
        return self.read + self.written + self.weights if self.has_kernel else 0

    @property
    def memory_access_bound(self) -> float:
        r"""The least memory access that any widths with as many multiply-adds B have (VoVNet, section 2.2).

        :math:`2 \sqrt{hwBg / k^2} + B / (hw)`, met where as many values are read as written: for stride 1, at
        equal widths.
        """
        return 2 * sqrt(self.read * self.written) + self.weights if self.has_kernel else 0.0

    @property
    def cio(self) -> int:
        """Convolutional input and output (HarDNet, arXiv 1909.00948): values that a convolution reads and writes."""
        return self.read + self.written if self.kind == "convolution" else 0

    @property
    def moved(self) -> int:
        """Values that it moves when it runs on its own: inputs and learned values once, and its output."""
        return self.read + self.written + max(self.parameters, self.weights)

    @property
    def rate(self) -> float | None:
        """Operations a second; None if it was not timed."""
        return self.flops / self.seconds if self.seconds else None

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second in float32; None if it was not timed."""
        return self.moved * BYTES["fp32"] / self.seconds if self.seconds else None

    def intensity(self, precision: StoragePrecision = "fp32") -> float:
        """Return the arithmetic intensity: operations for each byte that the layer moves."""
        return self.flops / (self.moved * BYTES[precision]) if self.moved else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and what follows from them, for JSON and tables; what was not measured is left out."""
        derived = ("flops", "darknet_flops", "activations", "memory_access", "memory_access_bound", "cio", "moved")
        timed = {"rate": self.rate, "bandwidth": self.bandwidth}
        found = {**asdict(self), **{name: getattr(self, name) for name in derived}, "intensity": self.intensity()}
        return {key: value for key, value in {**found, **timed}.items() if value is not None}
