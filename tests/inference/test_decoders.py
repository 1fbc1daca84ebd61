"""The edge to the decoders: which formats are opened, what they may cost, and what becomes of whatever they raise."""

import io
import os
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from crossstage.errors import DataError
from crossstage.inference import decoders
from crossstage.inference.decoders import FORMATS, IMAGE_SUFFIXES, MAX_SCANS, is_image
from crossstage.inference.images import image_size, load_image, load_numbers, load_reduced, verify_image


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo():
    small = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC)


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
showpage
"""


@pytest.mark.parametrize("name", ["a.jpg", "a.eps", "a.png"])
def test_no_program_is_started_for_a_file_whatever_its_ending(name, tmp_path, monkeypatch):
    def started(*arguments, **_):
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    (tmp_path / name).write_bytes(EPS)
    for read in (load_image, image_size, load_numbers):
        with pytest.raises(DataError, match="not an image that Pillow can read"):
            read(tmp_path / name)
    assert verify_image(tmp_path / name) and not is_image(tmp_path / name)


def test_formats_and_endings_are_those_of_the_decoders():
    assert "EPS" not in FORMATS and {".jpg", ".mpo", ".tif", ".webp", ".jp2", ".jfif", ".avif"} <= IMAGE_SUFFIXES
    assert not {".eps", ".pdf", ".psd", ".fits", ".wmf", ".dds", ".blp"} & IMAGE_SUFFIXES


def test_heic_without_its_decoder_names_the_package(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100)
    if "HEIF" not in FORMATS:
        with pytest.raises(DataError, match="HEIC needs the package pillow-heif"):
            load_image(tmp_path / "a.HEIC")


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, struct.error, IndexError, MemoryError, KeyError])
def test_whatever_a_decoder_raises_is_one_unreadable_image(error, photo, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise error("\x1b[31mdeep inside")

    photo.save(tmp_path / "a.png")
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", failing)
    with pytest.raises(DataError, match=r"a\.png: cannot be read: .*x1b\[31mdeep inside.*expected a whole image"):
        load_image(tmp_path / "a.png")
    assert "deep inside" in (verify_image(tmp_path / "a.png") or "")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg: cannot be read: is a device, pipe or socket"):
        load_image(tmp_path / "a.jpg")


def png_of(side, depth, colour, channels):
    row = b"\0" + b"\x12" * (side * channels * depth // 8)
    packer = zlib.compressobj(1)
    content = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def peak_megabytes(path, program="load_image(path)"):
    code = (
        "import sys; from pathlib import Path\n"
        "from crossstage.inference.images import load_image, verify_image\n"
        "def most():\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) / 1024\n"
        f"path = Path(sys.argv[1]); before = most(); {program}; print(most() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sixteen_bits_take_no_more_memory_than_their_pixels(tmp_path):
    (tmp_path / "deep.png").write_bytes(png_of(4000, 16, 0, 1))
    assert peak_megabytes(tmp_path / "deep.png") < 16 * (2 + 3) + 60  # 16 megapixels: the decoded image, and the result


def test_what_costs_more_than_all_readers_share_is_refused_unread(tmp_path, monkeypatch):
    large = Image.new("RGB", (3000, 2000))
    for kind, options in (("WEBP", {"lossless": True, "method": 0}), ("JPEG", {"progressive": True}), ("PNG", {})):
        large.save(tmp_path / f"a.{kind.lower()}", kind, **options)
    monkeypatch.setattr(decoders.BUDGET, "total", 6_000_000 * 12)
    monkeypatch.setattr(decoders.BUDGET, "_free", 6_000_000 * 12)
    assert load_image(tmp_path / "a.png").shape == (2000, 3000, 3)
    for name in ("a.webp", "a.jpeg"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match=r"reading it would take .* MB of memory"):
            load_image(tmp_path / name)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10 * 1024


def with_scans(photo, count):
    data = encoded(photo, "JPEG", progressive=True)
    last = data.rfind(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + b"\xff\xd9"


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(photo):
    assert load_image(with_scans(photo, 30)).shape == (120, 160, 3)
    hostile = with_scans(photo, MAX_SCANS)
    for read in (load_image, lambda data: load_image(data, repair=True)):
        with pytest.raises(DataError, match=r"1\d\d scans of 19,200 pixels; expected a JPEG of at most 100 scans"):
            read(hostile)
    assert "scans" in (verify_image(hostile) or "")


def test_scans_are_counted_past_what_looks_like_an_end(photo):
    data = with_scans(photo, MAX_SCANS)
    at = data.find(b"\xff\xda")
    comment = b"\xff\xfe" + struct.pack(">H", 6) + b"\xff\xd9\xff\xd9"
    assert "scans" in (verify_image(data[:at] + comment + data[at:]) or "")


def test_scans_of_a_thumbnail_and_after_the_end_do_not_count(photo):
    usual = encoded(photo, "JPEG")
    thumbnail = b"\xff\xe5" + struct.pack(">H", 2 + 300) + b"\xff\xda\0\2" * 75
    for data in (usual[:2] + thumbnail + usual[2:], usual + b"\xff\xda\0\2" * 500):
        assert verify_image(data) is None


TURNING = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 95},
    "MPO": {},
}


@pytest.mark.parametrize("kind", [kind for kind in TURNING if kind in FORMATS])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_format_is_turned_as_its_exif_says(kind, orientation, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.jpg").write_bytes(encoded(photo, kind, exif=exif, **TURNING[kind]))
    turned = photo.copy()
    turned.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned))
    found = load_image(tmp_path / "a.jpg")
    assert found.shape == expected.shape and np.abs(found.astype(int) - expected).mean() < 6
    assert image_size(tmp_path / "a.jpg") == expected.shape[:2]
    reduced, size = load_reduced(tmp_path / "a.jpg", (20, 20))
    assert size == expected.shape[:2] and (reduced.shape[0] < reduced.shape[1]) == (size[0] < size[1])


def test_other_modes_show_the_same_colours(photo, tmp_path):
    from PIL import ImageCms

    expected = np.asarray(photo).astype(int)
    lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    converted = {
        "cmyk.tif": photo.convert("CMYK"),
        "ycc.tif": photo.convert("YCbCr"),
        "lab.tif": ImageCms.applyTransform(photo, lab),
        "rgba.tif": photo.convert("RGBA"),
        "palette.png": photo.quantize(256),
    }
    for name, image in converted.items():
        image.save(tmp_path / name)
        assert np.abs(load_image(tmp_path / name) - expected).mean() < 8, name
    grey = np.asarray(photo.convert("L")).astype(int)
    for mode in ("L", "LA"):
        found = load_image(photo.convert("L").convert(mode))
        assert np.abs(found - grey[..., None]).max() <= 1
    for mode in ("RGBa", "La"):  # premultiplied
        assert load_image(photo.convert(mode.upper()).convert(mode)).shape == (120, 160, 3)


@pytest.mark.parametrize(
    ("tags", "white"),
    [
        ({}, 65535),
        ({341: 4095}, 4095),
        ({281: 4095}, 4095),
        ({281: 4000}, 4095),
        ({50717: 16383}, 16383),
        ({281: 65535}, 65535),
    ],
)
def test_white_of_a_deep_tiff_is_what_its_tags_say(tags, white, tmp_path):
    from PIL import TiffImagePlugin

    told = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        told.tagtype[tag] = 3
        told[tag] = value
    values = np.array([[0, white // 2, white]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo=told)
    assert load_image(tmp_path / "a.tif")[0, :, 0].tolist() == pytest.approx([0, 127.5, 255], abs=1)


def test_twelve_bits_of_a_tiff_are_scaled(tmp_path):
    values = [0x000, 0xFFF, 0x800, 0x400]
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x04, 0x00])
    entries = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1), (279, 6)]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + b"\0\0\0\0"
    (tmp_path / "a.tif").write_bytes(content + packed)
    assert len(content) == 122
    assert load_image(tmp_path / "a.tif")[0, :, 0].tolist() == pytest.approx([v * 255 / 0xFFF for v in values], abs=1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TGA", "TIFF", "GIF"])
def test_a_damaged_image_is_read_as_far_as_it_goes_or_refused(kind, photo, tmp_path):
    large = photo.resize((400, 300))
    data = encoded(large, kind)
    whole = load_image(data).astype(int)
    half = data[: len(data) // 2]
    assert "cannot be read" in (verify_image(half) or "") and verify_image(data) is None
    with pytest.raises(DataError, match="cannot be read"):
        load_image(half)
    found = load_image(half, repair=True)
    right = (np.abs(found - whole).max((1, 2)) < 40).mean()
    assert found.shape == whole.shape and 0.3 < right < 0.7
    if kind != "GIF":
        assert (found == 128).all((1, 2)).mean() > 0.3
    with pytest.raises(DataError):
        load_image(data[:60], repair=True)


def test_a_photo_that_lacks_its_last_bytes_is_nearly_whole_when_repaired(photo, tmp_path):
    data = encoded(photo, "JPEG")
    (tmp_path / "a.jpg").write_bytes(data[:-20])
    found = load_image(tmp_path / "a.jpg", repair=True)
    assert (found == load_image(data)).all((1, 2)).mean() > 0.8
    assert (load_image(data, repair=True) == load_image(data)).all()


def test_nothing_that_is_left_cannot_be_repaired(photo):
    data = encoded(photo, "JPEG")
    start = data.find(b"\xff\xda")
    with pytest.raises(DataError, match="cannot be read"):
        load_image(data[: start + 10], repair=True)
