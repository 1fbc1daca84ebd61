"""A model in a runtime as a server sees it: what images become for it, how they are run, and what is answered."""

from __future__ import annotations

import copy
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np
from PIL import Image

from crossstage.deploy.exported import ExportedDetector
from crossstage.deploy.open import Opened, open_model
from crossstage.errors import ConfigError, WeightsError
from crossstage.inference.classify import Classification, ClassPredictor, classes_as_json
from crossstage.inference.images import load_reduced
from crossstage.inference.pipeline import Prepared, least_size
from crossstage.inference.predictor import Prediction, Predictor
from crossstage.inference.preprocessing import prepare
from crossstage.inference.sources import SourceImage
from crossstage.inference.writing import as_json
from crossstage.ops.nms import NMS, changed

CONF, MOST_DETECTIONS = 0.25, 300
"""What detections score more than, and the most of an image, where nothing else is said; as of ``predict``."""

Answer = Prediction | Classification
_NO_PIXELS = np.zeros((1, 1, 3), np.uint8)  # nobody looks at an image again when it is prepared


@dataclass(frozen=True)
class Served:
    """A model in a runtime, ready for requests.

    Attributes:
        name: What requests call the model.
        opened: The model.
    """

    name: str
    opened: Opened

    @property
    def runtime(self) -> str:
        """The name of the backend that runs it."""
        return self.opened.runtime

    @cached_property
    def predictor(self) -> Predictor | ClassPredictor:
        """The model with its options checked; for a detector with the settings that hold where a request has none."""
        how = {"imgsz": self.opened.imgsz, "batch": self.opened.batch, "streams": self.opened.streams}
        if self.opened.classifier is not None:
            return ClassPredictor(self.opened.classifier, **how)
        assert self.opened.detector is not None
        return Predictor(self.opened.detector, self._usual(self.opened.detector.nms), **how)

    def _usual(self, own: NMS) -> NMS:
        if self.fixed is None:
            return replace(own, score=CONF, max_detections=MOST_DETECTIONS)
        score, most = max(CONF, self.fixed.score), min(MOST_DETECTIONS, self.fixed.max_detections)
        return replace(own, score=score, max_detections=most)

    @property
    def fixed(self) -> NMS | None:
        """How boxes are suppressed inside an exported file's graph; None if that is not done there."""
        detector = self.opened.detector
        inside = isinstance(detector, ExportedDetector) and detector.header.outputs in ("detections", "instances")
        return detector.nms if detector is not None and inside else None

    def settings(self, conf: float | None, iou: float | None, max_detections: int | None) -> NMS | None:
        """Return how a request wants boxes to become detections; None for a classifier.

        Args:
            conf: Detections score more than this; None takes the usual.
            iou: Of two boxes of a class that overlap more than this the weaker goes; None takes the model's own.
            max_detections: The most detections of an image; None takes the usual.

        Raises:
            ConfigError: The model cannot: it is a classifier, or suppresses boxes inside its graph in its own way.
        """
        predictor = self.predictor
        if isinstance(predictor, ClassPredictor):
            if (conf, iou, max_detections) != (None, None, None):
                raise ConfigError(f"{self.name} is a classifier; conf, iou and max_detections are for detectors")
            return None
        wanted = changed(predictor.nms, score=conf, iou=iou, max_detections=max_detections)
        if (own := self.fixed) is not None and (
            wanted.score < own.score or wanted.iou != own.iou or wanted.max_detections > own.max_detections
        ):
            raise ConfigError(
                f"{self.name} suppresses boxes inside its graph; expected conf from {own.score}, iou {own.iou} and at "
                f"most {own.max_detections} detections"
            )
        return wanted

    def prepare(self, content: bytes, name: str) -> Prepared:
        """Read an image, a large JPEG at a reduced scale as ``predict`` does, and prepare it.

        Args:
            content: What a file of it holds.
            name: What the answer calls it.

        Raises:
            DataError: It cannot be read.
        """
        start = time.perf_counter()
        preprocessing = self.predictor.preprocessing
        pixels, size = load_reduced(content, least_size(preprocessing))
        decoded = time.perf_counter()
        tensor, placement = prepare(pixels, preprocessing)
        image = SourceImage(name, PurePath(name), _NO_PIXELS, None, None, (decoded - start) * 1e3, size)
        return Prepared(image, tensor, placement.of_whole(size), (time.perf_counter() - decoded) * 1e3)

    def run(self, group: Sequence[Prepared], settings: NMS | None) -> list[Answer]:
        """Run prepared images in one pass.

        Args:
            group: The images, as many as share a pass at most.
            settings: What :meth:`settings` returned.

        Raises:
            CrossStageError: The runtime failed, or the model's numbers are none.
        """
        predictor = self.predictor
        if isinstance(predictor, ClassPredictor):
            found = [entry for _, entry in predictor.classify_group(group)]
        else:
            predictor = copy.copy(predictor)  # the model is the same
            predictor.nms = settings or predictor.nms
            found = predictor.predict_group(None, group)
        answers = [entry for entry in found if isinstance(entry, Prediction | Classification)]
        if len(answers) < len(group) or not all(getattr(entry, "finite", True) for entry in answers):
            raise WeightsError(f"{self.name}: the network's numbers overflowed (NaN); is the model damaged?")
        return answers

    def answer(self, prepared: Prepared, found: Answer, since: float) -> dict[str, Any]:
        """Return what a client is told of an image: a line of ``predict --json``, the model, and milliseconds.

        Args:
            prepared: The image.
            found: What was found in it.
            since: The :func:`time.perf_counter` at which its bytes were there.
        """
        if isinstance(found, Prediction):
            line, run = as_json(found), found.milliseconds.forward + found.milliseconds.postprocess
        else:
            line, run = classes_as_json(found), found.milliseconds - prepared.milliseconds
        milliseconds = {"decode": prepared.image.decode_ms, "preprocess": prepared.milliseconds, "run": run}
        milliseconds["total"] = (time.perf_counter() - since) * 1e3
        rounded = {stage: round(value, 2) for stage, value in milliseconds.items()}
        return {**line, "model": self.name, "runtime": self.runtime, "milliseconds": rounded}

    def warm_up(self) -> None:
        """Go the whole way once, so that the first client need not wait for what is loaded when it is first used.

        Raises:
            CrossStageError: An option does not fit the model, or it does not run.
        """
        file = io.BytesIO()
        Image.new("RGB", (64, 64), "grey").save(file, "png")
        prepared = self.prepare(file.getvalue(), "warm-up")
        settings = self.settings(None, None, None)
        for found in self.run([prepared], settings):
            self.answer(prepared, found, time.perf_counter())

    def describe(self) -> dict[str, Any]:
        """Return what a client may want to know of it before it asks."""
        predictor = self.predictor
        height, width = predictor.preprocessing.size
        known: dict[str, Any] = {
            "name": self.name,
            "runtime": self.runtime,
            "task": "classify" if isinstance(predictor, ClassPredictor) else "detect",
            "classes": list(predictor.model.class_names),
            "input": {"height": height, "width": width},
        }
        if isinstance(predictor, Predictor):
            known["conf"] = {"default": predictor.nms.score, "least": self.fixed.score if self.fixed else 0.0}
            known["iou"] = {
                "default": predictor.nms.iou,
                "fixed": self.fixed is not None or predictor.nms.kind == "none",
            }
            known["max_detections"] = predictor.nms.max_detections
        return known


