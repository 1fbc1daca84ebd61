"""Objects followed through a video: detections that keep a number from frame to frame.

The trackers are those of the package ``trackers``. Its association starts a track from a confident detection and
continues it with weak ones as well, so a detector that feeds it is asked for more than what is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from crossstage.errors import ConfigError, not_installed, one_of
from crossstage.inference.predictor import Prediction
from crossstage.inference.sources import Unreadable
from crossstage.ops.nms import NMS

if TYPE_CHECKING:
    from supervision import Detections

TrackerKind = Literal["bytetrack", "ocsort"]
WEAKEST = 0.1  # scores of detections that may continue a track, as in ByteTrack's release
MEMORY_S = 1.0  # seconds that an object may be out of sight and keep its number


def weak(nms: NMS) -> NMS:
    """Return how boxes become detections for a tracker, which continues tracks with weak ones as well."""
    return replace(nms, score=min(WEAKEST, nms.score))


class Tracker:
    """Numbers the objects of one video.

    Args:
        kind: ``"bytetrack"`` (arXiv 2110.06864), or ``"ocsort"`` (arXiv 2203.14360), which copes better with objects
            that turn and hide.
        conf: The score from which a detection starts a track.
        frame_rate: Frames per second, where frames have no times of their own.
        first: The least number that an object gets.

    Attributes:
        next: The least number that no object has got.

    Raises:
        ConfigError: The kind is unknown, or the package is not installed.
    """

    def __init__(
        self, kind: TrackerKind = "bytetrack", *, conf: float = 0.25, frame_rate: float = 30.0, first: int = 0
    ) -> None:
        if kind not in get_args(TrackerKind):
            raise ConfigError(f"tracker={kind!r}; {one_of(kind, get_args(TrackerKind))}")
        if find_spec("trackers") is None:
            raise not_installed("trackers", "track")
        from trackers import ByteTrackTracker, OCSORTTracker

        common = {
            "lost_track_buffer": round(30 * MEMORY_S),  # in frames of a thirtieth of a second, whatever the rate is
            "frame_rate": frame_rate,
            "high_conf_det_threshold": conf,
            "minimum_consecutive_frames": 1,
        }
        self._first = self.next = first
        if kind == "bytetrack":
            self._tracker: Any = ByteTrackTracker(track_activation_threshold=conf, **common)
        else:
            self._tracker = OCSORTTracker(**common)

    def update(self, found: Detections, time_s: float | None = None) -> Detections:
        """Number the objects of the next frame.

        Args:
            found: Its detections, weak ones included.
            time_s: Its time in seconds; None where frames follow each other at a fixed rate.

        Returns:
            Those that belong to a track, with ``tracker_id``; the order may differ.
        """
        numbered = self._tracker.update(found, timestamp=time_s)
        if numbered.tracker_id is None or not (numbered.tracker_id >= 0).any():
            none = _of(found, np.zeros(len(found), bool))  # the tracker's own empty detections lack names of classes
            none.tracker_id = np.empty(0, int)
            return none
        kept = _of(numbered, numbered.tracker_id >= 0)
        assert kept.tracker_id is not None
        kept.tracker_id = kept.tracker_id + self._first
        self.next = max(self.next, int(kept.tracker_id.max()) + 1)
        return kept


def _of(found: Detections, chosen: NDArray[np.bool_]) -> Detections:
    """Return some of the detections; indexing them has many types of results."""
    return cast("Detections", found[chosen])


def followed(
    predictions: Iterable[Prediction | Unreadable],
    kind: TrackerKind = "bytetrack",
    *,
    conf: float = 0.25,
    frame_rate: float | None = None,
) -> Iterator[Prediction | Unreadable]:
    """Number the objects of frames that follow each other; every video begins anew, and images are one sequence.

    No two objects have the same number, of whatever videos they are.

    Args:
        predictions: What a predictor yields, of detections that :func:`weak` lets pass.
        kind: The tracker, see :class:`Tracker`.
        conf: The score from which a detection starts a track.
        frame_rate: Frames per second of a sequence of images; a video tells its own.

    Yields:
        The same, with detections that belong to a track alone, and their ``tracker_id``.

    Raises:
        ConfigError: As :class:`Tracker`.
    """
    tracker: Tracker | None = None
    for entry in predictions:
        if isinstance(entry, Unreadable):
            yield entry
            continue
        image = entry.image
        if tracker is None or image.frame == 0:
            rate, first = image.frame_rate or frame_rate or 30.0, tracker.next if tracker else 0
            tracker = Tracker(kind, conf=conf, frame_rate=rate, first=first)
        yield replace(entry, detections=tracker.update(entry.detections, image.time_s))
