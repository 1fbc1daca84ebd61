"""What rides in an exported file: everything that turns images into its input and its output into results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from crossstage.deploy.header_v1 import head_of_v1, nms_of_v1
from crossstage.errors import WeightsError, first_line
from crossstage.models.heads.base import Head, HeadConfig
from crossstage.models.registry import TaskName
from crossstage.models.rows import MAX_NUMBER, decode, encode
from crossstage.ops.nms import NMS
from crossstage.structures import Preprocessing

FORMAT = 2
"""The version of the header. 1, of crossstage 0.1.0, is read, too; see :mod:`crossstage.deploy.header_v1`."""

MAX_MAPS = 64

Outputs = Literal["logits", "raw", "boxes", "detections", "instances"]


@dataclass(frozen=True)
class StoredHead:
    """A head without its weights: all that decoding raw tensors takes.

    Attributes:
        row: The head's settings.
        channels: Channels of the maps that the head reads, shallow to deep.
        strides: Strides of these maps.
        num_classes: Number of classes that the head tells apart.
    """

    row: HeadConfig
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    num_classes: int

    @classmethod
    def of(cls, head: Head) -> StoredHead:
        """Return what a file needs to know of a model's head."""
        return cls(head.row, head.channels, head.strides, head.num_classes)

    @cached_property
    def module(self) -> Head:
        """The head on torch's meta device, where it takes no memory for weights."""
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
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError, TypeError, KeyError, ConfigError: It is no such thing.
        """
        row = decode(content["row"])
        if not isinstance(row, HeadConfig):
            raise TypeError(f"its head is a {type(row).__name__}")
        channels, strides = (_numbers(content, name) for name in ("channels", "strides"))
        return cls(row, channels, strides, _number(content, "num_classes"))

    def check(self, class_names: tuple[str, ...]) -> StoredHead:
        """Return the head if it can be built and tells apart the classes that have names.

        Raises:
            ValueError: It cannot, or does not.
        """
        if not 0 < len(self.channels) == len(self.strides) <= MAX_MAPS:
            raise ValueError(f"a head of {len(self.channels)} maps with {len(self.strides)} strides")
        if self.num_classes != len(class_names):
            raise ValueError(f"{len(class_names)} class names for a head with {self.num_classes} classes")
        try:
            names = self.module.raw_names
        except Exception as error:  # a row of the wrong values fails anywhere in any head
            raise ValueError(f"its head cannot be built: {error!r}") from None
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"its head has the outputs {names}")
        return self


@dataclass(frozen=True)
class ExportHeader:
    """An exported model, but for its weights.

    Attributes:
        name: The model's name.
        task: What the model does.
        outputs: What the file computes: ``"logits"`` ``(N, C)``; ``"raw"``, the head's raw tensors; ``"boxes"``
            ``(N, K, 4)`` xyxy in pixels of the input, with scores ``(N, K, C)``; ``"detections"`` ``(M, 7)``, best
            first: image, class, score, xyxy; or ``"instances"``, the same of both stages of a detector and of one image
            at a time, with ``masks``.
        size_divisor: The input's height and width are multiples of this.
        preprocessing: How images become input; None if nobody knows, as for a classifier before training.
        class_names: Names by class id; empty if they have none.
        batch: Images of one pass; None if any number will do, at any size. (A file that gives instances is run once
            for each.)
        head: What decodes raw tensors; None where the outputs are not raw.
        nms: The suppression that lies inside the graph; of a file that gives boxes the model's own, None for YOLO's.
        masks: Whether a second output of ``"instances"``, ``masks`` ``(M, S, S)`` in [0, 1], is a grid over each box.
    """

    name: str
    task: TaskName
    outputs: Outputs
    size_divisor: int
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...] = ()
    batch: int | None = 1
    head: StoredHead | None = None
    nms: NMS | None = None
    masks: bool = False

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        if self.head is not None:
            return list(self.head.raw_names)
        if self.outputs == "instances":
            return ["detections", "masks"] if self.masks else ["detections"]
        return ["boxes", "scores"] if self.outputs == "boxes" else [self.outputs]

    def to_json(self) -> str:
        """Return the header as compact JSON with sorted keys, so that equal headers give equal bytes."""
        content = {
            "format": FORMAT,
            **vars(self),
            "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
            "head": self.head.to_dict() if self.head else None,
            "nms": _nms_to_dict(self.nms) if self.nms else None,
        }
        if not self.masks:
            del content["masks"]
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: str | Path) -> ExportHeader:
        """Read what :meth:`to_json` wrote, or version 0.1.0.

        Args:
            text: The header, which may come from anywhere.
            path: The file, for messages.

        Raises:
            WeightsError: The text is no header, or one of a newer format.
        """
        try:
            content = json.loads(text)
            version = content["format"]
            if version > FORMAT:
                raise WeightsError(f"{path}: format {version}; this version of crossstage reads up to {FORMAT}")
            return _read(content, version)
        except WeightsError:
            raise
        except Exception as error:  # values of every kind end up in every place
            why = f"{type(error).__name__}: {first_line(error)}"
            raise WeightsError(f"{path}: its header does not describe a crossstage model: {why}") from None


def _read(content: dict[str, Any], version: int) -> ExportHeader:
    class_names = tuple(str(name) for name in content["class_names"])
    task = _one_of(TaskName, content["task"])
    outputs = _one_of(Outputs, content["outputs"])
    if version == 1:
        settings, nms = head_of_v1(content), nms_of_v1(content)
        head = StoredHead(*settings, len(class_names)) if settings else None
    else:
        head = StoredHead.from_dict(content["head"]) if content["head"] else None
        nms = _nms_from_dict(content["nms"]) if content["nms"] else None
    if (outputs == "raw") != (head is not None) or not _fits(outputs, nms):
        raise ValueError(f"outputs {outputs} do not go with a head of {head} and suppression {nms}")
    if (task == "classify") != (outputs == "logits") or (task == "detect" and not class_names):
        raise ValueError(f"outputs {outputs} and {len(class_names)} class names do not go with the task {task}")
    return ExportHeader(
        name=str(content["name"]),
        task=task,
        outputs=outputs,
        size_divisor=_number(content, "max_stride" if version == 1 else "size_divisor"),
        preprocessing=Preprocessing.from_dict(content["preprocessing"]) if content["preprocessing"] else None,
        class_names=class_names,
        batch=None if content["batch"] is None else _number(content, "batch"),
        head=None if head is None else head.check(class_names),
        nms=nms,
        masks=outputs == "instances" and bool(content.get("masks", False)),
    )


def _fits(outputs: Outputs, nms: NMS | None) -> bool:
    """Tell whether outputs go with suppression: what gives detections has one inside, boxes may name the model's."""
    return outputs == "boxes" or (outputs in ("detections", "instances")) == (nms is not None)


def _nms_to_dict(nms: NMS) -> dict[str, Any]:
    return {"score": nms.score, "iou": nms.iou, "kind": nms.kind, "max_detections": nms.max_detections}


def _nms_from_dict(content: Mapping[str, Any]) -> NMS:
    return NMS(content["score"], content["iou"], content["kind"], content["max_detections"])


def _one_of(kind: Any, value: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError(f"{value!r}; expected one of {', '.join(get_args(kind))}")
    return value


def _number(content: Mapping[str, Any], name: str) -> int:
    """Return a whole number from 1 to :data:`MAX_NUMBER`."""
    return _whole(name, content[name])


def _numbers(content: Mapping[str, Any], name: str) -> tuple[int, ...]:
    if not isinstance(content[name], list):
        raise TypeError(f"{name} is {content[name]!r}; expected a list")
    return tuple(_whole(name, value) for value in content[name])


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_NUMBER:
        raise ValueError(f"{name} is {value!r}; expected a whole number from 1 to {MAX_NUMBER:,}")
    return value
