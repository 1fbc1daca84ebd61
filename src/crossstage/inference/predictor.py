"""Images to detections, with the time that each stage took."""

from __future__ import annotations

import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossstage.errors import ConfigError, DataError
from crossstage.inference.model import DetectionModel
from crossstage.inference.pipeline import Prepared, prepared_batches, side_by_side, side_threads
from crossstage.inference.preprocessing import prepare, stack
from crossstage.inference.sources import Source, SourceImage, Unreadable
from crossstage.ops import rle
from crossstage.ops.masks import in_image, packed_in_image
from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Placement, Preprocessing

if TYPE_CHECKING:
    from supervision import CompactMask, Detections

MOST_BYTES = 256 << 20  # of the masks of an image as arrays

_Group = Sequence[Prepared | Unreadable]


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds of each stage."""

    decode: float
    preprocess: float
    forward: float
    postprocess: float

    @property
    def total(self) -> float:
        """Milliseconds of all stages."""
        return self.decode + self.preprocess + self.forward + self.postprocess


@dataclass(frozen=True)
class Prediction:
    """An image, what was found in it, and how long it took.

    Attributes:
        image: The image.
        detections: What was found.
        milliseconds: How long each stage took.
        cut: Whether as many objects were found as an image may have, so that more may be there.
        finite: Whether all of the network's numbers were finite; objects are missed where they are not.
    """

    image: SourceImage
    detections: Detections
    milliseconds: StageTimes
    cut: bool = False
    finite: bool = True


class Predictor:
    """A detection model with its options checked, ready for images.

    Args:
        model: Any detector; a module is put in evaluation mode, or batch norm would learn from what it predicts.
        nms: How decoded boxes become detections; None takes the model's own way.
        imgsz: Side of the input, or height and width, in pixels, see :meth:`~crossstage.structures.Preprocessing.at`;
            None takes the size the model was trained at.
        batch: Images that share a forward pass.
        streams: Passes that :meth:`predict` computes side by side, which share torch's threads.

    Raises:
        ConfigError: An option is out of range or a class is unknown.
    """

    def __init__(
        self,
        model: DetectionModel,
        nms: NMS | None = None,
        *,
        imgsz: int | tuple[int, int] | None = None,
        batch: int = 1,
        streams: int = 1,
    ) -> None:
        if min(batch, streams) < 1:
            raise ConfigError(f"batch={batch}, streams={streams}; expected at least 1")
        self.model = model
        if isinstance(model, torch.nn.Module):
            model.eval()
        self.nms = nms or model.nms
        if self.nms.class_ids is not None and (
            beyond := [i for i in self.nms.class_ids if not 0 <= i < len(model.class_names)]
        ):
            raise ConfigError(f"class {beyond[0]} is unknown to the model; expected 0 to {len(model.class_names) - 1}")
        self.batch, self.streams = batch, streams
        self.preprocessing = _preprocessing(model, imgsz)
        parameters = getattr(model, "parameters", lambda: iter(()))()
        first = next(parameters, torch.zeros(()))
        self.device, self.dtype = first.device, first.dtype

    def detect(self, image: np.ndarray) -> tuple[Instances, Placement, tuple[float, float, float]]:
        """Find objects in one image; see :meth:`detect_batch`."""
        return self.detect_batch([image])[0]

    @torch.inference_mode()
    def detect_batch(
        self, images: Sequence[np.ndarray]
    ) -> list[tuple[Instances, Placement, tuple[float, float, float]]]:
        """Find objects in images that share a forward pass.

        Args:
            images: Each ``(H, W, 3)`` RGB uint8.

        Returns:
            For each its objects, in pixels of the input; where the image lies in it; milliseconds of preprocessing,
            forward pass and post-processing, in equal shares.
        """
        start = time.perf_counter()
        tensors, placements = zip(*(prepare(image, self.preprocessing) for image in images), strict=True)
        inputs = self._inputs(tensors)
        prepared = time.perf_counter()
        raw = self._forward(inputs)
        forwarded = time.perf_counter()
        found = self._select(raw, inputs, placements)
        moments = (start, prepared, forwarded, time.perf_counter())
        preparing, forward, selecting = ((b - a) * 1e3 / len(images) for a, b in pairwise(moments))
        return [(one, place, (preparing, forward, selecting)) for one, place in zip(found, placements, strict=True)]

    @torch.inference_mode()
    def forward(self, image: np.ndarray) -> tuple[Any, Placement]:
        """Do the first half of :meth:`detect`: return raw tensors, and where the image lies in the input."""
        tensor, placement = prepare(image, self.preprocessing)
        return self._forward(self._inputs([tensor])), placement

    def _inputs(self, prepared: Sequence[Tensor]) -> Tensor:
        """Return the network's input ``(N, 3, H, W)`` for prepared images, on its device and in its precision."""
        return self.preprocessing.normalise(stack(prepared, self.preprocessing).to(self.device)).to(self.dtype)

    def _forward(self, images: Tensor) -> Any:
        raw = self.model(images)
        if self.dtype in (torch.float16, torch.bfloat16) and isinstance(raw, dict):
            raw = {name: tensor.float() for name, tensor in raw.items()}  # decoded, half a box would be off by pixels
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return raw

    def select(self, raw: Any, placement: Placement) -> Instances:
        """Do the second half of :meth:`detect`: return the objects.

        Args:
            raw: The raw tensors that :meth:`forward` returned.
            placement: The placement that it returned with them.
        """
        (found,) = self.model.detect(raw, placement.input_size, self.nms, [placement.extent])
        return found

    def _select(self, raw: Any, inputs: Tensor, placements: Sequence[Placement]) -> list[Instances]:
        size = inputs.shape[2], inputs.shape[3]
        return self.model.detect(raw, size, self.nms, [placement.extent for placement in placements])

    def __call__(self, image: SourceImage) -> Prediction:
        """Find objects in one image, as ``supervision.Detections`` in its pixels.

        Their masks are an array ``(K, H, W)``, or a ``supervision.CompactMask``, which stands for one, where that would
        take more than 256 MB.
        """
        found, placement, times = self.detect(image.pixels)
        return self._prediction(found, placement, image, StageTimes(image.decode_ms, *times))

    def _prediction(
        self, found: Instances, placement: Placement, image: SourceImage, times: StageTimes, *, finite: bool = True
    ) -> Prediction:
        """Return the prediction of an image; what is no number is no detection.

        Raises:
            ConfigError: The model finds a class that it does not have, as an exported file may that lies.
        """
        good = torch.isfinite(found.boxes_xyxy).all(1) & torch.isfinite(found.scores)
        cut = len(good) >= self.nms.max_detections
        if not bool(good.all()):
            finite = False
            masks = None if found.masks is None else found.masks[good]
            found = Instances(found.boxes_xyxy[good], found.scores[good], found.class_ids[good], masks)
        names = self.model.class_names
        if len(found.class_ids) and not 0 <= int(found.class_ids.min()) <= int(found.class_ids.max()) < len(names):
            raise ConfigError(
                f"the model finds class {int(found.class_ids.max())}, and it has {len(names)} names of classes; is it "
                "damaged?"
            )
        return Prediction(image, _detections(found, placement, names, image), times, cut, finite)

    def predict(self, source: Any) -> Iterator[Prediction | Unreadable]:
        """Find objects in every image of a source, see :class:`~crossstage.inference.sources.Source`.

        The next images are read and prepared by threads meanwhile.

        Yields:
            A prediction for each image or frame, in order; for a file that cannot be read, why.

        Raises:
            DataError: Nothing was found at ``source``.
        """
        return self.stream(Source(source))

    def stream(self, images: Source, *, whole: bool = True) -> Generator[Prediction | Unreadable]:
        """Find objects in every image of a source that has been looked up; see :meth:`predict`.

        Args:
            images: The source.
            whole: Read every pixel. Otherwise JPEGs of at least four times the input's size are read at a reduced
                scale, which is faster; ``SourceImage.pixels`` is small then, and boxes are still in pixels of the
                whole image.
        """
        groups = prepared_batches(images, self.preprocessing, batch=self.batch, whole=whole)
        with side_threads() as side:
            rest = side if self.streams == 1 else None
            with closing(side_by_side(groups, partial(self.predict_group, rest), self.streams)) as predicted:
                for group in predicted:
                    yield from group

    def predict_group(self, side: Executor | None, group: _Group) -> list[Prediction | Unreadable]:
        """Predict images that share a pass in this thread; all but the pass in another one, if one is given."""
        readable = [entry for entry in group if isinstance(entry, Prepared)]
        found: Iterator[Prediction] = iter(())
        if readable:
            start = time.perf_counter()
            with torch.inference_mode():
                inputs = self._inputs([entry.tensor for entry in readable])
                raw = self._forward(inputs)
            forward = (time.perf_counter() - start) * 1e3 / len(readable)
            rest = partial(self._predictions, readable, inputs, raw, forward)
            found = iter(side.submit(rest).result() if side else rest())
        return [entry if isinstance(entry, Unreadable) else next(found) for entry in group]

    @torch.inference_mode()
    def _predictions(self, entries: Sequence[Prepared], inputs: Tensor, raw: Any, forward: float) -> list[Prediction]:
        """Post-process a batch, whose forward pass took some milliseconds for each image."""
        start = time.perf_counter()
        found = self._select(raw, inputs, [entry.placement for entry in entries])
        postprocess = (time.perf_counter() - start) * 1e3 / len(entries)
        finite = all_finite(raw)
        return [
            self._prediction(
                detected,
                entry.placement,
                entry.image,
                StageTimes(entry.image.decode_ms, entry.milliseconds, forward, postprocess),
                finite=finite,
            )
            for entry, detected in zip(entries, found, strict=True)
        ]

    def detections(self, source: Any) -> Iterator[Detections]:
        """Find objects as :meth:`predict` does, but return detections alone, and warn of an unreadable file.

        JPEGs of at least four times the input's size are read at a reduced scale.

        Raises:
            DataError: Nothing was found at ``source``, or it is one image that cannot be read.
        """
        images = Source(source)

        def run() -> Iterator[Detections]:
            for entry in self.stream(images, whole=False):
                if not isinstance(entry, Unreadable):
                    if not entry.finite:
                        warnings.warn(f"{entry.image.name}: the network's numbers overflowed (NaN)", stacklevel=2)
                    yield entry.detections
                elif images.single:
                    raise DataError(entry.reason)
                else:
                    warnings.warn(f"skipped {entry.reason}", stacklevel=2)

        return run()


