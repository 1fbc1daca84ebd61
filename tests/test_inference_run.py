"""From sources to detections and files, with a model that finds what is bright."""

import io
import json
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from crossstage.errors import ConfigError, DataError
from crossstage.inference import (
    Detected,
    Predictor,
    Preprocessing,
    Source,
    Unreadable,
    predict,
    predict_detections,
    predict_to_files,
    print_summary,
)
from crossstage.inference.drawing import draw


class Bright:
    """Finds one box around the pixels of each colour channel that are above a half."""

    class_names = ("red thing", "green thing", "blue thing")
    preprocessing = Preprocessing((64, 64))
    max_stride = 32
    interrupt_at = None
    seen = 0

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.seen += 1
        if self.seen == self.interrupt_at:
            raise KeyboardInterrupt
        return [images]

    def detect(self, raw, *, score_threshold, iou_threshold, class_ids=None, max_detections=300):
        boxes, scores, labels = [], [], []
        for label, channel in enumerate(raw[0][0]):
            ys, xs = (channel > 0.5).nonzero(as_tuple=True)
            if len(xs) and (class_ids is None or label in class_ids) and score_threshold < 0.9:
                boxes.append([xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1])
                scores.append(0.9)
                labels.append(label)
        return [Detected(torch.tensor(boxes).view(-1, 4).float(), torch.tensor(scores), torch.tensor(labels).long())]