def names_of(models: Sequence[str]) -> list[str]:
    """Return what requests call some models: the last part of a path, or the whole where two end alike.

    Raises:
        ConfigError: A model is named twice.
    """
    if len(set(models)) < len(models):
        raise ConfigError(f"{next(name for name in models if models.count(name) > 1)} is named twice")
    short = [PurePath(name.rstrip("/\\")).name or name for name in models]
    return [brief if short.count(brief) == 1 else whole for brief, whole in zip(short, models, strict=True)]


def _open(model: str, runtime: str | None) -> Opened:
    return open_model(model, runtime=runtime)


def open_served(
    models: Sequence[str],
    runtimes: Sequence[str | None] = (None,),
    open_one: Callable[[str, str | None], Opened] = _open,
) -> list[Served]:
    """Open models, each in every runtime.

    Args:
        models: Their names or files.
        runtimes: Names of runtimes; None is a model's own.
        open_one: Opens one in one; by default as :func:`crossstage.open_model` does.

    Raises:
        CrossStageError: One cannot be opened, or is no model for images.
    """
    served = []
    for name, model in zip(names_of(models), models, strict=True):
        for runtime in runtimes:
            made = Served(name, open_one(model, runtime))
            made.warm_up()
            served.append(made)
    return served


def as_bytes(answer: Any) -> bytes:
    """Return JSON, in which every number is one."""
    return json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
