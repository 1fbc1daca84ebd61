"""What a run leaves behind: annotated images and videos, and detections as JSON lines.

Everything is written beside its final place and moved there when it is whole; what was complete when a run was
interrupted is kept.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossstage.errors import DataError
from crossstage.files import whole_file, whole_text
from crossstage.inference.images import Pixels
from crossstage.inference.outputs import Inputs
from crossstage.inference.predictor import Prediction
from crossstage.inference.sources import SourceImage
from crossstage.ops import rle
from crossstage.scratch import rescued

if TYPE_CHECKING:
    from av.container import OutputContainer

_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")


@contextmanager
def _errors_about(path: Path) -> Iterator[None]:
    import av.error

    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, av.error.FFmpegError) as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


class JsonLines:
    """One JSON object for each image or frame.

    Args:
        path: The file, which appears when the writer is closed; a device or pipe gets every line at once.

    Attributes:
        rescued: The file with the lines that a killed run had written for the same path; None if there was none.

    Raises:
        DataError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rescued = rescued(path)
        self._whole = ExitStack()
        self._file = self._whole.enter_context(whole_text(path))

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add one line of plain values, which is out of this process's hands at once: a kill loses none."""
        with _errors_about(self._path):
            self._file.write(json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Move the file to its place."""
        self._whole.close()


def as_json(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as plain values: boxes to 0.01 pixel, confidences to 0.0001, masks as COCO's packed RLE."""
    image, found = prediction.image, prediction.detections
    assert found.confidence is not None and found.class_id is not None
    masks = [{}] * len(found) if found.mask is None else [{"mask": _as_rle(mask)} for mask in found.mask]
    rows = zip(found.class_id, found.data["class_name"], found.confidence, found.xyxy, masks, strict=True)
    return {
        "source": image.name,
        "frame": image.frame,
        **({} if image.time_s is None else {"time_s": round(image.time_s, 6)}),
        "width": image.size[1],
        "height": image.size[0],
        "detections": [
            {
                "class_id": int(class_id),
                "class_name": str(name),
                "confidence": round(float(confidence), 4),
                "box_xyxy": [round(float(side), 2) for side in box],
                **mask,
            }
            for class_id, name, confidence, box, mask in rows
        ],
    }


def _as_rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    height, width = mask.shape
    return rle.as_coco(rle.pack(mask), (height, width))


class AnnotatedCopies:
    """Annotated copies of images and videos below a folder.

    An image keeps its place below the source's folder; PNG and JPEG keep their name, other formats become JPEG with
    ``.jpg`` appended, videos become MP4.

    Args:
        folder: Where the copies go; made if it is not there.
        inputs: The files that the run reads, none of which a copy may replace.
        taken: Another file that the run writes.

    Raises:
        DataError: ``folder`` is a file or cannot be written.
    """

    def __init__(self, folder: Path, inputs: Inputs, taken: Path | None = None) -> None:
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder}: is a file; expected a folder for annotated copies")
        with _errors_about(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._inputs = folder, inputs
        self._taken: dict[str, str] = {} if taken is None else {_spelled(taken): ""}
        self._video: _Video | None = None

    def write(self, image: SourceImage, drawn: Pixels) -> None:
        """Add one image, or one frame to its video.

        Args:
            image: What was read.
            drawn: The annotated copy of its pixels.
        """
        if image.frame is None:
            self._close_video()
            path = self._place(image.relative, image.name)
            with _errors_about(path):
                _save_image(drawn, path)
            return
        if image.frame == 0 or self._video is None:
            self._close_video()
            path = self._place(image.relative, image.name, suffix=".mp4")
            with _errors_about(path):
                self._video = _Video(path, drawn, image.frame_rate or 25)
        with _errors_about(self._video.path):
            self._video.write(drawn, image.time_s)

    def close(self) -> None:
        """Finish the last video."""
        self._close_video()

    def _close_video(self) -> None:
        if self._video is not None:
            video, self._video = self._video, None
            with _errors_about(video.path):
                video.close()

    def _place(self, relative: PurePath, name: str, suffix: str | None = None) -> Path:
        """Return a path that no other source's copy has taken."""
        suffix = suffix or ("" if relative.suffix.lower() in _KEPT_SUFFIXES else ".jpg")
        first = relative if suffix == relative.suffix else relative.with_name(relative.name + suffix)
        path, number = self._folder / first, 1
        while self._taken.get(_spelled(path), name) != name:
            number += 1
            path = self._folder / first.with_name(f"{first.stem}-{number}{first.suffix}")
        self._inputs.add(name)
        self._inputs.check(path, "the annotated copy")
        self._taken[_spelled(path)] = name
        return path


def _spelled(path: Path) -> str:
    """Return a path as the system compares it: all but Linux's do not tell upper from lower case."""
    whole = str(path.absolute())
    return whole if sys.platform == "linux" else whole.casefold()


def _save_image(image: Pixels, path: Path) -> None:
    with whole_file(path) as temporary:
        Image.fromarray(image).save(temporary, quality=92)


def _tick(frame_rate: float) -> Fraction:
    """Return the unit of a video's times, of which a frame at its rate takes a whole number: some 1/60000 s."""
    whole = Fraction(frame_rate).limit_denominator(1001).numerator
    return Fraction(1, whole * max(1, round(60_000 / whole)))


class _Video:
    """An MP4 of annotated frames, each scaled to the first's size, less a pixel where that is odd, as H.264 needs.

    Frames keep their times; those without one follow each other at the video's rate.
    """

    def __init__(self, path: Path, first: Pixels, frame_rate: float) -> None:
        import av

        self.path = path
        with ExitStack() as stack:
            temporary = stack.enter_context(whole_file(path))
            self._container: OutputContainer = av.open(str(temporary), "w", format="mp4")
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=Fraction(frame_rate).limit_denominator(60_000))
            self._stream.height, self._stream.width = (max(2, side - side % 2) for side in first.shape[:2])
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = self._tick = _tick(frame_rate)
            self._step = round(1 / (frame_rate * self._tick))  # ticks from a frame to the next at that rate
            self._last = -self._step
            if codec == "mpeg4":
                self._stream.bit_rate = first.shape[0] * first.shape[1] * 8
            self._whole = stack.pop_all()

    def write(self, image: Pixels, time_s: float | None) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(self._stream.width, self._stream.height)
        wanted = self._last + self._step if time_s is None else round(time_s / self._tick)
        self._last = max(wanted, self._last + 1)  # no two at once
        frame.pts, frame.time_base = self._last, self._tick
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> None:
        with self._whole:
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
