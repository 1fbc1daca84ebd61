"""Sources are found and read lazily, options are checked, and detections come in pixels of the image."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from crossstage.errors import ConfigError, DataError
from crossstage.inference.drawing import draw
from crossstage.inference.predictor import Prediction, Predictor
from crossstage.inference.sources import Source, SourceImage, Unreadable
from crossstage.structures import Instances, Preprocessing, Resize


class BrightRectangle(torch.nn.Module):
    """Finds the box around everything that is nearly white."""

    class_names = ("rectangle", "circle", "triangle")
    size_divisor = 32

    def __init__(self, resize: Resize = "stretch"):
        super().__init__()
        self.preprocessing = Preprocessing((128, 96), resize)
        self.norm = torch.nn.BatchNorm2d(3, affine=False)
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        self.norm(images)
        return [images + self.shift]

    def detect(self, raw, *, score_threshold, iou_threshold, class_ids=None, max_detections=300, suppression="iou"):
        rows, columns = torch.where(raw[0][0].amin(dim=0) > 0.9)
        found = len(rows) > 0 and score_threshold < 0.9 and (class_ids is None or 0 in class_ids)
        corners = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if found else []
        count = len(corners)
        return [
            Instances(
                torch.tensor(corners).reshape(-1, 4).float(), torch.full((count,), 0.9), torch.zeros(count).long()
            )
        ]


def _image_with_rectangle():
    image = np.zeros((200, 300, 3), np.uint8)
    image[40:120, 60:240] = 255
    return image


def _only(model, source, **options) -> Prediction:
    (prediction,) = Predictor(model, **options).predict(source)
    assert isinstance(prediction, Prediction)
    return prediction


def _write_video(path, frames=4, rate=12):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 60, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    (tmp_path / "notes.md").write_text("not an image")
    (tmp_path / "d.png").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_boxes_are_in_pixels_of_the_image(resize):
    prediction = _only(BrightRectangle(resize), _image_with_rectangle())
    assert np.abs(prediction.detections.xyxy - [60, 40, 240, 120]).max() < 4  # one pixel of the input is up to 3.1
    assert prediction.detections.xyxy.dtype == np.float32
    assert list(prediction.detections.data["class_name"]) == ["rectangle"]
    assert prediction.detections.metadata == {"source": "image", "frame": None, "width": 300, "height": 200}


def test_an_empty_result_still_carries_class_names():
    found = _only(BrightRectangle(), np.zeros((9, 9, 3), np.uint8)).detections
    assert found.xyxy.shape == (0, 4) and len(found.data["class_name"]) == 0


def test_predicting_leaves_batch_norm_as_it_was():
    model = BrightRectangle()
    _only(model, _image_with_rectangle())
    assert model.norm.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("imgsz", "hints"), [(417, "416.*448"), (20, "32"), (0, "32"), (-32, "32"), ((64, 65), "64.*96")]
)
def test_an_input_size_that_does_not_fit_names_sizes_that_do(imgsz, hints):
    with pytest.raises(ConfigError, match=hints):
        Predictor(BrightRectangle(), imgsz=imgsz)


def test_an_input_size_of_three_sides_is_refused():
    with pytest.raises(ConfigError, match="height and width"):
        Predictor(BrightRectangle(), imgsz=(32, 32, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["conf", "iou"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_thresholds_outside_0_to_1_are_refused(option, value):
    with pytest.raises(ConfigError, match=option):
        Predictor(BrightRectangle(), **{option: value})


def test_an_unknown_class_is_named_with_close_matches():
    with pytest.raises(ConfigError, match=r"'rectangel'.*rectangle"):
        Predictor(BrightRectangle(), classes=["rectangel"])
    with pytest.raises(ConfigError, match=r"7.*0 to 2"):
        Predictor(BrightRectangle(), classes=[7])


@pytest.mark.parametrize(("classes", "count"), [(["rectangle"], 1), ([0], 1), (["0"], 1), (["circle", 2], 0)])
def test_classes_are_chosen_by_name_or_id(classes, count):
    assert len(_only(BrightRectangle(), _image_with_rectangle(), classes=classes).detections) == count


def test_a_numpy_class_id_is_as_good_as_an_int():
    assert len(_only(BrightRectangle(), _image_with_rectangle(), classes=[np.int64(0)]).detections) == 1  # type: ignore[list-item]


def test_a_folder_is_read_recursively_in_order_past_a_broken_file(folder):
    entries = list(Source(folder))
    assert [Path(entry.name).name for entry in entries] == ["a.JPG", "b.png", "d.png", "c.bmp"]
    assert [type(entry) for entry in entries] == [SourceImage, SourceImage, Unreadable, SourceImage]
    assert Source(folder).total == 4


def test_a_glob_reaches_into_folders(folder):
    assert [Path(entry.name).name for entry in Source(str(folder / "**" / "*.bmp"))] == ["c.bmp"]


def test_a_list_is_relative_to_its_folder_and_skips_comments(folder):
    (folder / "list.txt").write_text("# photos\n\nsub/c.bmp\r\nb.png\nmissing.png\n")
    entries = list(Source(folder / "list.txt"))
    assert [type(entry) for entry in entries] == [SourceImage, SourceImage, Unreadable]


@pytest.mark.parametrize("line", [b"\xff\xfe\x00", b"\x80\x81"])
def test_binary_data_in_a_list_is_refused_with_its_line(line, tmp_path):
    (tmp_path / "list.txt").write_bytes(b"a.png\n" + line)
    with pytest.raises(DataError, match=r"list\.txt:2"):
        Source(tmp_path / "list.txt")


@pytest.mark.parametrize("missing", ["nowhere.jpg", "nowhere/*.jpg", "n" * 5000, "", "empty"])
def test_a_source_with_nothing_in_it_is_refused(missing, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError):
        Source(missing)


def test_an_overlong_line_of_a_list_is_one_unreadable_entry(folder):
    (folder / "list.txt").write_text("y" * 5000 + "\nb.png\n")
    assert [type(entry) for entry in Source(folder / "list.txt")] == [Unreadable, SourceImage]


def test_a_generator_is_read_as_it_comes():
    def images():
        for number in range(9):
            yield np.full((4, 4, 3), number, np.uint8)
        pytest.fail("read to its end")

    source = Source(images())
    first = [entry.pixels[0, 0, 0] for entry in itertools.islice(source, 3) if isinstance(entry, SourceImage)]
    assert first == [0, 1, 2] and source.total is None


def test_an_iterable_mixes_kinds_and_survives_a_missing_file(folder):
    entries = list(Source([folder / "b.png", Image.new("L", (3, 3)), np.zeros((2, 2, 3), np.uint8), "gone.png"]))
    assert [type(entry) for entry in entries] == [SourceImage, SourceImage, SourceImage, Unreadable]


def test_a_video_gives_its_frames_in_order(tmp_path):
    _write_video(tmp_path / "v.mp4")
    frames = [entry for entry in Source(tmp_path / "v.mp4") if isinstance(entry, SourceImage)]
    assert [frame.frame for frame in frames] == [0, 1, 2, 3]
    assert [round(frame.pixels.mean() / 60) for frame in frames] == [0, 1, 2, 3]
    assert frames[0].frame_rate == 12


def test_a_video_cut_short_or_without_images_is_unreadable(tmp_path):
    _write_video(tmp_path / "v.mp4")
    (tmp_path / "v.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:300])
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    entries = list(Source(tmp_path))
    assert [type(entry) for entry in entries] == [Unreadable, Unreadable]
    assert isinstance(entries[0], Unreadable) and "no video" in entries[0].reason


def test_a_camera_that_is_not_there_is_named():
    with pytest.raises(DataError, match="camera 97"):
        list(Source("97"))


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (40, 900), (1500, 2000)])
def test_drawing_marks_a_copy_and_keeps_the_image(size):
    image = np.zeros((*size, 3), np.uint8)
    image[: size[0] // 2 + 1, : size[1] // 2 + 1] = 255
    kept = image.copy()
    drawn = draw(image, _only(BrightRectangle(), image).detections)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    np.testing.assert_array_equal(image, kept)
    assert size == (1, 1) or (drawn != image).any()
