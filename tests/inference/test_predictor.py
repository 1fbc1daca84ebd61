"""Sources are found and read lazily, options are checked, and detections come in pixels of the image."""

import itertools
import json
from pathlib import Path

import av
import numpy as np
import pytest
import supervision as sv
import torch
from PIL import Image

from crossstage.data.find import find_data
from crossstage.data.records import DetectionData
from crossstage.deploy.calibration import calibration_inputs
from crossstage.errors import ConfigError, DataError
from crossstage.evaluation import evaluate
from crossstage.inference.class_names import class_ids_of
from crossstage.inference.drawing import draw
from crossstage.inference.images import load_image
from crossstage.inference.predictor import Prediction, Predictor
from crossstage.inference.sources import Source, SourceImage, Unreadable
from crossstage.inference.writing import as_json
from crossstage.models.detector import Detector
from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Preprocessing, Resize
from crossstage.weights.loading import create_model


class BrightRectangle(torch.nn.Module):
    """Finds the box around everything that is nearly white."""

    class_names = ("rectangle", "circle", "triangle")
    size_divisor = 32
    nms = NMS()

    def __init__(self, resize: Resize = "stretch"):
        super().__init__()
        self.preprocessing = Preprocessing((128, 96), resize)
        self.norm = torch.nn.BatchNorm2d(3, affine=False)
        self.shift = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        self.norm(images)
        return [images + self.shift]

    def detect(self, raw, image_size, nms, sizes=None):
        rows, columns = torch.where(raw[0][0].amin(dim=0) > 0.9)
        found = len(rows) > 0 and nms.score < 0.9 and (nms.class_ids is None or 0 in nms.class_ids)
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


def _only(model, source, classes=None) -> Prediction:
    nms = NMS(class_ids=class_ids_of(classes, model.class_names))
    (prediction,) = Predictor(model, nms).predict(source)
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


@pytest.mark.parametrize(("field", "option"), [("score", "conf"), ("iou", "iou")])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_thresholds_outside_0_to_1_are_refused(field, option, value):
    with pytest.raises(ConfigError, match=option):
        NMS(**{field: value})


def test_classes_are_found_by_the_names_of_either_list_and_in_any_case():
    assert class_ids_of(["airplane", "Sofa", "tv"], ("aeroplane", "couch", "tvmonitor")) == (0, 1, 2)
    assert class_ids_of(["cell", "Cell"], ("Cell", "cell")) == (1, 0)


def test_an_unknown_class_is_named_with_close_matches():
    with pytest.raises(ConfigError, match=r"'rectangel'.*rectangle"):
        class_ids_of(["rectangel"], BrightRectangle.class_names)
    with pytest.raises(ConfigError, match=r"7.*0 to 2"):
        class_ids_of([7], BrightRectangle.class_names)
    with pytest.raises(ConfigError, match=r"7.*0 to 2"):
        Predictor(BrightRectangle(), NMS(class_ids=(7,)))


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


class Normalising(Detector):
    """A detector that normalises images itself, around one that has it done."""

    def __init__(self, inner: Detector):
        super().__init__(inner.class_names, Preprocessing(inner.preprocessing.size), inner.size_divisor)
        self.inner, self.known = inner, inner.preprocessing

    def forward(self, images):
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.known.mean, self.known.std))
        return self.inner((images[:, [2, 1, 0]] * 255 - mean) / std)

    def decode(self, raw, image_size):
        return self.inner.decode(raw, image_size)


@pytest.fixture(scope="module")
def twins() -> tuple[Detector, Detector]:
    """A network for normalised images, and the same with the normalisation inside."""
    torch.manual_seed(3)
    inner = create_model("cspdarknet53_tiny_yolo", class_names=("circle", "square"))
    assert isinstance(inner, Detector)
    colours = (103.5, 116.3, 123.7), (57.4, 57.1, 58.4)
    inner.preprocessing = Preprocessing((64, 96), "stretch", *colours, "bgr", 255.0)
    return inner.eval(), Normalising(inner).eval()


def test_a_detectors_images_are_normalised_as_if_it_did_so_itself(twins, shapes):
    nms = NMS(score=0.002, max_detections=20)
    images = [load_image(path) for path in sorted((shapes / "images" / "val").iterdir())[:4]]
    mine, theirs = (Predictor(model, nms, batch=4) for model in twins)
    for (found, _, _), (expected, _, _) in zip(mine.detect_batch(images), theirs.detect_batch(images), strict=True):
        assert len(found.scores)
        torch.testing.assert_close(found.boxes_xyxy, expected.boxes_xyxy, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=1e-4)
    for one, other in zip(mine.predict(images), theirs.predict(images), strict=True):
        np.testing.assert_allclose(one.detections.xyxy, other.detections.xyxy, atol=1e-2)  # type: ignore[union-attr]
    plain = Predictor(twins[0], nms)
    plain.preprocessing = Preprocessing((64, 96))
    assert not torch.equal(plain.detect(images[0])[0].scores, mine.detect(images[0])[0].scores)


