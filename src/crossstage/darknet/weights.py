"""Darknet's ``.weights`` files: what a file holds of a network, reading it and writing it.

A file is a header (three int32: major, minor, revision; then the images seen, uint64 from version 0.2 on, uint32
before) and little-endian float32 values of each layer with parameters, in file order, without names or shapes. So the
network decides what the numbers mean, and only the length of the file tells whether it fits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from crossstage.darknet.layers import conv_file_tensors
from crossstage.errors import ConfigError, WeightsError
from crossstage.files import whole_file
from crossstage.nn import ConvNormAct
from crossstage.nn.conv import FrozenBatchNorm

_FLOAT = np.dtype("<f4")
_HIGHEST_VERSION = 10_000  # junk read as a header has numbers far beyond


class WeightsHeader(NamedTuple):
    """The head of a ``.weights`` file."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    images_seen: int = 0

    @property
    def long_count(self) -> bool:
        """Whether the images seen are a uint64; a uint32 in the oldest files."""
        return self.major * 10 + self.minor >= 2

    @property
    def size(self) -> int:
        """Bytes of the header."""
        return 20 if self.long_count else 16

    @property
    def transposed(self) -> bool:
        """Whether the weights of connected layers are stored input-major, as in Darknet's first years."""
        return self.major > 1000 or self.minor > 1000


@dataclass(frozen=True)
class Slot:
    """The tensors of one layer in file order.

    Attributes:
        name: The layer's name, for messages.
        tensors: The tensors that the file keeps of it.
    """

    name: str
    tensors: Sequence[Tensor]

    @property
    def count(self) -> int:
        """Values in the file."""
        return sum(tensor.numel() for tensor in self.tensors)


@dataclass(frozen=True)
class WeightsReport:
    """How a file fits a network.

    Attributes:
        path: Name of the file.
        header: The head of the file.
        filled: Names of the layers that the file fills, in file order.
        missing: Names of the layers that it ends before.
        cut: The first missing layer when the file ends inside it, else None.
        surplus: Number of bytes after the last layer.
    """

    path: str
    header: WeightsHeader
    filled: tuple[str, ...]
    missing: tuple[str, ...]
    cut: str | None
    surplus: int

    @property
    def exact(self) -> bool:
        """Whether the file fills every layer and holds nothing else."""
        return not self.missing and not self.surplus

    def __str__(self) -> str:
        total = len(self.filled) + len(self.missing)
        if self.exact:
            return f"{self.path} fills all {total} layers with weights exactly"
        if self.surplus:
            return f"{self.path} fills all {total} layers with weights and has {self.surplus:,} surplus bytes"
        found = f"up to {self.filled[-1]}" if self.filled else "not even the first"
        rest = f"ends inside {self.cut}" if self.cut else f"{self.missing[0]} and later stay as initialised"
        return f"{self.path} is short: it fills {len(self.filled)} of {total} layers with weights, {found}; {rest}"


def module_slots(modules: Iterable[tuple[str, nn.Module]]) -> list[Slot]:
    """Return the slots of native networks: each :class:`ConvNormAct`, convolution or linear layer, as registered.

    Args:
        modules: Names and modules in the order of the Darknet file.

    Raises:
        ConfigError: A convolution is followed by a norm that Darknet does not know.
    """
    slots: list[Slot] = []
    for prefix, root in modules:
        inside: set[nn.Module] = set()
        for name, module in root.named_modules(prefix=prefix):
            if isinstance(module, ConvNormAct):
                norm = module.bn
                if isinstance(norm, nn.Identity):
                    norm = None
                elif not isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm)):
                    raise ConfigError(f"{name} is normalised by {type(norm).__name__}; Darknet knows batch norm alone")
                inside.add(module.conv)
                slots.append(Slot(name, conv_file_tensors(module.conv, norm)))
            elif isinstance(module, (nn.Conv2d, nn.Linear)) and module not in inside:
                assert module.bias is not None
                slots.append(Slot(name, [module.bias, module.weight]))
    return slots


