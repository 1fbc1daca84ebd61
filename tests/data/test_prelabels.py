"""What a detector finds, written as labels and read back."""

from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from PIL import Image

from crossstage.cli import main
from crossstage.data.find import find_data
from crossstage.data.prelabels import label_images
from crossstage.data.records import DetectionData
from crossstage.errors import ConfigError, DataError
from crossstage.inference.predictor import Prediction, StageTimes
from crossstage.inference.sources import Unreadable

MASK = np.zeros((2, 30, 40), np.bool_)
MASK[0, 5:15, 10:30] = True
MASK[0, 20, 1] = True  # a piece of its own, in a corner
MASK[1, 2:8, 2:9] = True


class Found:
    """A detector that finds the same in every image but those called "empty"."""

    def __init__(self, *, masks: bool = False) -> None:
        self.model, self.masks = self, masks
        self.class_names = ("zebra", "ape")

    def stream(self, images, *, whole):
        for entry in images:
            if isinstance(entry, Unreadable):
                yield entry
                continue
            found = sv.Detections(
                np.array([[10, 5, 30, 15], [2, 2, 9, 8.0]]),
                class_id=np.array([1, 0]),
                confidence=np.array([0.9, 0.5]),
                mask=MASK if self.masks else None,
            )
            yield Prediction(entry, sv.Detections.empty() if "empty" in entry.name else found, StageTimes(0, 0, 0, 0))


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a", "empty"):
        Image.new("RGB", (40, 30), "grey").save(folder / f"{name}.jpg")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("format", ["yolo", "coco", "voc", "cvat", "labelstudio", "labelme", "darknet"])
def test_labels_are_read_back(photos, tmp_path, format):
    found = label_images(Found(), str(photos), tmp_path / "out", format)  # pyright: ignore[reportArgumentType]
    assert found.scores == [0.9, 0.5] and len(found.unreadable) == 1
    data = find_data(tmp_path / "out").read("train")
    assert isinstance(data, DetectionData) and data.class_names == ("zebra", "ape") and len(data) == 2
    sample = next(sample for sample in data if len(sample.class_ids))
    np.testing.assert_allclose(sample.boxes_xyxy, [[10, 5, 30, 15], [2, 2, 9, 8]], atol=1e-5)
    assert sample.class_ids.tolist() == [1, 0]


@pytest.mark.parametrize(("format", "area"), [("coco", 201), ("yolo", 200)])
def test_masks_are_kept_as_the_format_can(photos, tmp_path, format, area):
    label_images(Found(masks=True), str(photos), tmp_path / "out", format)  # pyright: ignore[reportArgumentType]
    data = find_data(tmp_path / "out").read("train")
    assert isinstance(data, DetectionData) and data.masked == 2
    assert data.boxes.areas[0] == pytest.approx(area, rel=0.2 if format == "yolo" else 0)


@pytest.mark.parametrize("format", ["coco", "labelstudio"])
def test_scores_are_in_the_file(photos, tmp_path, format):
    label_images(Found(), str(photos), tmp_path / "out", format)  # pyright: ignore[reportArgumentType]
    (file,) = (tmp_path / "out").rglob("*train.json")
    assert '"score": 0.9' in file.read_text()


def test_a_folder_with_files_is_refused_before_anything_is_done(photos, capsys):
    assert main(["label", str(photos), "--out", str(photos)]) == 2
    assert capsys.readouterr().err == f"error: {photos}: is there already; expected a new or empty folder\n"


def test_without_an_image_there_is_nothing_to_label(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match="no image that can be read"):
        label_images(Found(), str(tmp_path / "a.jpg"), tmp_path / "out", "yolo")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="cannot be written"):
        label_images(Found(), str(tmp_path / "a.jpg"), tmp_path / "out", "parquet")  # pyright: ignore[reportArgumentType]