def test_evaluation_and_calibration_normalise_a_detectors_images_as_well(twins, shapes):
    dataset = find_data(shapes).read("val")
    assert isinstance(dataset, DetectionData)
    reports = [evaluate(model, dataset, batch=4) for model in twins]
    assert reports[0].ap == pytest.approx(reports[1].ap, abs=1e-3)
    calibration = [calibration_inputs(shapes, model.preprocessing)[0] for model in twins]
    expected = twins[1](calibration[1])
    for name, raw in twins[0](calibration[0]).items():
        torch.testing.assert_close(raw, expected[name], atol=1e-4, rtol=1e-4)


class Blobs(torch.nn.Module):
    """Finds one object in each image: what is nearly white, with its mask."""

    class_names = ("blob",)
    size_divisor = 1
    nms = NMS()

    def __init__(self, preprocessing):
        super().__init__()
        self.preprocessing = preprocessing
        self.sizes = []

    def forward(self, images):
        self.sizes.append(tuple(images.shape))
        return images

    def detect(self, raw, image_size, nms=None, sizes=None):
        assert tuple(raw.shape[2:]) == image_size
        return [self._instance(image.amin(0) > 0.9) for image in raw]

    @staticmethod
    def _instance(mask):
        rows, columns = torch.where(mask)
        corners = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        return Instances(corners[None], torch.tensor([0.9]), torch.tensor([0]), torch.ones(1, 28, 28))


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing((100, 100)),
        Preprocessing((75, 100), "letterbox"),
        Preprocessing((90, 200), "shortest", divisor=40),
    ],
)
def test_masks_come_in_pixels_of_the_image_and_go_into_files(preprocessing, tmp_path):
    images = [_image_with_rectangle(), np.ascontiguousarray(_image_with_rectangle().transpose(1, 0, 2))]
    predictor = Predictor(Blobs(preprocessing), batch=2)
    for image, entry in zip(images, predictor.predict(images), strict=True):
        assert isinstance(entry, Prediction)
        mask = entry.detections.mask
        assert mask is not None and mask.shape == (1, *image.shape[:2])
        assert np.abs(sv.mask_to_xyxy(mask) - entry.detections.xyxy).max() < 4
        assert (mask[0] != (image[..., 0] > 0)).mean() < 0.02
        told = json.loads(json.dumps(as_json(entry)))["detections"][0]["mask"]
        assert told["size"] == list(image.shape[:2])
        np.testing.assert_array_equal(sv.rle_to_mask(told["counts"], image.shape[1::-1]), mask[0])
        drawn = draw(image, entry.detections)
        middle = image.shape[0] // 2, image.shape[1] // 2
        assert (drawn[middle] != image[middle]).any() and (drawn[-1, -1] == image[-1, -1]).all()


@pytest.mark.parametrize("most", [10, 1 << 30])
def test_large_masks_are_packed_and_stand_for_the_same_arrays(most, monkeypatch):
    image = _image_with_rectangle()
    dense = _only(Blobs(Preprocessing((100, 100))), image).detections
    assert isinstance(dense.mask, np.ndarray) and dense.mask.dtype == np.bool_
    monkeypatch.setattr("crossstage.inference.predictor.MOST_BYTES", most)
    entry = _only(Blobs(Preprocessing((100, 100))), image)
    assert isinstance(entry.detections.mask, sv.CompactMask if most == 10 else np.ndarray)
    np.testing.assert_array_equal(np.asarray(entry.detections.mask), dense.mask)
    told = as_json(entry)["detections"][0]["mask"]
    np.testing.assert_array_equal(sv.rle_to_mask(told["counts"], image.shape[1::-1]), dense.mask[0])
    np.testing.assert_array_equal(draw(image, entry.detections), draw(image, dense))


def test_packed_masks_are_those_of_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    entry = _only(Blobs(Preprocessing((100, 100))), _image_with_rectangle())
    told = as_json(entry)["detections"][0]["mask"]
    mask = entry.detections.mask
    assert mask is not None
    assert coco.encode(np.asfortranarray(mask[0], np.uint8))["counts"].decode() == told["counts"]
    np.testing.assert_array_equal(coco.decode(told), mask[0])


def test_boxes_alone_have_no_mask():
    entry = _only(BrightRectangle(), _image_with_rectangle())
    assert entry.detections.mask is None and "mask" not in as_json(entry)["detections"][0]


def test_any_size_fits_a_network_without_a_divisor():
    model = Blobs(Preprocessing((300, 300), "letterbox"))
    _only(model, _image_with_rectangle())
    assert model.sizes == [(1, 3, 300, 300)]
    assert Predictor(model, imgsz=(37, 41)).preprocessing.size == (37, 41)


def test_images_resized_to_their_shortest_side_share_a_pass_and_follow_imgsz():
    model = Blobs(Preprocessing((100, 200), "shortest"))
    model.size_divisor = 3
    images = [_image_with_rectangle(), np.ascontiguousarray(_image_with_rectangle().transpose(1, 0, 2))]
    found = [entry.detections.xyxy for entry in Predictor(model, batch=2).predict(images)]  # type: ignore[union-attr]
    assert model.sizes == [(2, 3, 150, 150)]
    assert np.abs(found[0] - [60, 40, 240, 120]).max() < 4 and np.abs(found[1] - [40, 60, 120, 240]).max() < 4
    list(Predictor(model, imgsz=40).predict(images[0]))
    assert model.sizes[1:] == [(1, 3, 42, 60)]
    with pytest.raises(ConfigError, match="imgsz=0"):
        Predictor(model, imgsz=0)
