"""Reading images: every file of the archive of broken and odd ones behaves as its list says."""

import csv
import resource
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.errors import DataError
from crossstage.inference.images import load_image


@pytest.fixture(scope="module")
def corrupt(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corrupt")
    with tarfile.open(shared / "data" / "corrupt" / "corrupt.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two images at the size of the smaller."""
    assert a.shape[0] / b.shape[0] == pytest.approx(a.shape[1] / b.shape[1], rel=0.02)
    height, width = min(a.shape[:2], b.shape[:2])
    small = [np.asarray(Image.fromarray(x).resize((width, height), Image.Resampling.BOX), float) for x in (a, b)]
    return float(np.abs(small[0] - small[1]).mean())


def test_every_listed_image_is_read_or_refused(corrupt):
    rows = [row for row in csv.DictReader((corrupt / "manifest.csv").open()) if row["file"].startswith("images/")]
    assert len(rows) == 31
    refused = set()
    for row in rows:
        try:
            image = load_image(corrupt / row["file"])
        except DataError as error:
            assert Path(row["file"]).name in str(error)
            refused.add(row["file"])
        else:
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    broken = {row["file"] for row in rows if row["state"] == "broken"}
    assert refused == broken | {"images/huge_400MP.png"}


SAME_PHOTO = "photo.webp photo.bmp photo.tif multipage.tif progressive.jpg icc_profile.jpg cmyk.jpg rgb16.png".split()


def test_odd_formats_show_the_same_photo(corrupt):
    good = load_image(corrupt / "images" / "good.jpg")
    for name in (*SAME_PHOTO, "png_named.jpg", "trailing_garbage.jpg"):
        assert difference(good, load_image(corrupt / "images" / name)) < 6, name
    grey = np.repeat(good.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
    for name in ("gray.jpg", "gray16.png"):
        assert difference(grey, load_image(corrupt / "images" / name)) < 8, name


def test_orientation_is_applied(corrupt):
    good = load_image(corrupt / "images" / "good.jpg")
    upright = load_image(corrupt / "images" / "exif_rotated.jpg")
    assert upright.shape == good.shape
    assert difference(good, upright) < 6


def test_transparent_pixels_show_white_not_their_hidden_colour(corrupt):
    image = load_image(corrupt / "images" / "rgba.png")
    assert (image[:20] == 255).all()


def test_a_bomb_is_refused_before_it_is_decoded(corrupt):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(DataError, match=r"huge_400MP\.png.*refused unread"):
        load_image(corrupt / "images" / "huge_400MP.png")
    assert time.perf_counter() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize("size", [(12_000, 10_000), (14_000, 14_000)])
def test_the_limit_is_ours_not_pillows(size, tmp_path):
    Image.new("1", size).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"refused unread"):
        load_image(tmp_path / "large.png")
    assert Image.MAX_IMAGE_PIXELS == 89_478_485  # Pillow's own setting is left alone


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I;16", [0, 257, 32896, 65535], [0, 1, 128, 255]),
        ("I", [0, 257, 65535, 100_000], [0, 1, 255, 255]),
        ("F", [0.0, 0.5, 1.0, 0.25], [0, 128, 255, 64]),
        ("F", [0.0, 10.0, 255.0, 300.0], [0, 10, 255, 255]),
    ],
)
def test_deep_greys_are_scaled(mode, values, expected, tmp_path):
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    Image.fromarray(np.array([values], dtype=kind)).save(tmp_path / "deep.tif")
    found = load_image(tmp_path / "deep.tif")
    assert found[0, :, 0].tolist() == pytest.approx(expected, abs=1)
    assert (found == found[..., :1]).all()


def test_arrays_and_pil_images_are_taken_as_they_are():
    array = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    assert load_image(array) is array
    assert (load_image(Image.fromarray(array)) == array).all()


@pytest.mark.parametrize(
    "array", [np.zeros((4, 5)), np.zeros((4, 5, 3)), np.zeros((4, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8)]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(DataError, match=r"expected \(H, W, 3\) RGB uint8"):
        load_image(array)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.jpg: cannot be read: No such file"):
        load_image(tmp_path / "nothing.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(DataError, match=r"folder\.jpg: cannot be read"):
        load_image(tmp_path / "folder.jpg")
