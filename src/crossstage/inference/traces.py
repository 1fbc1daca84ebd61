"""Tracked objects drawn: their boxes in a colour of their own, the way they came, lines and zones with their counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crossstage.inference.counting import Counts
from crossstage.inference.images import Pixels
from crossstage.inference.sources import SourceImage

if TYPE_CHECKING:
    from supervision import Detections

TRACE_S = 2.0  # seconds of an object's way that are drawn


class Traces:
    """Draws frames that follow each other.

    Args:
        counts: Lines and zones, which are drawn with what they have counted by then.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._trace = None

    def draw(self, image: SourceImage, found: Detections) -> Pixels:
        """Return a copy of a frame with its objects, which have a ``tracker_id``.

        Args:
            image: The frame.
            found: Its objects, in its pixels.
        """
        import supervision as sv

        size = (image.pixels.shape[1], image.pixels.shape[0])
        thickness = max(1, sv.calculate_optimal_line_thickness(size))
        scale = max(0.35, sv.calculate_optimal_text_scale(size))
        by_track = sv.ColorLookup.TRACK
        if self._trace is None or image.frame == 0:
            length = max(2, round(TRACE_S * (image.frame_rate or 30)))
            self._trace = sv.TraceAnnotator(thickness=thickness, trace_length=length, color_lookup=by_track)
        drawn = self._areas(image.pixels.copy(), thickness, scale)
        assert found.tracker_id is not None and found.confidence is not None
        names = found.data.get("class_name", np.empty(0, str))
        labels = [f"#{number} {name}" for number, name in zip(found.tracker_id, names, strict=True)]
        drawn = sv.BoxAnnotator(thickness=thickness, color_lookup=by_track).annotate(drawn, found)
        drawn = self._trace.annotate(drawn, found)
        return sv.LabelAnnotator(
            text_scale=scale, text_thickness=max(1, thickness // 2), text_padding=3, color_lookup=by_track
        ).annotate(drawn, found, labels)

    def _areas(self, drawn: Pixels, thickness: int, scale: float) -> Pixels:
        import supervision as sv

        colour = sv.Color.WHITE
        for zone in self._counts.zones:
            corners = zone.corners.round().astype(np.int64)
            drawn = sv.draw_polygon(drawn, corners, color=colour, thickness=thickness)
            centre = sv.Point(*corners.mean(0).tolist())
            text = f"{zone.now} ({len(zone.ids)} in all)"
            drawn = sv.draw_text(
                drawn, text, centre, text_color=sv.Color.BLACK, text_scale=scale, background_color=colour
            )
        for line in self._counts.lines:
            start, end = (sv.Point(*corner) for corner in line.corners.tolist())
            drawn = sv.draw_line(drawn, start, end, color=colour, thickness=thickness)
            middle = sv.Point(*line.corners.mean(0).tolist())
            text = f"{line.crossed_in} in, {line.crossed_out} out"
            drawn = sv.draw_text(
                drawn, text, middle, text_color=sv.Color.BLACK, text_scale=scale, background_color=colour
            )
        return drawn
