"""Pictures to classes."""

from __future__ import annotations

import json as json_format
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from crossstage.errors import ConfigError
from crossstage.files import write_text
from crossstage.inference.images import Pixels
from crossstage.inference.model import Preprocessing
from crossstage.inference.preprocess import prepare
from crossstage.inference.sources import Source, Unreadable

if TYPE_CHECKING:
    from rich.console import Console

LISTED = 20


class ClassificationModel(Protocol):
    """A classifier as inference sees it."""

    preprocessing: Preprocessing | None
    class_names: tuple[str, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of ``(N, 3, H, W)`` normalised images."""
        ...


@dataclass(frozen=True)
class Classification:
    """What a picture shows.

    Attributes:
        source: The picture.
        class_ids: The likeliest classes, best first.
        class_names: Their names.
        probabilities: Theirs, from 0 to 1.
        milliseconds: Preprocessing and forward pass.
    """

    source: str
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]
    milliseconds: float


class ClassPredictor:
    """A classifier, ready for pictures.

    Args:
        model: Any classifier; a module is put in evaluation mode.
        imgsz: Side of the input in pixels; None takes the size it was trained at.
        top: How many classes to tell.

    Raises:
        ConfigError: Nobody knows how the model's pictures are to be prepared, or an option is out of range.
    """

    def __init__(self, model: ClassificationModel, *, imgsz: int | None = None, top: int = 5) -> None:
        if model.preprocessing is None:
            raise ConfigError("the classifier has no preprocessing, as before training; expected trained weights")
        if top < 1 or (imgsz is not None and imgsz < 1):
            raise ConfigError(f"top={top}, imgsz={imgsz}; expected at least 1")
        self.model, self.top = model, top
        if isinstance(model, torch.nn.Module):
            model.eval()
        size = (imgsz, imgsz) if imgsz else model.preprocessing.size
        self.preprocessing = replace(model.preprocessing, size=size)
        parameters = getattr(model, "parameters", lambda: iter(()))()
        self.device = next((parameter.device for parameter in parameters), torch.device("cpu"))

    @torch.inference_mode()
    def classify(self, image: Pixels, source: str = "picture") -> Classification:
        """Classify one picture, ``(H, W, 3)`` RGB uint8."""
        start = time.perf_counter()
        tensor, _ = prepare(image, self.preprocessing.size, self.preprocessing.resize)
        logits = self.model(self.preprocessing.normalise(tensor.unsqueeze(0).to(self.device)))[0]
        best = logits.float().softmax(0).topk(min(self.top, len(logits)))
        ids = best.indices.tolist()
        names = self.model.class_names or tuple(map(str, range(len(logits))))
        return Classification(
            source,
            tuple(ids),
            tuple(names[index] for index in ids),
            tuple(best.values.tolist()),
            (time.perf_counter() - start) * 1e3,
        )

    def predict(self, source: Any) -> Iterator[Classification | Unreadable]:
        """Classify every picture of a source, see :class:`~crossstage.inference.Source`.

        Raises:
            DataError: Nothing was found at ``source``.
        """
        for entry in Source(source):
            yield entry if isinstance(entry, Unreadable) else self.classify(entry.image, entry.name)


def classify_to_files(predictor: ClassPredictor, source: Any, console: Console, *, json: Path | None = None) -> int:
    """Classify every picture of a source, print what they show, and write it as JSON lines if asked to.

    Returns:
        How many files could not be read.

    Raises:
        DataError: Nothing was found at ``source``, or the file cannot be written.
    """
    results: list[Classification] = []
    unreadable = 0
    for entry in predictor.predict(source):
        if isinstance(entry, Unreadable):
            unreadable += 1
            console.print(f"skipped {entry.reason}", style="yellow", markup=False, highlight=False, soft_wrap=True)
            continue
        results.append(entry)
        if len(results) <= LISTED:
            told = ", ".join(f"{n} {p:.2f}" for n, p in zip(entry.class_names, entry.probabilities, strict=True))
            console.print(f"{entry.source}: {told}", markup=False, highlight=False, soft_wrap=True)
    counts = Counter(entry.class_names[0] for entry in results)
    total = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    console.print(f"{len(results)} pictures: {total}", markup=False, highlight=False, soft_wrap=True)
    if json is not None:
        write_text(json, "".join(_line(entry) for entry in results))
    return unreadable


def _line(entry: Classification) -> str:
    classes: Sequence[dict[str, Any]] = [
        {"class_id": index, "class_name": name, "probability": round(probability, 6)}
        for index, name, probability in zip(entry.class_ids, entry.class_names, entry.probabilities, strict=True)
    ]
    return json_format.dumps({"source": entry.source, "classes": classes}, ensure_ascii=False) + "\n"
