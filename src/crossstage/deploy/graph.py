"""From a model to what an exported file computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.deploy.header import ExportHeader, Outputs, StoredHead
from crossstage.deploy.instances import to_rows
from crossstage.errors import ConfigError
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.models.heads.base import Head
from crossstage.nn.fuse import fuse
from crossstage.nn.rep import folded_copy, inference_copy
from crossstage.ops.nms import NMS, for_evaluation

MOST_INSTANCES = 300  # objects that a file with a second stage finds in an image, as many as prediction asks for


class Graph(nn.Module):
    """A model whose outputs are a flat tuple of float32 tensors.

    Args:
        model: A model that nobody else uses.
        decode: Whether a detector's raw tensors become boxes and scores.
        half: Whether to compute in float16 between a float32 input and float32 outputs.
        nms: How a detector of two stages, both of which are in the graph, finds the objects of its one image; None for
            other models.
    """

    def __init__(
        self,
        model: Detector | Classifier,
        *,
        decode: bool,
        half: bool = False,
        nms: NMS | None = None,
    ) -> None:
        super().__init__()
        self.model = model.half() if half else model
        self.decode, self.half_precision = decode, half
        self.nms = nms

    def forward(self, images: Tensor, padded: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the outputs that the header names.

        Args:
            images: ``(N, 3, H, W)``, prepared as the header says.
            padded: For a detector of two stages whose file takes any size, the same padded below and to the right to
                multiples of the model's ``size_divisor``.
        """
        if self.nms is not None:
            return self._instances(images, images if padded is None else padded, self.nms)
        raw = self.model(images.half() if self.half_precision else images)
        named = {"logits": raw} if isinstance(raw, Tensor) else raw
        named = {name: tensor.float() for name, tensor in named.items()}
        if self.decode:
            assert isinstance(self.model, Detector)
            return self.model.decode(named, (images.shape[2], images.shape[3]))
        return tuple(named.values())

    def _instances(self, images: Tensor, padded: Tensor, nms: NMS) -> tuple[Tensor, ...]:
        """Return the objects of one image ``(1, 3, H, W)``, see :mod:`crossstage.deploy.instances`."""
        assert isinstance(self.model, Detector)
        size = padded.shape[2], padded.shape[3]
        (found,) = self.model.detect(self.model(padded), size, nms, [(images.shape[2], images.shape[3])])
        return to_rows(found)


