"""What rides in an exported file: everything that turns images into its input and its output into results."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args
from xml.parsers.expat import ExpatError, ParserCreate

import torch

from crossstage.errors import ConfigError, WeightsError
from crossstage.models.heads.base import Head, HeadConfig
from crossstage.models.heads.yolo import YoloConfig
from crossstage.models.rows import decode, encode
from crossstage.ops.priors import AnchorLevel
from crossstage.structures import Preprocessing

FORMAT = 2  # 1, of version 0.1.0, told the anchors of a YOLO head alone
KEY = "crossstage"
MAX_BYTES = 1 << 20  # of a header: a thousand class names are 20 KiB
_MAX_XML_BYTES = 1 << 26  # of OpenVINO's graph: the largest network here has 2 MB

Task = Literal["classify", "detect"]
Outputs = Literal["logits", "raw", "boxes", "detections"]


@dataclass(frozen=True)
class StoredHead:
    """A head without its weights: all that decoding raw tensors takes.

    Attributes:
        row: Its settings.
        channels: Channels of the maps that it reads.
        strides: Strides of these maps.
        num_classes: Number of its classes.

    Raises:
        ConfigError: The row does not fit the maps.
    """

    row: HeadConfig
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    num_classes: int

    @classmethod
    def of(cls, head: Head) -> StoredHead:
        """Take down a head of a model."""
        return cls(head.row, head.channels, head.strides, head.num_classes)

    @cached_property
    def module(self) -> Head:
        """The head on torch's meta device, which takes no memory, whatever a file claims."""
        with torch.device("meta"):
            return self.row.build(self.channels, self.strides, self.num_classes)

    @property
    def raw_names(self) -> tuple[str, ...]:
        """Names of the raw tensors, in order."""
        return self.module.raw_names

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a file's header."""
        return {
            "row": encode(self.row),
            "channels": list(self.channels),
            "strides": list(self.strides),
            "num_classes": self.num_classes,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> StoredHead:
        """Read what :meth:`to_dict` wrote, and see that the head can be built.

        Raises:
            ValueError, TypeError, KeyError, ConfigError: It is no such thing.
        """
        row = decode(content["row"])
        if not isinstance(row, HeadConfig):
            raise TypeError(f"its head is a {type(row).__name__}")
        channels, strides = (tuple(int(number) for number in content[name]) for name in ("channels", "strides"))
        stored = cls(row, channels, strides, int(content["num_classes"]))
        _ = stored.module
        return stored


@dataclass(frozen=True)
class Header:
    """An exported model, but for its weights.

    Attributes:
        name: The model's name.
        task: What it does.
        outputs: ``"logits"`` ``(N, C)``; ``"raw"``, what the head returned; ``"boxes"`` ``(N, K, 4)`` xyxy in pixels
            of the input, with scores ``(N, K, C)``; or ``"detections"`` ``(M, 7)``, best first: image, class, score,
            xyxy.
        size_divisor: The input's height and width are multiples of this.
        preprocessing: How images become input; None if nobody knows, as for a classifier before training.
        class_names: Names by class id; empty if they have none.
        batch: Images of one pass; None if any number will do, at any size.
        head: What decodes raw tensors; None where the outputs are not raw.
        score_threshold: Of suppression inside the graph: detections score more than this.
        iou_threshold: Of suppression inside the graph, by IoU within a class.
    """

    name: str
    task: Task
    outputs: Outputs
    size_divisor: int
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...] = ()
    batch: int | None = 1
    head: StoredHead | None = None
    score_threshold: float | None = None
    iou_threshold: float | None = None

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        if self.head is not None:
            return list(self.head.raw_names)
        return ["boxes", "scores"] if self.outputs == "boxes" else [self.outputs]

    def to_json(self) -> str:
        """The header as compact JSON with sorted keys, so that equal headers give equal bytes."""
        content = {
            "format": FORMAT,
            **vars(self),
            "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
            "head": self.head.to_dict() if self.head else None,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: str | Path) -> Header:
        """Read what :meth:`to_json` wrote; ``path`` is for messages.

        Raises:
            WeightsError: The text is no header, or one of a newer format.
        """
        try:
            content = json.loads(text)
            if content["format"] > FORMAT:
                raise WeightsError(
                    f"{path}: format {content['format']}; this version of crossstage reads up to {FORMAT}"
                )
            return cls(
                name=str(content["name"]),
                task=_one_of(Task, content["task"]),
                outputs=_one_of(Outputs, content["outputs"]),
                size_divisor=max(1, int(content["max_stride" if content["format"] == 1 else "size_divisor"])),
                preprocessing=Preprocessing.from_dict(content["preprocessing"]) if content["preprocessing"] else None,
                class_names=tuple(str(name) for name in content["class_names"]),
                batch=None if content["batch"] is None else max(1, int(content["batch"])),
                head=_head(content),
                score_threshold=_optional(content["score_threshold"]),
                iou_threshold=_optional(content["iou_threshold"]),
            )
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RecursionError,
            OverflowError,
            RuntimeError,
            ConfigError,
        ) as error:
            raise WeightsError(f"{path}: its header does not describe a crossstage model: {error!r}") from None


