"""A run writes whole files, loses nothing when it is cut short, and never harms its sources."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from io import StringIO
from pathlib import Path

import av
import av.error
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from crossstage.errors import DataError
from crossstage.inference.predictor import Predictor
from crossstage.inference.run import Summary, predict_to_files, print_summary
from crossstage.inference.videos import Frame, NoVideoError
from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Preprocessing


class FixedBox:
    class_names = ("cat", "dog")
    preprocessing = Preprocessing((64, 64))
    size_divisor = 32
    nms = NMS()

    def __init__(self, interrupt_at=0):
        self.calls, self.interrupt_at = 0, interrupt_at

    def __call__(self, images):
        self.calls += 1
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        return [images]

    def detect(self, raw, image_size, nms=None, sizes=None):
        return [Instances(torch.tensor([[8.0, 16, 32, 48]]), torch.tensor([0.87654321]), torch.tensor([1]))]


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _lines(path: Path) -> list[dict]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def _write_video(path, frames=5, size=(48, 64), rate=12):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((*size, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in ("one.png", "sub/two.jpg", "photo.bmp", "photo.tif"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (128, 64), "navy").save(path)
    return tmp_path / "photos"


def test_annotated_copies_lie_where_their_images_lay(photos, tmp_path):
    predict_to_files(Predictor(FixedBox()), photos, save=tmp_path / "out")
    assert _files(tmp_path / "out") == ["one.png", "photo.bmp.jpg", "photo.tif.jpg", "sub/two.jpg"]
    for name, kind in (("one.png", "PNG"), ("sub/two.jpg", "JPEG"), ("photo.bmp.jpg", "JPEG")):
        with Image.open(tmp_path / "out" / name) as image:
            assert (image.format, image.size) == (kind, (128, 64))
            assert len(set(image.convert("RGB").get_flattened_data())) > 1


def test_images_of_the_same_name_do_not_replace_each_other(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / folder / "x.png")
    predict_to_files(Predictor(FixedBox()), [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"], save=tmp_path / "out")
    assert len(_files(tmp_path / "out")) == 2


@pytest.mark.parametrize("save", ["photos", "photos/../photos"])
def test_a_copy_never_replaces_its_source(photos, tmp_path, save):
    before = {name: (photos / name).read_bytes() for name in _files(photos)}
    with pytest.raises(DataError, match="replace the source"):
        predict_to_files(Predictor(FixedBox()), photos, save=tmp_path / save)
    assert all((photos / name).read_bytes() == content for name, content in before.items())


def test_json_lines_are_strict_and_tell_boxes_in_pixels(photos, tmp_path):
    predict_to_files(Predictor(FixedBox()), photos / "one.png", json=tmp_path / "deep" / "found.jsonl")
    assert _lines(tmp_path / "deep" / "found.jsonl") == [
        {
            "source": str(photos / "one.png"),
            "frame": None,
            "width": 128,
            "height": 64,
            "detections": [{"class_id": 1, "class_name": "dog", "confidence": 0.8765, "box_xyxy": [16, 16, 64, 48]}],
        }
    ]


@pytest.mark.parametrize("size", [(48, 64), (47, 65)])
def test_a_video_keeps_its_frames_and_rate(size, tmp_path):
    _write_video(tmp_path / "v.avi", size=size)
    predict_to_files(Predictor(FixedBox()), tmp_path / "v.avi", save=tmp_path / "out", json=tmp_path / "v.jsonl")
    assert [line["frame"] for line in _lines(tmp_path / "v.jsonl")] == [0, 1, 2, 3, 4]
    (copy,) = (tmp_path / "out").iterdir()
    with av.open(str(copy)) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width) == (size[0] // 2 * 2, size[1] // 2 * 2)
        assert stream.average_rate == 12 and len(list(container.decode(stream))) == 5


def test_ctrl_c_keeps_complete_lines_and_leaves_no_temporary_file(tmp_path):
    _write_video(tmp_path / "v.mp4")
    out = tmp_path / "out"
    summary = predict_to_files(Predictor(FixedBox(interrupt_at=3)), tmp_path / "v.mp4", save=out, json=out / "v.jsonl")
    assert summary.images == len(_lines(out / "v.jsonl")) == 2
    assert _files(out) == ["v.jsonl", "v.mp4"]


def test_an_error_keeps_the_lines_that_are_complete(tmp_path):
    class Failing(FixedBox):
        def detect(self, *args, **options):
            if self.calls == 3:
                raise RuntimeError("out of luck")
            return super().detect(*args, **options)

    _write_video(tmp_path / "v.mp4")
    with pytest.raises(RuntimeError, match="out of luck"):
        predict_to_files(Predictor(Failing()), tmp_path / "v.mp4", json=tmp_path / "v.jsonl")
    assert [line["frame"] for line in _lines(tmp_path / "v.jsonl")] == [0, 1]
    assert _files(tmp_path) == ["v.jsonl", "v.mp4"]


def test_a_camera_that_stops_keeps_the_lines_so_far(tmp_path, monkeypatch):
    def unplugged(*_):
        yield Frame(np.zeros((48, 64, 3), np.uint8), 0.0, 12.0)
        raise NoVideoError("No such device")

    monkeypatch.setattr("av.open", lambda *_, **__: nullcontext())
    monkeypatch.setattr("crossstage.inference.videos.frames_of", unplugged)
    summary = predict_to_files(Predictor(FixedBox()), "3", json=tmp_path / "c.jsonl")
    assert len(_lines(tmp_path / "c.jsonl")) == 1
    assert "stopped" in summary.unreadable[0].reason


def test_an_encoder_that_fails_is_a_data_error_and_leaves_no_temporary_file(tmp_path, monkeypatch):
    def fail(*_):
        raise av.error.ArgumentError(22, "invalid argument")

    _write_video(tmp_path / "v.mp4")
    monkeypatch.setattr("crossstage.inference.writing._Video.write", fail)
    with pytest.raises(DataError, match=r"v\.mp4"):
        predict_to_files(Predictor(FixedBox()), tmp_path / "v.mp4", save=tmp_path / "out", json=tmp_path / "v.jsonl")
    assert not [name for name in _files(tmp_path) if Path(name).name.startswith(".")]


def test_a_video_that_cannot_be_finished_does_not_strand_the_json(tmp_path, monkeypatch):
    _write_video(tmp_path / "v.mp4")
    monkeypatch.setattr(
        "crossstage.inference.writing.AnnotatedCopies.close", lambda _: (_ for _ in ()).throw(DataError("full"))
    )
    with pytest.raises(DataError, match="full"):
        predict_to_files(
            Predictor(FixedBox()), tmp_path / "v.mp4", save=tmp_path / "out", json=tmp_path / "lines" / "v.jsonl"
        )
    assert [name for name in _files(tmp_path / "lines") if name.startswith(".")] == []


def test_places_that_cannot_be_written_are_refused_before_the_run(photos, tmp_path):
    model = FixedBox()
    (tmp_path / "file").write_text("kept")
    for options in ({"save": tmp_path / "file"}, {"save": tmp_path / "file" / "sub"}, {"json": photos}):
        with pytest.raises(DataError):
            predict_to_files(Predictor(model), photos, **options)
    assert model.calls == 0 and (tmp_path / "file").read_text() == "kept"


def test_a_full_disk_is_a_data_error(photos, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises(DataError, match=r"one\.png.*No space left"):
        predict_to_files(Predictor(FixedBox()), photos / "one.png", save=tmp_path / "out")
    assert _files(tmp_path / "out") == []


@pytest.mark.parametrize("name", [b"\xff.png", b"n" * 245 + b".png"])
def test_unusual_file_names_are_carried_through(name, tmp_path):
    (tmp_path / "in").mkdir()
    try:
        Image.new("RGB", (64, 64)).save(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name))
    except OSError:
        pytest.skip("this file system has no such names")
    predict_to_files(Predictor(FixedBox()), tmp_path / "in", save=tmp_path / "out", json=tmp_path / "o.jsonl")
    assert len(_lines(tmp_path / "o.jsonl")) == len(_files(tmp_path / "out")) == 1


def _printed(summary: Summary) -> str:
    stream = StringIO()
    print_summary(summary, Console(file=stream, width=200))
    return stream.getvalue()


def test_the_summary_counts_and_names_what_was_skipped(photos):
    (photos / "broken.png").write_bytes(b"")
    summary = predict_to_files(Predictor(FixedBox()), photos)
    text = _printed(summary)
    assert (summary.images, dict(summary.objects)) == (4, {"dog": 4})
    assert "4 objects in 4 images" in text and "dog 0.88" in text and "median" in text
    assert text.index("could not be read") < text.index("broken.png: empty file")
    assert "\x1b" not in text


def test_importing_inference_does_not_import_what_only_a_run_needs():
    code = "import sys, crossstage.inference; print({'supervision', 'av', 'rich'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