def inspect(path: str | Path, slots: Sequence[Slot]) -> WeightsReport:
    """Compare the length of a file with what a network needs; nothing but the header is read.

    Raises:
        WeightsError: The file cannot be read or does not begin as a Darknet file does.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(20)
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: cannot be read: {reason}") from None
    header = _parse_header(head, path)
    left, filled, cut = size - header.size, 0, None
    for slot in slots:
        if left < slot.count * _FLOAT.itemsize:
            cut = slot.name if left else None
            break
        left -= slot.count * _FLOAT.itemsize
        filled += 1
    names = tuple(slot.name for slot in slots)
    surplus = left if filled == len(slots) else 0
    return WeightsReport(str(path), header, names[:filled], names[filled:], cut, surplus)


def read_into(path: str | Path, slots: Sequence[Slot]) -> WeightsReport:
    """Fill a network from a file, layer by layer until the file ends; surplus bytes are left unread.

    Args:
        path: A Darknet ``.weights`` file.
        slots: The network's tensors in file order; they are overwritten.

    Raises:
        WeightsError: The file cannot be read, ends inside a layer, fills none, or holds NaN or infinity.
    """
    report = inspect(path, slots)
    check_whole_layers(report)
    offset = report.header.size
    for slot in slots[: len(report.filled)]:
        values = np.fromfile(path, dtype=_FLOAT, count=slot.count, offset=offset)
        if not np.isfinite(values).all():
            bad = int(np.flatnonzero(~np.isfinite(values))[0])
            raise WeightsError(
                f"{path}: {slot.name} holds {values[bad]} at byte {offset + 4 * bad}; expected finite values"
            )
        _fill(slot, torch.from_numpy(values), transposed=report.header.transposed)
        offset += slot.count * _FLOAT.itemsize
    return report


def check_whole_layers(report: WeightsReport) -> None:
    """Refuse a file that ends inside a layer or fills none.

    Raises:
        WeightsError: The file is refused.
    """
    if report.cut or (report.missing and not report.filled):
        raise WeightsError(f"{report}; expected an end between two layers" if report.cut else str(report))


def save_slots(path: str | Path, slots: Sequence[Slot], header: WeightsHeader) -> None:
    """Write a ``.weights`` file, which appears when it is complete.

    Args:
        path: The file; its folder exists.
        slots: The network's tensors in file order.
        header: The head of the file; one that is of an old version is replaced by a new one.

    Raises:
        WeightsError: The file cannot be written.
    """
    path = Path(path)
    if not header.long_count or header.transposed:
        header = WeightsHeader(images_seen=header.images_seen)
    with whole_file(path, error=WeightsError, parents=False) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<iiiQ", *header))
        for slot in slots:
            for tensor in slot.tensors:
                file.write(tensor.detach().to("cpu", torch.float32).numpy().astype(_FLOAT).tobytes())


def _parse_header(head: bytes, path: Path) -> WeightsHeader:
    if len(head) < 16:
        raise WeightsError(f"{path}: {len(head)} bytes; expected a header of at least 16")
    header = WeightsHeader(*struct.unpack("<iii", head[:12]))
    if not all(0 <= number <= _HIGHEST_VERSION for number in header[:3]):
        raise WeightsError(
            f"{path}: begins with version {header.major}.{header.minor}.{header.revision}; "
            "expected a Darknet weights file, such as version 0.2.5"
        )
    if len(head) < header.size:
        raise WeightsError(f"{path}: {len(head)} bytes; expected a header of {header.size}")
    (seen,) = struct.unpack("<Q", head[12:20]) if header.long_count else struct.unpack("<I", head[12:16])
    return header._replace(images_seen=seen)


@torch.no_grad()
def _fill(slot: Slot, values: Tensor, *, transposed: bool) -> None:
    parts = values.split([tensor.numel() for tensor in slot.tensors])
    for tensor, part in zip(slot.tensors, parts, strict=True):
        input_major = transposed and tensor.dim() == 2
        tensor.copy_(part.view(tensor.shape[::-1]).t() if input_major else part.view(tensor.shape))
