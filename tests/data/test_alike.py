"""Images that are nearly the same, boxes that stand twice, findings by their kind: quickly and in bounded memory."""

import io
import json
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from crossstage.cli import main
from crossstage.data.alike import equal_images, hashes_of, parts_of, similar_images
from crossstage.data.box_faults import again, box_faults
from crossstage.data.check import check_data
from crossstage.data.faults import Fault, grouped
from crossstage.data.find import find_data
from crossstage.data.looks import Looks, look_at, sketch
from crossstage.data.records import Box, DetectionBuilder


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A made scene: soft fields of colour with some noise, as photos have them."""
    random = np.random.default_rng(seed)
    soft = Image.fromarray(random.integers(0, 255, (7, 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = random.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(soft) + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, **how) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **{"format": "JPEG", "quality": 90, **how})
    return stream.getvalue()


def test_copies_are_found_that_were_scaled_compressed_brightened_or_cut_a_little():
    originals = [scene(seed) for seed in range(12)]
    changed = [
        encoded(originals[0], quality=25),
        encoded(originals[1].resize((80, 60))),
        encoded(originals[2], format="PNG"),
        encoded(ImageEnhance.Brightness(originals[3]).enhance(1.15)),
        encoded(originals[4].crop((2, 1, 158, 119))),
        encoded(originals[5].convert("L")),
        *(encoded(scene(seed)) for seed in range(100, 106)),
    ]
    images = [encoded(original) for original in originals] + changed
    looks = look_at(images, [str(number) for number in range(len(images))], "images")
    assert similar_images(looks, parts_of([12, 12])) == [(n, 12 + n) for n in range(6)]
    assert similar_images(looks, parts_of([24])) == []
    assert list(equal_images(looks)) == []


def test_drawings_on_white_flat_images_and_equal_files_are_not_nearly_the_same():
    def drawing(column: int) -> bytes:
        pixels = np.full((90, 90, 3), 255, np.uint8)
        pixels[20:70, column : column + 20] = 0
        return encoded(Image.fromarray(pixels), format="PNG")

    flat = [encoded(Image.new("RGB", (50, 50), (shade, shade, shade)), format="PNG") for shade in (99, 100)]
    images = [drawing(10), flat[0], drawing(60), flat[1], drawing(10)]
    looks = look_at(images, list("abcde"), "images")
    assert similar_images(looks, parts_of([2, 3])) == []
    assert list(equal_images(looks)) == [[0, 4]]


def test_the_search_is_not_quadratic():
    """20,000 unlike images, 5,000 of one hash: a pair of each part is found in them without comparing all."""
    random = np.random.default_rng(0)
    fields = random.integers(0, 255, (20_000, 9, 9), dtype=np.uint8)
    fields[1000:6000] = fields[1000]
    sketches = fields.repeat(2, 1).repeat(2, 2)
    digests = random.integers(0, 255, (20_000, 16), dtype=np.uint8)
    looks = Looks(np.full((20_000, 2), 99, np.int32), digests, sketches, {})
    sketches[19_000] = sketches[7]
    assert len(np.unique(hashes_of(sketches[:1000]), axis=0)) == 1000
    start = time.process_time()
    found = similar_images(looks, parts_of([10_000, 10_000]))
    assert found == [(7, 19_000)]
    assert time.process_time() - start < 8


def test_near_copies_in_another_part_are_told(tmp_path):
    for part, name, seed in (("train", "a", 1), ("train", "b", 2), ("val", "a", 1), ("val", "b", 3)):
        (tmp_path / part / name).mkdir(parents=True)
        scene(seed).save(tmp_path / part / name / "x.jpg", quality=95 if part == "train" else 40)
    odd = [fault for fault in check_data(find_data(tmp_path)).faults if "nearly the same" in fault.text]
    assert [(fault.file, fault.broken) for fault in odd] == [(tmp_path / "val" / "a" / "x.jpg", False)]
    assert odd[0].text == f"nearly the same image as {tmp_path}/train/a/x.jpg (in 'train', and this is 'val')"


def by_all_pairs(groups: np.ndarray, corners: np.ndarray) -> list[int]:
    close = (np.abs(corners[:, None] - corners[None]) < 0.5).all(-1) & (groups[:, None] == groups[None]).all(-1)
    return np.flatnonzero(np.tril(close, -1).any(1)).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_boxes_that_stand_twice_are_those_of_all_pairs(seed):
    random = np.random.default_rng(seed)
    groups = random.integers(0, 3 if seed else 1, (400, 2))
    corners = random.integers(0, 8, (400, 4)) / 2 + random.normal(0, 0.2, (400, 4)).round(1)
    if not seed:
        corners[:, :2] /= 20  # crowded: nearly all share their left and top side
    assert again(groups, corners).tolist() == by_all_pairs(groups, corners)
    assert again(groups[:0], corners[:0]).tolist() == []


@pytest.mark.parametrize("kind", ["apart", "equal", "one corner", "one place"])
def test_thirty_thousand_boxes_of_one_image_take_seconds_and_little_memory(tmp_path, kind):
    random = np.random.default_rng(0)
    builder = DetectionBuilder()
    corners = {
        "apart": random.uniform(0, 5000, (30_000, 2)),
        "equal": np.full((30_000, 2), 7.0),
        "one corner": np.full((30_000, 2), 0.0),
        "one place": 20 + random.normal(0, 0.3, (30_000, 2)),
    }[kind]
    sides = random.uniform(10, 3000, (30_000, 2)) if kind == "one corner" else np.full((30_000, 2), 20.0)
    ends = (corners + sides).tolist()
    boxes = [Box(0, (*first, *last)) for first, last in zip(corners.tolist(), ends, strict=True)]
    builder.add(tmp_path / "a.png", (10_000, 10_000), boxes)
    data = builder.build(tmp_path, ["x"])
    assert data is not None
    tracemalloc.start()
    start = time.process_time()
    twice = [fault.text for fault in box_faults(data) if "twice" in fault.text]
    assert time.process_time() - start < 8
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert kind != "equal" or twice == ["29999 boxes stand twice, with one class"]


def test_findings_are_grouped_by_kind_and_cut_on_the_terminal_alone(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(25):
        scene(number, (40, 30)).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "labels" / f"{number}.txt").write_text(f"7 .5 .5 .{number + 1} .5\n0 .5 .5 .5\n0 .5 .5 .5 .5\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat]\n")
    assert main(["data", "check", str(tmp_path), "--json", str(tmp_path / "all.json")]) == 1
    told = capsys.readouterr().out
    assert "50 broken" in told
    assert told.count("class '7'; expected") == 10
    assert told.count("... and 15 more of this kind") == 2
    assert "--json FILE writes all of them" in told
    assert len(json.loads((tmp_path / "all.json").read_text())["faults"]) == 50


def test_kinds_differ_in_more_than_names_and_numbers(tmp_path):
    texts = [
        "class '7'; expected 1",
        "class 'x y'; expected 12",
        "box 1.5 x -2e3 is empty",
        "box 2 x 9 is empty",
        "a/b lost",
    ]
    kinds = grouped([Fault(tmp_path, None, text) for text in texts])
    assert [len(alike) for alike in kinds] == [2, 2, 1]


def test_a_sketch_is_small_and_upright():
    pixels = np.zeros((100, 50, 3), np.uint8)
    pixels[:50] = 200
    drawn = sketch(pixels)
    assert drawn.shape == (18, 18)
    assert drawn[:9].min() == 200 and drawn[9:].max() == 0


def test_images_that_cannot_be_read_are_told_with_their_reason(tmp_path):
    (tmp_path / "a.png").write_text("text")
    looks = look_at([tmp_path / "a.png", tmp_path / "lost.png", b""], ["a", "b", "c"], "images")
    assert set(looks.reasons) == {0, 1, 2}
    assert not looks.readable.any()