def all_finite(raw: Any) -> bool:
    """Tell whether a network's raw tensors hold no NaN: of each the sum, which one of them spoils."""
    tensors = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, (list, tuple)) else [raw]
    return not any(
        isinstance(tensor, Tensor) and tensor.is_floating_point() and bool(tensor.sum(dtype=torch.float64).isnan())
        for tensor in tensors
    )


def _preprocessing(model: DetectionModel, imgsz: int | tuple[int, int] | None) -> Preprocessing:
    """Return how a model's images become its input at some size.

    Raises:
        ConfigError: The size does not fit the model.
    """
    known = model.preprocessing.for_divisor(model.size_divisor)
    if imgsz is None:
        return known
    if not isinstance(imgsz, int) and len(imgsz) != 2:
        raise ConfigError(f"imgsz={imgsz}; expected one side, or height and width")
    chosen = known.at(imgsz)
    if known.resize == "shortest":  # it is padded to what fits
        if min(chosen.size) < 1:
            raise ConfigError(f"imgsz={imgsz}; expected at least 1")
        return chosen
    for side in chosen.size:
        if side < 1 or side % model.size_divisor:
            lower = max(1, side // model.size_divisor) * model.size_divisor
            higher = lower + model.size_divisor
            raise ConfigError(f"imgsz={side}; expected a multiple of {model.size_divisor}, such as {lower} or {higher}")
    return chosen


def _masks(grids: Tensor, boxes_xyxy: Tensor, size: tuple[int, int]) -> NDArray[np.bool_] | CompactMask:
    """Return masks ``(K, *size)``; packed where they would take more than :data:`MOST_BYTES`."""
    pairs = list(zip(grids, boxes_xyxy, strict=True))
    if len(pairs) * size[0] * size[1] <= MOST_BYTES:
        laid = np.zeros((len(pairs), *size), np.bool_)
        for into, (grid, box) in zip(laid, pairs, strict=True):
            into[...] = in_image(grid, box, size)
        return laid
    from supervision import CompactMask

    texts = [packed_in_image(grid, box, size) for grid, box in pairs]
    hulls = np.stack([rle.box(text, size) for text in texts])
    hulls[:, 2:] += hulls[:, :2] - 1  # of the last pixels
    return CompactMask.from_coco_rle([rle.as_coco(text, size) for text in texts], hulls, size)


def _detections(found: Instances, placement: Placement, class_names: Sequence[str], image: SourceImage) -> Detections:
    """Return objects in pixels of the input as supervision's detections in pixels of the whole image."""
    from supervision import Detections

    class_ids = found.class_ids.cpu().numpy()
    height, width = image.size
    boxes = placement.to_image(found.boxes_xyxy.cpu())
    return Detections(
        xyxy=boxes.numpy().astype(np.float32).reshape(-1, 4),
        confidence=found.scores.cpu().numpy().astype(np.float32),
        class_id=class_ids.astype(int),
        mask=None if found.masks is None else _masks(found.masks.float().cpu(), boxes, image.size),
        data={"class_name": np.array([class_names[index] for index in class_ids], dtype=str)},
        metadata={"source": image.name, "frame": image.frame, "width": width, "height": height},
    )
