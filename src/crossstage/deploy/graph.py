"""From a model to what an exported file computes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossstage.deploy.header import Header, Outputs, StoredHead
from crossstage.errors import ConfigError
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.models.one_stage import OneStageDetector
from crossstage.nn.fuse import fuse
from crossstage.structures import Preprocessing


class Graph(nn.Module):
    """A model whose outputs are a flat tuple of float32 tensors.

    Args:
        model: A model of its own.
        decode: Whether a detector's maps become boxes and scores.
        half: Compute in float16 between a float32 input and float32 outputs.
    """

    def __init__(self, model: Detector | Classifier, *, decode: bool, half: bool = False) -> None:
        super().__init__()
        self.model = model.half() if half else model
        self.decode, self.half_precision = decode, half

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``(N, 3, H, W)`` images to the outputs that the header names."""
        raw = self.model(images.half() if self.half_precision else images)
        named = {"logits": raw} if isinstance(raw, Tensor) else raw
        named = {name: tensor.float() for name, tensor in named.items()}
        if self.decode:
            assert isinstance(self.model, Detector)
            return self.model.decode(named, (images.shape[2], images.shape[3]))
        return tuple(named.values())


@dataclass(frozen=True)
class Plan:
    """What to export.

    Attributes:
        header: What the file says of itself.
        graph: What it computes, but for suppression.
        images: An input to record it with, on which it is checked, too.
        model: Where it comes from.
    """

    header: Header
    graph: Graph
    images: Tensor
    model: Detector | Classifier

    @property
    def dynamic(self) -> bool:
        """Whether any number of images of any size will do."""
        return self.header.batch is None

    @property
    def dynamic_shapes(self) -> dict[str, dict[int, Any]] | None:
        """Which sizes of the input vary, for ``torch.export``."""
        if not self.dynamic:
            return None
        batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "rows", "columns"))
        return {"images": {0: batch, 2: self.header.size_divisor * rows, 3: self.header.size_divisor * columns}}

    def record(self) -> torch.export.ExportedProgram:
        """The graph as PyTorch records it.

        Raises:
            torch._dynamo.exc.UserError: It branches on data.
        """
        with torch.no_grad():
            return torch.export.export(self.graph, (self.images,), dynamic_shapes=self.dynamic_shapes)

    def reference(self) -> tuple[Tensor, ...]:
        """What the model itself computes in float32, unfused."""
        with torch.inference_mode():
            return Graph(copy.deepcopy(self.model).cpu().eval(), decode=self.graph.decode)(self.images)


def plan(
    model: Detector | Classifier,
    name: str,
    *,
    imgsz: int | tuple[int, int] | None = None,
    dynamic: bool = False,
    half: bool = False,
    decode: bool = False,
    fused: bool = True,
    batch: int = 1,
) -> Plan:
    """Decide what a model's file computes and says.

    A detector with a head gives its raw tensors unless ``decode`` is set; one of Darknet's files always boxes.

    Args:
        model: With its weights; left as it is.
        name: Its name, for the header.
        imgsz: Side of the input, or height and width, in pixels; None takes the size the model was trained at.
        dynamic: Take any number of images of any size.
        half: Compute in float16.
        decode: Give boxes and scores.
        fused: Record the model fused, see :func:`crossstage.nn.fuse`; else as it is.
        batch: Images of one pass, if that is fixed.

    Raises:
        ConfigError: The size is no multiple of the model's stride, or not known.
    """
    stride = _stride(model)
    size = _size(model, imgsz, stride)
    detector = isinstance(model, Detector)
    head = model.head if isinstance(model, OneStageDetector) else None
    decode = detector and (decode or head is None)
    outputs: Outputs = "logits" if not detector else "boxes" if decode else "raw"
    known = model.preprocessing
    header = Header(
        name=name,
        task="detect" if detector else "classify",
        outputs=outputs,
        size_divisor=stride,
        preprocessing=None if known is None else Preprocessing(size, known.resize, known.mean, known.std),
        class_names=model.class_names,
        batch=None if dynamic else batch,
        head=None if decode or head is None else StoredHead.of(head),
    )
    own = fuse(model) if fused else copy.deepcopy(model)
    graph = Graph(own.cpu(), decode=decode, half=half).eval()
    return Plan(header, graph, sample(model, size, 2 if dynamic else batch), model)


def sample(model: Detector | Classifier, imgsz: int | tuple[int, int] | None, count: int, *, seed: int = 0) -> Tensor:
    """An input to record and compare with: smooth coloured noise, which has an image's low frequencies.

    Args:
        model: Whose input it is to be.
        imgsz: Side, or height and width, in pixels; None takes the size the model was trained at.
        count: Images.
        seed: Of the noise.

    Raises:
        ConfigError: The size is no multiple of the model's stride, or not known.
    """
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    size = _size(model, imgsz, _stride(model))
    return nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)


def _stride(model: Detector | Classifier) -> int:
    return model.size_divisor if isinstance(model, Detector) else model.backbone.strides[-1]


def _size(model: Detector | Classifier, imgsz: int | tuple[int, int] | None, stride: int) -> tuple[int, int]:
    if imgsz is None:
        if model.preprocessing is None:
            raise ConfigError("the model does not know its input's size; expected imgsz")
        return model.preprocessing.size
    height, width = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    for side in (height, width):
        if side < 1 or side % stride:
            lower = max(1, side // stride) * stride
            raise ConfigError(f"imgsz={side}; expected a multiple of {stride}, such as {lower} or {lower + stride}")
    return height, width