@dataclass(frozen=True)
class ExportPlan:
    """What to export.

    Attributes:
        header: What the file says of itself.
        graph: What the file computes, but for suppression.
        images: An input to record the graph with, on which the file is checked, too.
        model: The model that the graph was made from.
    """

    header: ExportHeader
    graph: Graph
    images: Tensor
    model: Detector | Classifier

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, Any]] | None:
        """Which sizes of the input vary, for ``torch.export``; None if none does."""
        if self.header.batch is not None:
            return None
        batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
        if self.header.outputs == "instances":
            divisor, (height, width) = _divisor(self.model), (torch.export.Dim(name) for name in ("height", "width"))
            return {"images": {2: height, 3: width}, "padded": {2: divisor * rows, 3: divisor * columns}}
        return {"images": {0: batch, 2: self.header.size_divisor * rows, 3: self.header.size_divisor * columns}}

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the graph is recorded with: the images, and where it pads them itself, the padded ones."""
        if self.header.outputs != "instances" or self.header.batch is not None:
            return (self.images,)
        divisor, (height, width) = _divisor(self.model), self.images.shape[2:]
        return self.images, nn.functional.pad(self.images, (0, -width % divisor, 0, -height % divisor))

    def record(self) -> torch.export.ExportedProgram:
        """Return the graph as PyTorch records it.

        Raises:
            torch._dynamo.exc.UserError: It branches on data.
        """
        with torch.no_grad():
            return torch.export.export(self.graph, self.inputs, dynamic_shapes=self.dynamic_shapes)

    def reference(self) -> tuple[Tensor, ...]:
        """Return what the model itself computes in float32, unfused."""
        own, given = inference_copy(self.model).cpu(), self.graph
        with torch.inference_mode():
            return Graph(own, decode=given.decode, nms=given.nms)(*self.inputs)


def plan(
    model: Detector | Classifier,
    name: str,
    *,
    imgsz: int | tuple[int, int] | None = None,
    dynamic: bool = False,
    half: bool = False,
    decode: bool = False,
    fused: bool = True,
    nms: NMS | None = None,
) -> ExportPlan:
    """Decide what a model's file computes and says.

    A detector with a head gives its raw tensors unless ``decode`` is set; one without, such as of Darknet's files,
    always boxes. A detector of two stages gives detections, of one image at a time; if the file is ``dynamic``, of any
    size, which is padded inside.

    Args:
        model: The model with its weights, which is left as it is.
        name: The model's name, for the header.
        imgsz: Side of the input, or height and width, in pixels; None takes the size the model was trained at.
        dynamic: Whether the file takes any number of images of any size, rather than one of this size.
        half: Whether to compute in float16.
        decode: Whether to give boxes and scores.
        fused: Whether to record the model fused, see :func:`crossstage.nn.fuse`.
        nms: How a detector of two stages finds objects; None takes what it is scored with, of up to
            :data:`MOST_INSTANCES` objects, so that every other setting but the overlap can be chosen later.

    Raises:
        ConfigError: The size is no multiple of the model's ``size_divisor``, is not known, or differs from image to
            image in a file for one size.
    """
    known = model.preprocessing
    if known is not None and known.resize == "shortest" and not dynamic:
        raise ConfigError("the model's input differs in size from image to image; expected --dynamic (dynamic=True)")
    size = _size(model, imgsz)
    detector = isinstance(model, Detector)
    head = getattr(model, "head", None) if detector else None
    head = head if isinstance(head, Head) else None
    if head is not None and head.second_stage:
        nms = nms or replace(for_evaluation(head.nms), max_detections=MOST_INSTANCES)
        return _whole(model, head, name, nms, size, imgsz=imgsz, dynamic=dynamic, fused=fused)
    decode = detector and (decode or head is None)
    outputs: Outputs = "logits" if not detector else "boxes" if decode else "raw"
    header = ExportHeader(
        name=name,
        task="detect" if detector else "classify",
        outputs=outputs,
        size_divisor=_divisor(model),
        preprocessing=known if known is None or imgsz is None else known.at(imgsz),
        class_names=model.class_names,
        batch=None if dynamic else 1,
        head=None if decode or head is None else StoredHead.of(head),
        nms=model.nms if isinstance(model, Detector) and decode and model.nms != NMS() else None,
    )
    own = fuse(model) if fused else folded_copy(model)
    graph = Graph(own.cpu(), decode=decode, half=half).eval()
    return ExportPlan(header, graph, _noise(size, 2 if dynamic else 1, channels=_channels(model)), model)


def _whole(
    model: Detector | Classifier,
    head: Head,
    name: str,
    nms: NMS,
    size: tuple[int, int],
    *,
    imgsz: int | tuple[int, int] | None,
    dynamic: bool,
    fused: bool,
) -> ExportPlan:
    """Decide what the file of a detector of two stages computes and says."""
    known = model.preprocessing
    header = ExportHeader(
        name=name,
        task="detect",
        outputs="instances",
        size_divisor=1 if dynamic else _divisor(model),
        preprocessing=known if known is None or imgsz is None else known.at(imgsz),
        class_names=model.class_names,
        batch=None if dynamic else 1,
        nms=nms,
        masks=head.finds_masks,
    )
    own = fuse(model) if fused else folded_copy(model)
    return ExportPlan(
        header, Graph(own.cpu(), decode=False, nms=nms).eval(), _noise(size, 1, channels=_channels(model)), model
    )


def sample(model: Detector | Classifier, imgsz: int | tuple[int, int] | None, count: int, *, seed: int = 0) -> Tensor:
    """Return an input to record and compare with: smooth coloured noise, which has an image's low frequencies.

    Args:
        model: The model that is to take it.
        imgsz: Side, or height and width, in pixels; None takes the size the model was trained at.
        count: Number of images.
        seed: Seed of the noise.

    Returns:
        ``(count, 3, H, W)`` in [0, 1], or ``(count, 1, H, W)`` for a model that reads grey.

    Raises:
        ConfigError: The size is no multiple of the model's ``size_divisor``, or not known.
    """
    return _noise(_size(model, imgsz), count, seed, channels=_channels(model))


def _channels(model: Detector | Classifier) -> int:
    return 3 if model.preprocessing is None else model.preprocessing.channels


def _noise(size: tuple[int, int], count: int, seed: int = 0, *, channels: int = 3) -> Tensor:
    coarse = torch.rand(count, channels, 8, 8, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)


def _divisor(model: Detector | Classifier) -> int:
    return model.size_divisor if isinstance(model, Detector) else model.backbone.strides[-1]


def _size(model: Detector | Classifier, imgsz: int | tuple[int, int] | None) -> tuple[int, int]:
    """Return height and width of an input that the model takes.

    Raises:
        ConfigError: The size is no multiple of the model's ``size_divisor``, or not known.
    """
    divisor, known = _divisor(model), model.preprocessing
    if imgsz is None and known is None:
        raise ConfigError("the model does not know its input's size; expected imgsz")
    if known is not None and known.resize == "shortest":  # what it is padded to is a multiple, its size need not be
        height, width = known.size if imgsz is None else known.at(imgsz).size
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor
    if imgsz is None:
        assert known is not None
        return known.size
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    for side in (height, width):
        if side < 1 or side % divisor:
            lower = max(1, side // divisor) * divisor
            raise ConfigError(f"imgsz={side}; expected a multiple of {divisor}, such as {lower} or {lower + divisor}")
    return height, width