def _one_of(kind: Any, value: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError(f"{value!r}; expected one of {', '.join(get_args(kind))}")
    return value


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _head(content: dict[str, Any]) -> StoredHead | None:
    if content["format"] > 1:
        return StoredHead.from_dict(content["head"]) if content["head"] else None
    levels = tuple(_level(level) for level in content["levels"])
    if not levels:
        return None
    strides = tuple(level.stride for level in levels)
    return StoredHead(YoloConfig(levels=levels), (1,) * len(levels), strides, len(content["class_names"]))


def _level(content: dict[str, Any]) -> AnchorLevel:
    anchors = tuple((float(width), float(height)) for width, height in content["anchors"])
    return AnchorLevel(max(1, int(content["stride"])), anchors, float(content["scale_x_y"]))


def read_header(path: Path) -> Header:
    """Read what an ``.onnx``, ``.xml`` or ``.param`` file says of itself, without loading its graph or any library that
    could; of ncnn's ``.param`` the file ``model.json`` beside it does.

    Raises:
        WeightsError: The file cannot be read, is of another kind, or was not written by crossstage.
    """
    if path.suffix == ".param":
        path = path.with_name("model.json")
    kind, read = _READERS.get(path.suffix, _READERS[".onnx"])
    try:
        with path.open("rb") as file:
            text = read(file)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (EOFError, ValueError, ExpatError) as error:
        raise WeightsError(f"{path}: not {kind}: {error}") from None
    if text is None:
        raise WeightsError(f"{path}: says nothing of classes and preprocessing; expected a file of `crossstage export`")
    return Header.from_json(text, path)


def _ncnn_metadata(file: BinaryIO) -> str:
    """The file itself."""
    return file.read(MAX_BYTES).decode()


def _openvino_metadata(file: BinaryIO) -> str | None:
    """The value of ``<net><rt_info><crossstage>``."""
    if (size := os.fstat(file.fileno()).st_size) > _MAX_XML_BYTES:
        raise ValueError(f"{size:,} bytes, expected at most {_MAX_XML_BYTES:,}")
    found, inside = [], []

    def begin(name: str, attributes: dict[str, str]) -> None:
        inside.append(name)
        if inside == ["net", "rt_info", KEY]:
            found.append(attributes.get("value", ""))

    def refuse(*_: object) -> None:
        raise ValueError("it defines entities")

    parser = ParserCreate()
    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda _: inside.pop()
    parser.StartDoctypeDeclHandler = refuse
    parser.ParseFile(file)
    return found[-1] if found else None


def _onnx_metadata(file: BinaryIO) -> str | None:
    """The value of a key of the metadata."""
    for entry in _fields(file, _METADATA):
        key, value = (b"".join(_fields(io.BytesIO(entry), number)) for number in (1, 2))
        if key == KEY.encode():
            return value.decode()
    return None


_READERS = {
    ".onnx": ("an ONNX file", _onnx_metadata),
    ".xml": ("an OpenVINO file", _openvino_metadata),
    ".json": ("ncnn's description", _ncnn_metadata),
}
_METADATA = 14  # ModelProto.metadata_props
_MAX_FIELDS = 10_000
_LENGTHS = {1: 8, 5: 4}  # bytes of fixed-size wire types


def _fields(file: BinaryIO, wanted: int) -> Iterator[bytes]:
    """The values of a field of a protobuf message, the others skipped (protobuf's wire format)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    for _ in range(_MAX_FIELDS):
        if file.tell() == size:
            return
        number, wire = divmod(_varint(file), 8)
        if wire == 0:
            _varint(file)
            continue
        if wire != 2 and wire not in _LENGTHS:
            raise ValueError(f"a field of wire type {wire}")
        length = _varint(file) if wire == 2 else _LENGTHS[wire]
        if length > size - file.tell():
            raise EOFError(f"a field of {length:,} bytes reaches beyond its end")
        if number == wanted and wire == 2 and length <= MAX_BYTES:
            yield file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)
    raise ValueError(f"more than {_MAX_FIELDS:,} fields")


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 10 bytes")