def picture(colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Black but for the middle half, which has a colour."""
    width, height = size
    image = Image.new("RGB", size)
    image.paste(colour, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    return image


def video(path: Path, frames: int = 5, size: tuple[int, int] = (96, 64)) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(np.array(picture((0, 255, 0), size)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    picture().save(root / "a.png")
    picture((0, 0, 255)).save(root / "sub" / "B.JPG", quality=95)
    picture((0, 0, 0)).save(root / "c.bmp")
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "notes.md").write_text("ignored")
    return root


def names(source: object) -> list[str]:
    return [Path(entry.name).name for entry in Source(source)]


def test_folders_are_searched_deep_and_in_order(folder):
    assert names(folder) == ["a.png", "broken.jpg", "c.bmp", "B.JPG"]
    assert Source(folder).total == 4


def test_globs_and_lists(folder, tmp_path, monkeypatch):
    assert names(f"{folder}/**/*.[Jj][Pp][Gg]") == ["broken.jpg", "B.JPG"]
    (folder / "list.txt").write_text("# mine\n\na.png\r\nsub/B.JPG\nnowhere.png\n")
    assert names(folder / "list.txt") == ["a.png", "B.JPG", "nowhere.png"]
    monkeypatch.chdir(folder)
    (tmp_path / "other.txt").write_text("a.png\n")
    assert names(tmp_path / "other.txt") == ["a.png"]


def test_images_of_python_are_sources():
    array = np.array(picture())
    assert names([array, picture()]) == ["image 0", "image 1"]
    assert Source(array).single


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.jpg", "nowhere.jpg: no such file"),
        ("nothing/*.jpg", "no picture or video matches"),
        ([], "source is empty"),
        (3.5, "source of type float"),
        (object(), "source of type object"),
    ],
)
def test_sources_without_pictures_are_refused(source, message):
    with pytest.raises(DataError, match=message):
        Source(source)


def test_empty_folder_and_broken_list_are_refused(tmp_path):
    with pytest.raises(DataError, match="no picture or video in it"):
        Source(tmp_path)
    (tmp_path / "list.txt").write_bytes(b"a.png\n\xff\xfe\x00\n")
    with pytest.raises(DataError, match=r"list\.txt:2: binary data"):
        Source(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\n# nothing\n")
    with pytest.raises(DataError, match="no path in it"):
        Source(tmp_path / "list.txt")


def test_missing_camera_is_refused():
    with pytest.raises(DataError, match=r"camera 97 \(.*\) cannot be opened"):
        list(Source(97))
    with pytest.raises(DataError, match="camera 97"):
        list(Source("97"))


def test_videos_are_read_frame_by_frame(tmp_path):
    frames = list(Source(video(tmp_path / "v.mp4")))
    assert [frame.frame for frame in frames] == [0, 1, 2, 3, 4]
    assert frames[0].image.shape == (64, 96, 3) and frames[0].frame_rate == 10
    assert Source(tmp_path / "v.mp4").total is None
    (tmp_path / "w.mp4").write_bytes(b"no video")
    (entry,) = Source(tmp_path / "w.mp4")
    assert isinstance(entry, Unreadable) and "w.mp4" in entry.reason


def test_boxes_are_in_pixels_of_the_picture():
    (prediction,) = predict(Bright(), picture(size=(256, 128)))
    found = prediction.detections
    np.testing.assert_allclose(found.xyxy, [[64, 32, 192, 96]], atol=4)
    assert found.data["class_name"].tolist() == ["red thing"]
    assert found.metadata == {"source": "image", "frame": None, "width": 256, "height": 128}
    assert prediction.milliseconds.total > 0


def test_nothing_found_still_has_every_field():
    (found,) = predict_detections(Bright(), picture((0, 0, 0)), conf=0.25, iou=0.45, imgsz=None, classes=None)
    assert len(found) == 0 and found.data["class_name"].tolist() == [] and found.xyxy.shape == (0, 4)


@pytest.mark.parametrize("classes", [["blue thing"], [2], ["2"]])
def test_classes_are_chosen_by_name_or_number(classes):
    (found,) = predict_detections(Bright(), picture((255, 255, 255)), conf=0.1, iou=0.5, imgsz=None, classes=classes)
    assert found.class_id.tolist() == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf": 1.5}, "conf=1.5"),
        ({"iou": -0.1}, "iou=-0.1"),
        ({"conf": float("nan")}, "conf=nan"),
        ({"imgsz": 100}, "imgsz=100; expected a multiple of 32, such as 96 or 128"),
        ({"imgsz": 0}, "imgsz=0"),
        ({"imgsz": (64, 65)}, "imgsz=65"),
        ({"classes": ["red thin"]}, "did you mean red thing"),
        ({"classes": [3]}, "class 3 is unknown"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Predictor(Bright(), **options)


def test_one_broken_picture_raises_and_one_of_many_warns(folder):
    options = {"conf": 0.25, "iou": 0.45, "imgsz": None, "classes": None}
    with pytest.raises(DataError, match=r"broken\.jpg"):
        list(predict_detections(Bright(), folder / "broken.jpg", **options))
    with pytest.warns(UserWarning, match=r"skipped .*broken\.jpg"):
        assert len(list(predict_detections(Bright(), folder, **options))) == 3


def test_a_run_writes_copies_and_lines_and_names_what_it_skipped(folder, tmp_path):
    out = tmp_path / "out"
    summary = predict_to_files(Bright(), folder, save=out, json=tmp_path / "d" / "found.jsonl")
    assert summary.pictures == 3 and summary.objects == {"red thing": 1, "blue thing": 1}
    assert [Path(entry.name).name for entry in summary.unreadable] == ["broken.jpg"]
    assert sorted(str(f.relative_to(out)) for f in out.rglob("*.*")) == ["a.png", "c.bmp.jpg", "sub/B.JPG"]
    lines = [json.loads(line) for line in (tmp_path / "d" / "found.jsonl").read_text().splitlines()]
    assert [Path(line["source"]).name for line in lines] == ["a.png", "c.bmp", "B.JPG"]
    (found,) = lines[0]["detections"]
    assert found["class_id"] == 0 and found["class_name"] == "red thing" and found["confidence"] == 0.9
    assert found["box_xyxy"] == pytest.approx([32, 32, 96, 96], abs=2)
    assert (lines[0]["width"], lines[0]["height"], lines[0]["frame"]) == (128, 128, None)
    assert not np.array_equal(np.array(Image.open(out / "a.png")), np.array(Image.open(folder / "a.png")))
    assert [f.name for f in (tmp_path / "d").iterdir()] == ["found.jsonl"]


def test_equal_names_do_not_overwrite_each_other(folder, tmp_path):
    (folder / "other").mkdir()
    picture((0, 255, 0)).save(folder / "other" / "a.png")
    predict_to_files(Bright(), f"{folder}/**/a.png", save=tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["a-2.png", "a.png"]


def test_a_video_becomes_an_annotated_video(tmp_path):
    video(tmp_path / "v.avi")
    summary = predict_to_files(Bright(), tmp_path / "v.avi", save=tmp_path / "out", json=tmp_path / "f.jsonl")
    assert summary.pictures == 5
    assert [json.loads(line)["frame"] for line in (tmp_path / "f.jsonl").read_text().splitlines()] == [0, 1, 2, 3, 4]
    (copy,) = (tmp_path / "out").iterdir()
    assert copy.name == "v.avi.mp4"
    frames = list(Source(copy))
    assert len(frames) == 5 and frames[0].image.shape == (64, 96, 3) and frames[0].frame_rate == 10


def test_an_interrupted_run_keeps_what_is_complete(folder, tmp_path):
    model = Bright()
    model.interrupt_at = 3
    summary = predict_to_files(model, folder, save=tmp_path / "out", json=tmp_path / "found.jsonl")
    assert summary.pictures == 2
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 2
    assert not list(tmp_path.rglob(".*"))


def test_a_failed_run_leaves_no_half_written_file(folder, tmp_path):
    class Failing(Bright):
        def detect(self, *_, **__):
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        predict_to_files(Failing(), folder, json=tmp_path / "found.jsonl")
    assert [f.name for f in tmp_path.iterdir()] == ["in"]


def test_places_that_cannot_be_written_are_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: is a file; expected a folder"):
        predict_to_files(Bright(), folder, save=tmp_path / "file")
    with pytest.raises(DataError, match=r"x\.jsonl: cannot be written"):
        predict_to_files(Bright(), folder, json=tmp_path / "file" / "x.jsonl")


def test_drawing_leaves_the_picture_alone():
    image = np.array(picture(size=(32, 24)))
    before = image.copy()
    (found,) = predict_detections(Bright(), image, conf=0.1, iou=0.5, imgsz=None, classes=None)
    drawn = draw(image, found)
    assert (image == before).all() and drawn.shape == image.shape and (drawn != image).any()


def test_summary_reads_well(folder):
    out = io.StringIO()
    print_summary(predict_to_files(Bright(), folder), Console(file=out, width=200))
    text = out.getvalue()
    assert "red thing 0.90" in text and "nothing" in text
    assert "2 objects in 3 pictures" in text and "median ms: decode" in text
    assert "1 could not be read:" in text and "broken.jpg: not a picture" in text


def test_reading_pictures_prints_no_warnings(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(predict(Bright(), folder))
