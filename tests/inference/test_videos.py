"""Videos: upright, in time, and safe to open."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from crossstage.inference.predictor import Predictor
from crossstage.inference.run import predict_to_files
from crossstage.inference.sources import Source, SourceImage, Unreadable
from crossstage.inference.videos import VIDEO_SUFFIXES, _turned
from tests.inference.test_output import FixedBox

TIMES = (0.0, 0.1, 0.2, 2.0, 2.5)


def write(path, times=TIMES, codec="mpeg4", format=None, size=(48, 64)):
    """Write frames whose upper left quarter is white, each at its time."""
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            pixels = np.zeros((*size, 3), np.uint8)
            pixels[: size[0] // 2, : size[1] // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["v.mp4", "v.MKV", "v.3gp", "v.mov", "v.mts", "v.m2ts", "v.unknown"])
def test_frames_keep_their_times_in_any_container(name, tmp_path):
    suffix = name.rpartition(".")[2].lower()
    formats = {"mts": "mpegts", "m2ts": "mpegts", "unknown": "mp4", "mkv": "matroska", "3gp": "3gp"}
    write(tmp_path / name, format=formats.get(suffix), size=(144, 176))
    found = [image for image in Source(tmp_path / name) if isinstance(image, SourceImage)]
    assert [image.frame for image in found] == [0, 1, 2, 3, 4]
    assert [image.time_s for image in found] == pytest.approx(list(TIMES), abs=0.002)
    assert found[0].pixels[:30, :30].min() > 200 and found[0].pixels[100:].max() < 50


def test_copies_and_lines_keep_the_times(tmp_path):
    write(tmp_path / "v.mp4")
    predict_to_files(Predictor(FixedBox()), tmp_path / "v.mp4", save=tmp_path / "out", json=tmp_path / "v.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [line["time_s"] for line in lines] == pytest.approx(list(TIMES))
    with av.open(str(tmp_path / "out" / "v.mp4")) as container:
        assert [float(frame.time) for frame in container.decode(video=0)] == pytest.approx(list(TIMES), abs=0.001)


ONE = 1 << 16
MATRICES = {  # a right step and a step down, as they are shown; and the corner that the upper left one goes to
    "upright": ((ONE, 0, 0, ONE), "ul"),
    "a quarter to the right": ((0, ONE, -ONE, 0), "ur"),
    "half": ((-ONE, 0, 0, -ONE), "lr"),
    "a quarter to the left": ((0, -ONE, ONE, 0), "ll"),
    "mirrored": ((-ONE, 0, 0, ONE), "ur"),
    "upside down": ((ONE, 0, 0, -ONE), "ll"),
    "transposed": ((0, ONE, ONE, 0), "ul"),
    "across": ((0, -ONE, -ONE, 0), "lr"),
}


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrices_turn_and_mirror(name):
    (a, b, c, d), corner = MATRICES[name]
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0], pixels[0, 5] = 255, 100
    turned = _turned(pixels, np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes())
    assert turned.shape[:2] == ((6, 4) if a == 0 else (4, 6))
    row, column = (0 if corner[0] == "u" else -1), (0 if corner[1] == "l" else -1)
    assert turned[row, column, 0] == 255
    right = {"down": (-1 - row, column), "along": (row, -1 - column)}["down" if a == 0 else "along"]
    assert turned[right][0] == 100


def test_a_turned_file_is_shown_upright(tmp_path):
    write(tmp_path / "v.mp4")
    data = (tmp_path / "v.mp4").read_bytes()
    upright = np.array([ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = np.array([0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    track = data.find(upright, data.find(b"tkhd"))
    (tmp_path / "v.mp4").write_bytes(data[:track] + turned + data[track + len(turned) :])
    first = next(iter(Source(tmp_path / "v.mp4")))
    assert isinstance(first, SourceImage) and first.size == (64, 48)
    assert first.pixels[:24, 30:].min() > 180 and first.pixels[40:].max() < 70


def test_a_damaged_video_gives_its_frames_and_then_one_entry(tmp_path):
    data = write(tmp_path / "v.mkv", times=[i / 10 for i in range(40)]).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(write(tmp_path / "v.mp4").read_bytes()[:-300])
    for name, content in (("noise.mp4", b"\0\1\2\3" * 500), ("empty.mp4", b""), ("text.mp4", b"hello\n" * 100)):
        (tmp_path / name).write_bytes(content)
    for name in ("cut.mp4", "noise.mp4", "empty.mp4", "text.mp4"):
        (entry,) = Source(tmp_path / name)
        assert (
            isinstance(entry, Unreadable) and "cannot be read as a video" in entry.reason and "\n" not in entry.reason
        )
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    frames = [entry for entry in Source(tmp_path / "half.mkv") if isinstance(entry, SourceImage)]
    assert 5 < len(frames) < 40


@pytest.mark.parametrize("content", ["#EXTM3U\n#EXTINF:1,\n{0}\n", "ffconcat version 1.0\nfile '{0}'\n"])
def test_a_playlist_is_no_video(content, tmp_path):
    write(tmp_path / "inner.mp4")
    (tmp_path / "v.mp4").write_text(content.format("inner.mp4"))
    (entry,) = Source(tmp_path / "v.mp4")
    assert isinstance(entry, Unreadable)


def test_an_image_of_a_strange_name_is_still_an_image(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.data")
    (entry,) = Source(tmp_path / "a.data")
    assert isinstance(entry, SourceImage) and entry.time_s is None
    assert {".mts", ".3gp", ".m2ts", ".mp4", ".ts"} <= VIDEO_SUFFIXES
