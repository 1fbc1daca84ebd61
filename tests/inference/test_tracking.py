"""Objects keep their number through a made sequence; lines and zones count what crosses them and is in them."""

import csv
import json
import os
import signal
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from crossstage.cli import main
from crossstage.errors import ConfigError
from crossstage.inference.counting import counts_of
from crossstage.inference.predictor import Predictor
from crossstage.inference.tracking import Tracker, TrackerKind, weak
from crossstage.inference.tracking_run import TrackOutputs, track_to_files
from crossstage.ops.nms import NMS, postprocess
from crossstage.structures import Preprocessing

pytest.importorskip("trackers")

FRAMES, SIDE = 40, 160


class Bright:
    """Finds bright rectangles; dim ones score little."""

    class_names = ("dim", "block")
    size_divisor = 1
    nms = NMS()
    preprocessing = Preprocessing((SIDE, SIDE), "stretch")

    def __call__(self, images: Tensor) -> Tensor:
        return images

    def detect(self, raw, image_size, nms=None, sizes=None):
        found = []
        for image in raw:
            grey = image[0].numpy()
            labels, _ = ndimage.label(grey > 0.25)
            slices = ndimage.find_objects(labels)
            boxes = torch.tensor([[c.start, r.start, c.stop, r.stop] for r, c in slices], dtype=torch.float32)
            scores = torch.zeros(1, len(slices), 2)
            for number, place in enumerate(slices):
                scores[0, number, 1] = float(grey[place].max())
            found += postprocess(boxes.reshape(1, -1, 4), scores, nms)
        return found


def _boxes(frame: int) -> list[tuple[int, int, int, int]]:
    """One block that goes right, one that goes left below it, one that stands."""
    return [(5 + 3 * frame, 20, 25 + 3 * frame, 40), (130 - 3 * frame, 80, 150 - 3 * frame, 100), (70, 120, 90, 140)]


