"""Images to classes."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crossstage.errors import ConfigError
from crossstage.inference.drawing import caption
from crossstage.inference.images import Pixels
from crossstage.inference.model import ClassificationModel
from crossstage.inference.outputs import Inputs
from crossstage.inference.pipeline import Prepared, prepared_batches, side_by_side
from crossstage.inference.preprocessing import prepare, stack
from crossstage.inference.sources import Source, SourceImage, Unreadable
from crossstage.inference.writing import AnnotatedCopies, JsonLines
from crossstage.machine import StopRequests
from crossstage.reading.text import visible

if TYPE_CHECKING:
    from rich.console import Console

LISTED = 20


@dataclass(frozen=True)
class Classification:
    """What an image shows.

    Attributes:
        source: What to call the image in messages, usually its path.
        class_ids: Ids of the likeliest classes, best first.
        class_names: Names of these classes.
        probabilities: Probabilities of these classes, from 0 to 1.
        milliseconds: How long preprocessing and forward pass took.
    """

    source: str
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    probabilities: tuple[float, ...]
    milliseconds: float


class ClassPredictor:
    """A classifier, ready for images.

    Args:
        model: Any classifier; a module is put in evaluation mode.
        imgsz: Side of the input in pixels, or its height and width; None takes the size it was trained at.
        top: How many classes to name, the likeliest first.
        batch: Images that share a forward pass.
        streams: Passes that :meth:`predict` computes side by side, which share torch's threads.

    Raises:
        ConfigError: Nobody knows how the model's images are to be prepared, or an option is out of range.
    """

    def __init__(
        self,
        model: ClassificationModel,
        *,
        imgsz: int | tuple[int, int] | None = None,
        top: int = 5,
        batch: int = 1,
        streams: int = 1,
    ) -> None:
        if model.preprocessing is None:
            raise ConfigError("the classifier has no preprocessing, as before training; expected trained weights")
        sides = (imgsz,) if isinstance(imgsz, int) else imgsz or ()
        if min(top, batch, streams, *sides) < 1:
            raise ConfigError(f"top={top}, batch={batch}, streams={streams}, imgsz={imgsz}; expected at least 1")
        self.model, self.top, self.batch, self.streams = model, top, batch, streams
        if isinstance(model, torch.nn.Module):
            model.eval()
        known = model.preprocessing.for_divisor(getattr(model, "size_divisor", 1))
        self.preprocessing = known.at(imgsz) if imgsz else known
        parameters = getattr(model, "parameters", lambda: iter(()))()
        first = next(parameters, torch.zeros(()))
        self.device, self.dtype = first.device, first.dtype

    def classify(self, image: Pixels, source: str = "image") -> Classification:
        """Classify one image, ``(H, W, 3)`` RGB uint8."""
        return self.classify_batch([image], [source])[0]

    def classify_batch(self, images: Sequence[Pixels], sources: Sequence[str] = ()) -> list[Classification]:
        """Classify images that share a forward pass, each ``(H, W, 3)`` RGB uint8."""
        start = time.perf_counter()
        tensors = [prepare(image, self.preprocessing)[0] for image in images]
        share = (time.perf_counter() - start) * 1e3 / len(images)
        return self._classify(tensors, sources or ["image"] * len(images), [share] * len(images))

    @torch.inference_mode()
    def _classify(
        self, prepared: Sequence[Tensor], names: Sequence[str], milliseconds: Sequence[float]
    ) -> list[Classification]:
        """Classify prepared images, each of which took some milliseconds to prepare."""
        start = time.perf_counter()
        images = stack(prepared, self.preprocessing).to(self.device)
        logits = self.model(self.preprocessing.normalise(images).to(self.dtype))
        if self.model.class_names and logits.shape[1] != len(self.model.class_names):
            raise ConfigError(
                f"the model gives {logits.shape[1]} scores, and it has {len(self.model.class_names)} names of classes; "
                "is it damaged?"
            )
        class_names = self.model.class_names or tuple(map(str, range(logits.shape[1])))
        best = [row.float().softmax(0).topk(min(self.top, len(row))) for row in logits]
        ids, probabilities = [row.indices.tolist() for row in best], [row.values.tolist() for row in best]
        share = (time.perf_counter() - start) * 1e3 / len(names)
        return [
            Classification(name, tuple(found), tuple(class_names[i] for i in found), tuple(likely), spent + share)
            for name, found, likely, spent in zip(names, ids, probabilities, milliseconds, strict=True)
        ]

    def predict(self, source: Any) -> Iterator[Classification | Unreadable]:
        """Classify every image of a source, see :class:`~crossstage.inference.sources.Source`.

        The next images are read and prepared by threads meanwhile; JPEGs of at least four times the input's size are
        read at a reduced scale.

        Raises:
            DataError: Nothing was found at ``source``.
        """
        return (found for _, found in self.stream(Source(source)))

    def stream(
        self, images: Source, *, whole: bool = False
    ) -> Generator[tuple[SourceImage | None, Classification | Unreadable]]:
        """Classify every image of a source that has been looked up; see :meth:`predict`.

        Args:
            images: The source.
            whole: Read every pixel.

        Yields:
            What was read, None for what cannot be, and what it shows.
        """
        groups = prepared_batches(images, self.preprocessing, batch=self.batch, whole=whole)
        with closing(side_by_side(groups, self.classify_group, self.streams)) as classified:
            for group in classified:
                yield from group

    def classify_group(
        self, group: Sequence[Prepared | Unreadable]
    ) -> list[tuple[SourceImage | None, Classification | Unreadable]]:
        """Classify a group of prepared images that share a forward pass; see :meth:`stream`."""
        readable = [entry for entry in group if isinstance(entry, Prepared)]
        names, spent = [entry.image.name for entry in readable], [entry.milliseconds for entry in readable]
        found = iter(self._classify([entry.tensor for entry in readable], names, spent) if readable else [])
        return [
            (None, entry) if isinstance(entry, Unreadable) else (entry.image, _numbers_only(next(found)))
            for entry in group
        ]


def _numbers_only(found: Classification) -> Classification | Unreadable:
    """Return what an image shows, unless that is no number: then it shows nothing that anybody knows."""
    if all(map(math.isfinite, found.probabilities)):
        return found
    return Unreadable(found.source, f"{found.source}: the network's numbers overflowed (NaN); is the model damaged?")


@dataclass(frozen=True)
class Classified:
    """What a run did.

    Attributes:
        unreadable: How many files could not be read.
        signal: The number of the signal that ended the run before its source; 0 if there was none.
    """

    unreadable: int
    signal: int


def classify_to_files(
    predictor: ClassPredictor,
    source: Any,
    console: Console,
    *,
    json: Path | None = None,
    save: Path | None = None,
) -> Classified:
    """Classify every image of a source, print what they show, and write what was asked for.

    Args:
        predictor: A classifier and its options.
        source: Anything that :class:`~crossstage.inference.sources.Source` takes.
        console: Where to print.
        json: File for JSON lines.
        save: Folder for copies with the likeliest class.

    Returns:
        How it ended. A signal ends the run early; what was finished is written.

    Raises:
        DataError: Nothing was found at ``source``, or a file cannot be written, or would replace an image that is read.
    """
    images = Source(source)
    with StopRequests() if not images.live else nullcontext() as stop:  # what is live may let a program wait for ever
        return _classified(predictor, images, console, stop, json=json, save=save)


def _classified(
    predictor: ClassPredictor,
    images: Source,
    console: Console,
    stop: StopRequests | None,
    *,
    json: Path | None,
    save: Path | None,
) -> Classified:
    """See :func:`classify_to_files`; between two images, a request to stop is heeded."""
    counts, unreadable, signal = Counter[str](), 0, 0
    inputs = Inputs(images.files)
    if json:
        inputs.check(json, "the file of classes")
    with ExitStack() as files:
        copies = AnnotatedCopies(save, inputs, json) if save else None
        lines = JsonLines(json) if json else None
        for output in (lines, copies):
            if output:
                files.callback(output.close)
        try:
            for image, entry in predictor.stream(images, whole=save is not None):
                if stop and stop.received:
                    signal = stop.received
                    break
                if isinstance(entry, Unreadable):
                    unreadable += 1
                    _print(console, f"skipped {entry.reason}", style="yellow")
                    continue
                best = f"{entry.class_names[0]} {entry.probabilities[0]:.2f}"
                if lines:
                    lines.write(classes_as_json(entry))
                if copies and image:
                    copies.write(image, caption(image.pixels, best))
                counts[entry.class_names[0]] += 1
                if counts.total() <= LISTED:
                    classes = zip(entry.class_names, entry.probabilities, strict=True)
                    _print(console, f"{entry.source}: {', '.join(f'{name} {share:.2f}' for name, share in classes)}")
        except KeyboardInterrupt as error:
            signal = getattr(error, "signal", int(SIGINT))
    total = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    _print(console, f"{counts.total()} images{', interrupted' if signal else ''}: {total}")
    for path in filter(None, (json, save, lines.rescued if lines else None)):
        _print(console, f"written: {path}")
    return Classified(unreadable, signal)


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(visible(text), style=style, markup=False, highlight=False, soft_wrap=True)


def classes_as_json(entry: Classification) -> dict[str, Any]:
    """Return a classification as plain values, probabilities to a millionth."""
    classes: Sequence[dict[str, Any]] = [
        {"class_id": index, "class_name": name, "probability": round(probability, 6)}
        for index, name, probability in zip(entry.class_ids, entry.class_names, entry.probabilities, strict=True)
    ]
    return {"source": entry.source, "classes": classes}