def _frame(number: int) -> np.ndarray:
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    for index, (left, top, right, bottom) in enumerate(_boxes(number)):
        dim = index == 0 and 10 <= number < 14  # hardly seen for a while
        image[top:bottom, max(0, left) : max(0, right)] = 80 if dim else 255
    return image


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "blocks.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = SIDE, SIDE, "yuv420p", 4_000_000
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_frame(number), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("kind", ["bytetrack", "ocsort"])
def test_a_made_sequence_is_followed_without_a_switch(video: Path, tmp_path: Path, kind: TrackerKind) -> None:
    from trackers.eval.evaluate import evaluate_mot_sequence

    counts = counts_of(["80,0,80,110"], ["60,105,110,105,110,159,60,159"])
    outputs = TrackOutputs(tmp_path / "save", tmp_path / "t.jsonl", tmp_path / "t.csv", tmp_path / "mot")
    predictor = Predictor(Bright(), weak(NMS(score=0.5)))
    summary = track_to_files(predictor, video, outputs, kind=kind, conf=0.5, counts=counts, progress=False)
    assert (summary.frames, summary.tracks) == (FRAMES, {"block": 3})
    truth = tmp_path / "gt.txt"
    lines = []
    for number in range(FRAMES):
        for index, (left, top, right, bottom) in enumerate(_boxes(number), start=1):
            start, width = max(0, left), min(SIDE, right) - max(0, left)
            if width > 2:
                lines.append(f"{number + 1},{index},{start},{top},{width},{bottom - top},1,1,1")
    truth.write_text("\n".join(lines))
    scores = evaluate_mot_sequence(truth, tmp_path / "mot" / "blocks.txt", ["CLEAR", "HOTA", "Identity"])
    assert scores.CLEAR is not None and scores.HOTA is not None and scores.Identity is not None
    assert scores.CLEAR.IDSW == 0
    assert scores.CLEAR.MOTA > 0.9
    assert scores.HOTA.HOTA > 0.8
    assert scores.Identity.IDF1 > 0.9
    (line,), (zone,) = summary.counts.lines, summary.counts.zones
    assert {line.crossed_in, line.crossed_out} == {1}
    assert (zone.most, len(zone.ids)) == (1, 1)
    entries = [json.loads(text) for text in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [entry["frame"] for entry in entries] == list(range(FRAMES))
    assert len({one["track_id"] for entry in entries for one in entry["detections"]}) == 3
    assert entries[-1]["lines"] == [{"in": 1, "out": 1}]
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(entry["detections"]) for entry in entries)
    with av.open(str(tmp_path / "save" / "blocks.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES


def test_frames_of_a_folder_are_one_sequence(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(6):
        Image.fromarray(_frame(number)).save(tmp_path / f"{number:03}.png")
    out = tmp_path / "out"
    summary = track_to_files(Predictor(Bright()), tmp_path, TrackOutputs(mot=out), frame_rate=25, progress=False)
    assert summary.tracks == {"block": 3}
    rows = [line.split(",") for line in (out / "frames.txt").read_text().splitlines()]
    assert sorted({int(row[0]) for row in rows})[-5:] == [2, 3, 4, 5, 6]  # a track may need two frames to be sure of


def test_objects_of_several_videos_are_counted_apart(video: Path, tmp_path: Path) -> None:
    """Each video's first object would be taken for the last one's, and for one that jumps over the line."""
    folder = tmp_path / "videos"
    for place in ("a", "b"):
        (folder / place).mkdir(parents=True)
        (folder / place / "blocks.mp4").write_bytes(video.read_bytes())
    counts = counts_of(["80,0,80,110"], [])
    outputs = TrackOutputs(mot=tmp_path / "mot")
    summary = track_to_files(Predictor(Bright()), folder, outputs, counts=counts, progress=False)
    assert summary.tracks == {"block": 6}
    (line,) = summary.counts.lines
    assert (line.crossed_in, line.crossed_out) == (2, 2)
    numbers = [
        {row.split(",")[1] for row in (tmp_path / "mot" / name).read_text().splitlines()}
        for name in ("blocks.txt", "blocks-2.txt")
    ]
    assert [len(each) for each in numbers] == [3, 3] and not numbers[0] & numbers[1]


def test_a_signal_keeps_the_frames_that_are_finished(video: Path, tmp_path: Path) -> None:
    class Signalled(Bright):
        def detect(self, raw, image_size, nms=None, sizes=None):
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().detect(raw, image_size, nms, sizes)

    outputs = TrackOutputs(json=tmp_path / "t.jsonl", csv=tmp_path / "t.csv")
    summary = track_to_files(Predictor(Signalled()), video, outputs, progress=False)
    assert summary.signal == signal.SIGTERM and 0 < summary.frames < FRAMES
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == summary.frames
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.jsonl"]


def test_an_empty_frame_has_no_tracks() -> None:
    from supervision import Detections

    found = Tracker().update(Detections.empty())
    assert len(found) == 0 and found.tracker_id is not None


@pytest.mark.parametrize(
    ("lines", "zones", "told"),
    [
        (["1,2,3"], [], "3 numbers; expected x and y of 2 corners"),
        (["1,2,1,2"], [], "corners that are the same"),
        (["1,2,3,x"], [], "found 'x', expected a finite number"),
        ([], ["1,2,3,4"], "expected x and y of at least 3 corners"),
    ],
)
def test_lines_and_zones_that_make_no_sense_are_refused(lines, zones, told) -> None:
    with pytest.raises(ConfigError, match=told):
        counts_of(lines, zones)


def test_an_output_never_replaces_the_video(video: Path, capsys) -> None:
    before = video.read_bytes()
    assert main(["track", str(video), "--csv", str(video), "--imgsz", "64"]) == 2
    assert "would replace the source" in capsys.readouterr().err
    assert video.read_bytes() == before


def test_the_verb_follows_nothing_in_an_empty_scene(video: Path, tmp_path: Path, capsys) -> None:
    assert main(["track", str(video), "--imgsz", "64", "--json", str(tmp_path / "x.jsonl"), "--quiet"]) == 0
    assert "followed in 40 frames" in capsys.readouterr().out
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == FRAMES
