"""Masks from file to batch: read as pycocotools reads them, checked, kept small, and moved with their images."""

import json
import pickle
import re
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.ops import masks_to_boxes

from crossstage.data.augment import (
    NO_AUGMENTATION,
    Augmentation,
    DetectionTransform,
    clip,
    fit,
    mixup,
    mosaic,
    seeded,
)
from crossstage.data.check import check_data
from crossstage.data.find import find_data
from crossstage.data.formats.coco import scan_coco
from crossstage.data.labelled import labelled
from crossstage.data.loading import train_loader
from crossstage.data.masks import (
    MasksBuilder,
    checked_polygons,
    checked_runs,
    hull,
    rasterise,
)
from crossstage.data.plots import seen_by_the_network
from crossstage.data.records import Objects
from crossstage.errors import DataError
from crossstage.ops import rle
from crossstage.ops.masks import resize
from crossstage.structures import Preprocessing

SIZE = (90, 120)
TRIANGLE = [30.0, 20.0, 80.0, 20.0, 30.0, 70.0]


def coco_file(folder, segmentations, size=SIZE, **fields):
    """Write an image, and an annotation for each segmentation, each on a line of its own from the third."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1]).save(folder / "images" / "a.png")
    entries = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": [30, 20, 50, 50], "segmentation": value, **fields}
        for number, value in enumerate(segmentations, start=1)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": size[1], "height": size[0]}]
    lines = ",\n".join(map(json.dumps, entries))
    head = f'{{"images": {json.dumps(images)}, "categories": [{{"id": 1, "name": "thing"}}],'
    text = f'{head}\n"annotations": [\n{lines}\n]}}'
    path = folder / "instances_train.json"
    path.write_text(text)
    return path


def scene(mask: np.ndarray, *, polygons=None):
    """Grey, and white where the mask is, which is the one object."""
    pixels = np.full((*mask.shape, 3), 100, np.uint8)
    pixels[mask] = 255
    masks = MasksBuilder()
    masks.add(polygons or rle.pack(mask))
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    return labelled(pixels, Objects(np.array([box], np.float32), np.array([1]), masks.build()), masks=True)


def disc(height=90, width=120, centre=(45, 60), radius=25):
    rows, columns = np.mgrid[:height, :width]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2


def white(image: Tensor) -> Tensor:
    return image.as_subclass(Tensor).amin(0) > (100 + 255) / 2 / 255


def overlap(first: Tensor, second: Tensor) -> float:
    return float((first & second).sum() / (first | second).sum())


# reading


def test_masks_of_coco_are_those_of_pycocotools(coco256):
    coco = pytest.importorskip("pycocotools.coco")
    for split, polygons, crowds in (("train", 929, 10), ("val", 706, 5)):
        dataset = find_data(coco256).read(split)
        assert dataset.has_masks and dataset.masked == polygons
        truth = coco.COCO(str(coco256 / "annotations" / f"instances_{split}2017.json"))
        compared = 0
        for sample in dataset:
            size = sample.image.height, sample.image.width
            annotations = truth.loadAnns(truth.getAnnIds(imgIds=[sample.image.id]))
            for entry, mask, box in zip(annotations, sample.masks, sample.boxes_xyxy, strict=True):
                assert (mask is None) == (not entry["segmentation"])
                if mask is not None:
                    assert np.array_equal(rasterise(mask, size, box), truth.annToMask(entry))
                    compared += 1
        assert compared == polygons + crowds


def test_runs_may_be_packed_or_not_and_polygons_have_several_parts(tmp_path):
    mask = disc()
    counts = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=False, append=False)), prepend=0).tolist()
    counts.append(mask.size - sum(counts))
    other = [90, 10, 110, 10, 110, 30]
    values = [{"size": list(SIZE), "counts": counts}, rle.as_coco(rle.pack(mask), SIZE), [TRIANGLE, other], []]
    sample = scan_coco(coco_file(tmp_path, values)).usable()[0]
    drawn = [rasterise(one, SIZE, box) for one, box in zip(sample.masks, sample.boxes_xyxy, strict=True)]
    np.testing.assert_array_equal(drawn[0], mask)
    np.testing.assert_array_equal(drawn[1], mask)
    parts = [rasterise([np.array(part, float)], SIZE, sample.boxes_xyxy[2]) for part in (TRIANGLE, other)]
    np.testing.assert_array_equal(drawn[2], parts[0] | parts[1])
    assert drawn[3].sum() == 50 * 50 and drawn[3][20:70, 30:80].all()  # the box, for want of a mask
    assert sample.areas.tolist() == [mask.sum(), mask.sum(), drawn[2].sum(), 2500]  # the file states none


def test_yolo_polygons_are_masks_and_their_hulls_boxes(tmp_path):
    for part in ("images/train", "labels/train"):
        (tmp_path / part).mkdir(parents=True)
    Image.new("RGB", (120, 90)).save(tmp_path / "images" / "train" / "a.png")
    shares = [f"{value / side:.8f}" for value, side in zip(TRIANGLE, (120, 90) * 3, strict=True)]
    (tmp_path / "labels" / "train" / "a.txt").write_text(f"0 {' '.join(shares)}\n0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [thing]\n")
    dataset = find_data(tmp_path).read("train")
    sample = dataset[0]
    assert dataset.masked == 1 and sample.masks.present.tolist() == [True, False]
    np.testing.assert_allclose(sample.boxes_xyxy[0], [30, 20, 80, 70], atol=1e-4)
    expected = rasterise([np.array(TRIANGLE)], SIZE, sample.boxes_xyxy[0])
    drawn = rasterise(sample.masks[0], SIZE, sample.boxes_xyxy[0])
    assert (drawn != expected).sum() <= 50  # the decimals of the file decide pixels on the slope
    assert sample.areas.tolist() == pytest.approx([drawn.sum(), 24 * 18])
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.1 0.1 0.5 0.5 nan 0.4\n")
    (fault,) = find_data(tmp_path).parts["train"]().faults
    assert fault.line == 1 and "finite" in fault.text


# PNG


def png_set(root, images="images", masks="masks", ending="", numbers=None, mode=np.uint16):
    folder = root / images / "train"
    folder.mkdir(parents=True)
    (root / masks / "train").mkdir(parents=True)
    Image.new("RGB", (120, 90)).save(folder / "a.png")
    Image.fromarray(numbers.astype(mode)).save(root / masks / "train" / f"a{ending}.png")


def two_discs(first, second):
    numbers = np.zeros(SIZE, np.int64)
    numbers[disc(radius=20)] = first
    numbers[disc(centre=(15, 15), radius=10)] = second
    return numbers


def test_numbers_of_one_class_are_its_objects(tmp_path):
    numbers = two_discs(1, 2)
    png_set(tmp_path, "PNGImages", "PedMasks", "_mask", numbers, np.uint8)
    source = find_data(tmp_path)
    dataset = source.read("train")
    assert source.format == "png" and dataset.class_names == ("ped",)
    sample = dataset[0]
    for number, mask in enumerate(sample.masks, start=1):
        np.testing.assert_array_equal(rasterise(mask, SIZE, ()), numbers == number)
    rows, columns = np.nonzero(numbers == 2)
    assert sample.boxes_xyxy[1].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert sample.areas.tolist() == [(numbers == 1).sum(), (numbers == 2).sum()]


def test_numbers_of_several_classes_hold_class_and_object(tmp_path):
    numbers = two_discs(1001, 2007)
    numbers[80:, :] = 2  # a group
    numbers[:3, 60:] = 5000  # a class that is not listed
    png_set(tmp_path, numbers=numbers)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    reading = find_data(tmp_path).parts["train"]()
    sample = reading.usable()[0]
    assert sample.class_ids.tolist() == [1, 0, 1] and sample.crowd.tolist() == [True, False, False]
    assert [fault.broken for fault in reading.faults] == [False, False]
    assert "1 numbers below 1000" in reading.faults[0].text and "(5)" in reading.faults[1].text


def test_cityscapes_is_read_as_it_is(tmp_path):
    numbers = two_discs(26000, 24003)
    numbers[80:, :] = 7  # road
    png_set(tmp_path, "leftImg8bit", "gtFine", "", numbers)
    for folder, name in (("leftImg8bit", "a_leftImg8bit.png"), ("gtFine", "a_gtFine_instanceIds.png")):
        (tmp_path / folder / "train" / "a.png").rename(tmp_path / folder / "train" / name)
    reading = find_data(tmp_path).parts["train"]()
    dataset = reading.usable()
    assert not reading.faults and len(dataset.class_names) == 8
    assert [dataset.class_names[index] for index in dataset[0].class_ids] == ["person", "car"]


def test_a_yaml_file_names_parts_and_classes_of_png_masks(tmp_path):
    png_set(tmp_path, numbers=two_discs(1001, 2001))
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")
    source = find_data(tmp_path)
    assert source.format == "png"
    assert source.read("train")[0].class_ids.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (Image.new("L", (50, 40)), "50 x 40 pixels; expected 120 x 90, as a.png has"),
        (Image.new("RGB", (120, 90)), "an image of RGB; expected 8 or 16 bits of grey, or a palette"),
        (b"no image", "not an image that Pillow can read"),
        (None, r"no mask a.png in .*masks/train; expected one"),
    ],
)
def test_faulty_png_masks_are_told_by_file(content, said, tmp_path):
    png_set(tmp_path, numbers=two_discs(1, 2))
    path = tmp_path / "masks" / "train" / "a.png"
    Image.new("RGB", (120, 90)).save(tmp_path / "images" / "train" / "b.png")
    Image.fromarray(two_discs(1, 2).astype(np.uint8)).save(path.with_name("b.png"))
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        content.save(path)
    reading = find_data(tmp_path).parts["train"]()
    (fault,) = reading.faults
    assert fault.broken and fault.file.name == "a.png"
    with pytest.raises(DataError, match=said):
        reading.usable()
    assert len(reading.usable("skip")) == 1


# faults

HUGE = [0.0, 0.0, *[value for number in range(60_000) for value in (number % 2 * 119.0, number % 90 * 1.0)]]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([[1, 2, 3, 4, 5]], "polygon of 5 numbers; expected an even count, x and y of at least three points"),
        ([[1, 2, 3, 4]], "polygon of 4 numbers; expected an even count"),
        ([[]], "polygon of 0 numbers"),
        ([TRIANGLE, [1, 2]], "polygon of 2 numbers"),
        ([[1, 2, float("nan"), 4, 5, 6]], r"polygon \[1, 2, nan, 4, 5, 6\]; expected finite numbers"),
        ([["1", 2, 3, 4, 5, 6]], "expected a list of numbers, x and y in turn"),
        ([[10**400, 2, 3, 4, 5, 6]], "expected a list of numbers, x and y in turn"),
        ([[[1, 2], [3, 4], [5, 6]]], "expected a list of numbers, x and y in turn"),
        ([[[1, 2], [3], 4]], "expected a list of numbers, x and y in turn"),
        ([[0, 0, 500, 0, 500, 80]], "polygon with x from 0 to 500; expected 0 to 120"),
        ([[0, -40, 50, 0, 50, 80]], "polygon with y from -40 to 80; expected 0 to 90"),
        ([HUGE], "polygons with an outline of [0-9]+ pixels; expected up to 1000000"),
        ([[1, 1, 2, 2, 3, 1]] * 6000, "6000 polygons; expected up to 5000"),
        ("text", "'text'; expected a list of polygons, or an RLE with size and counts"),
        (7, "7; expected a list of polygons"),
        ({"size": [120, 90], "counts": [10800]}, r"RLE of size \[120, 90\]; expected \[90, 120\]"),
        ({"counts": [10800]}, r"RLE of size None; expected \[90, 120\]"),
        ({"size": [90, 120], "counts": [100]}, "100 pixels; expected 10800, those of an image of 120 x 90"),
        ({"size": [90, 120], "counts": [10900, -100]}, "a run of -100 pixels; expected none below 0"),
        ({"size": [90, 120], "counts": [1.5]}, r"counts \[1.5\]; expected text, or a list of whole numbers"),
        ({"size": [90, 120], "counts": None}, "counts None; expected text"),
        ({"size": [90, 120], "counts": "~~~~"}, "'~~~~'; expected numbers in the characters of COCO's packed counts"),
        ({"size": [90, 120], "counts": "o" * 5000}, "expected numbers in the characters of COCO's packed counts"),
        ({"size": [90, 120], "counts": "ä"}, "expected numbers in the characters"),
        ({"size": [90, 120], "counts": "5"}, "5 pixels; expected 10800"),
        ({"size": [90, 120], "counts": "PPPPP?"}, "'PPPPP.' has more than 10800 pixels|pixels; expected 10800"),
        ({"size": [90, 120], "counts": rle.pack(disc()) + "0" * 9 + "1"}, "expected the pixels of an image"),
    ],
)  # fmt: skip
def test_faulty_masks_are_told_by_file_and_line(value, said, tmp_path):
    start = time.process_time()
    reading = scan_coco(coco_file(tmp_path, [[TRIANGLE], value, []]))
    assert time.process_time() - start < 2
    (fault,) = reading.faults
    assert not fault.broken and fault.line == 4 and fault.file.name == "instances_train.json"
    assert fault.text.startswith("annotation 2: segmentation: ") and len(fault.text) < 400
    assert re.search(said, fault.text) and fault.text.endswith("; its box stays")
    sample = reading.usable()[0]
    assert len(sample.class_ids) == 3 and sample.masks.present.tolist() == [True, False, False]


@given(st.text(max_size=60) | st.text("".join(map(chr, range(48, 112))), max_size=60))
@settings(max_examples=150, deadline=None)
def test_no_text_of_runs_gets_past_the_check(text):
    try:
        kept = checked_runs({"size": [9, 12], "counts": text}, (9, 12))
    except DataError:
        return
    assert rle.unpack(kept, (9, 12)).sum() == rle.area(kept, (9, 12))


@given(st.lists(st.lists(st.floats(-0.9, 12.9), min_size=6, max_size=20), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_polygons_are_drawn_as_pycocotools_draws_them(parts):
    coco = pytest.importorskip("pycocotools.mask")
    parts = [part[: len(part) // 2 * 2] for part in parts]
    polygons = checked_polygons(parts, (13, 13))
    expected = coco.decode(coco.merge(coco.frPyObjects(parts, 13, 13)))
    np.testing.assert_array_equal(rasterise(polygons, (13, 13), ()), expected)


def test_the_most_that_is_let_through_is_drawn_in_bounded_time():
    size = (10_000, 10_000)
    zigzag = [value for number in range(98) for value in (number % 2 * 9999.0, number * 100.0)]
    start = time.process_time()
    assert rasterise(checked_polygons([zigzag], size), size, ()).shape == size
    assert time.process_time() - start < 3
    with pytest.raises(DataError, match="outline"):
        checked_polygons([zigzag, zigzag], size)


def test_masks_of_images_that_nothing_can_read_are_refused(tmp_path):
    image = {"id": 1, "file_name": "a.png", "width": 10**12, "height": 10**12}
    for value in ([TRIANGLE], {"size": [10**12, 10**12], "counts": "5"}):
        path = coco_file(tmp_path, [value])
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "images": [image]}))
        (fault,) = scan_coco(path).faults
        assert "a mask in an image of 1000000000000 x 1000000000000 pixels; expected up to" in fault.text


def test_a_photo_is_no_mask(tmp_path, monkeypatch):
    monkeypatch.setattr("crossstage.data.formats.png.MOST_RUNS", 5_000)
    png_set(tmp_path, numbers=np.random.default_rng(0).integers(0, 255, SIZE))
    (fault,) = find_data(tmp_path).parts["train"]().faults
    assert fault.broken and "expected up to 5000, as objects make them" in fault.text


def test_oddities_of_masks_are_in_the_check(tmp_path):
    png_set(tmp_path / "other", numbers=two_discs(1, 2))
    values = [[TRIANGLE], [], [[90, 70, 110, 70, 110, 85]], [[40.1, 40.1, 40.2, 40.1, 40.2, 40.2]]]
    report = check_data(find_data(coco_file(tmp_path, values).parent))
    assert report.parts[0].masks == 3 and report.broken == 0
    texts = [fault.text for fault in report.faults]
    assert "1 of 4 boxes have no mask; training takes the box for it, and mask AP leaves them out" in texts
    assert "the mask of box 30, 20, 80, 70 lies at 90, 70, 110, 85" in texts
    assert "the mask of box 30, 20, 80, 70 has no pixel" in texts
    assert check_data(find_data(tmp_path / "other")).parts[0].masks == 2


# keeping


def test_masks_are_kept_in_few_bytes_and_go_along_with_their_boxes(tmp_path):
    builder = MasksBuilder()
    kept = [[np.arange(6.0) + number] if number % 3 == 0 else rle.pack(disc()) if number % 3 == 1 else None
            for number in range(3000)]  # fmt: skip
    for mask in kept:
        builder.add(mask)
    masks = builder.build()
    assert masks is not None and len(masks) == 3000
    assert len(pickle.dumps(masks)) < 3000 * (20 + len(rle.pack(disc())))
    assert len(pickle.dumps(masks[10:12])) < 1000  # not the rest with it
    chosen = np.array([2999, 0, 1, 7, 4])
    for part, numbers in ((masks[chosen], chosen), (masks[5:9], range(5, 9)), (masks[::700], range(0, 3000, 700)),
                          (masks[masks.present], [n for n in range(3000) if n % 3 < 2]), (masks[4:4], [])):  # fmt: skip
        for mask, number in zip(part, numbers, strict=True):
            expected = kept[number]
            assert mask == expected if not isinstance(expected, list) else (mask[0] == expected[0]).all()
    builder = MasksBuilder()
    builder.add(None)
    assert builder.build() is None
    data = scan_coco(coco_file(tmp_path, [[TRIANGLE], []])).usable()
    assert data.take([0]).has_masks and data[:1].masked == 1 and not data.take([]).has_masks


# moving


@given(height=st.integers(1, 60), width=st.integers(1, 60), rows=st.integers(1, 60), columns=st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_a_resized_mask_takes_the_pixel_that_each_centre_falls_into(height, width, rows, columns):
    mask = torch.rand(2, height, width)
    row = [min(height - 1, int(np.floor((2 * r + 1) * height / (2 * rows)))) for r in range(rows)]
    column = [min(width - 1, int(np.floor((2 * c + 1) * width / (2 * columns)))) for c in range(columns)]
    assert torch.equal(resize(mask, (rows, columns)), mask[:, row][:, :, column])


CHANGES = {
    "nothing": {},
    "flips": {"flip": 1.0, "flip_vertical": 1.0},
    "moves": {"scale": 0.3, "translate": 0.1},
    "turns": {"degrees": 40.0, "shear": 10.0},
    "all": {"flip": 0.5, "scale": 0.2, "translate": 0.2, "degrees": 10.0},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("resize", ["stretch", "letterbox", "shortest"])
def test_masks_cover_their_objects_and_boxes_their_masks(change, resize):
    options = Augmentation(**{**vars(NO_AUGMENTATION), **CHANGES[change]})
    transform = DetectionTransform(Preprocessing((128, 160), resize), options)
    for seed in range(6):
        with seeded(seed):
            sample = transform(lambda: scene(disc()))
        (mask,) = sample.masks.as_subclass(Tensor)
        assert mask.dtype == torch.uint8 and mask.shape == sample.image.shape[1:] and mask.max() == 1
        assert overlap(mask.bool(), white(sample.image)) > 0.93
        found = masks_to_boxes(mask[None])[0] + torch.tensor([0, 0, 1, 1])
        torch.testing.assert_close(found, sample.boxes[0].as_subclass(Tensor), atol=1.6, rtol=0)


def test_turned_boxes_are_tight_around_masks():
    options = Augmentation(**{**vars(NO_AUGMENTATION), "degrees": 45.0})
    turned, boxes_alone = [], []
    for masks in (True, False):
        for seed in range(4):
            with seeded(seed):
                read = scene(disc())
                sample = DetectionTransform(Preprocessing((128, 128)), options)(
                    lambda read=read, masks=masks: read if masks else read._replace(masks=None)
                )
            (turned if masks else boxes_alone).append(sample.boxes[0].as_subclass(Tensor))
    for tight, loose in zip(turned, boxes_alone, strict=True):
        assert (tight[:2] >= loose[:2] - 1).all() and (tight[2:] <= loose[2:] + 1).all()
        assert (tight[2:] - tight[:2]).prod() < (loose[2:] - loose[:2]).prod()


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "shortest"])
def test_each_tile_of_a_mosaic_brings_its_masks(resize):
    square = np.zeros(SIZE, bool)
    square[20:70, 30:80] = True
    for seed in range(8):
        with seeded(seed):
            sample = mosaic([scene(square) for _ in range(4)], Preprocessing((128, 160), resize), 0.4)
        masks = sample.masks.as_subclass(Tensor).bool()
        assert len(masks) == len(sample.boxes) >= 1 and masks.shape[1:] == sample.image.shape[1:]
        # Tiles of which too little is left are dropped with their masks, but not from the image.
        assert (masks.any(0) & ~white(sample.image)).sum() < 0.07 * masks.any(0).sum()
        found = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])
        torch.testing.assert_close(found, sample.boxes.as_subclass(Tensor), atol=1.6, rtol=0)


def test_mixed_images_keep_the_masks_of_both_on_the_larger_canvas():
    shortest = Preprocessing((60, 200), "shortest", divisor=10)
    samples = [fit(scene(disc()), shortest), fit(scene(disc(120, 90)), shortest)]
    with seeded(0):
        mixed = mixup(*samples, shortest.padding)
    assert mixed.masks.shape == (2, *mixed.image.shape[1:])
    for one, sample in zip(mixed.masks, samples, strict=True):
        rows, columns = sample.masks.shape[1:]
        assert torch.equal(one[:rows, :columns], sample.masks[0]) and one.sum() == sample.masks.sum()


def test_an_object_whose_mask_is_out_of_sight_drops_out():
    mask = np.zeros(SIZE, bool)
    mask[20:70, 30:80] = True
    sample = fit(scene(mask), Preprocessing(SIZE))
    assert len(clip(sample).masks) == 1
    assert len(clip(sample._replace(masks=torch.zeros_like(sample.masks))).class_ids) == 0


def test_images_and_boxes_do_not_depend_on_whether_masks_are_wanted(coco256):
    dataset = find_data(coco256).read("train")
    options = Augmentation(mosaic=0.5, mixup=0.3, scale=0.4, translate=0.2, flip=0.5, flip_vertical=0.2)
    known = {"batch": 4, "seed": 3, "epochs": 5, "workers": 0}
    loaders = [
        train_loader(dataset.take(range(12)), Preprocessing((96, 128)), options, masks=masks, **known)[0]
        for masks in (True, False)
    ]
    for mine, theirs in zip(*loaders, strict=True):
        assert torch.equal(mine.images, theirs.images) and theirs.targets.masks is None
        masks = mine.targets.masks
        assert masks.dtype == torch.bool and masks.shape == (len(mine.targets.boxes_xyxy), 96, 128)
        assert masks.flatten(1).any(1).all()
        boxes, others = (batch.targets.boxes_xyxy.tolist() for batch in (mine, theirs))
        assert [box for box in others if box in boxes] == boxes  # but that an empty mask drops its object


def test_unequal_images_of_a_batch_have_masks_of_its_size(coco256):
    dataset = find_data(coco256).read("train").take(range(8))
    preprocessing = Preprocessing((96, 160), "shortest", divisor=32)
    loader, _ = train_loader(dataset, preprocessing, NO_AUGMENTATION, batch=8, seed=0, epochs=1, workers=0, masks=True)
    (batch,) = loader
    targets = batch.targets
    assert targets.masks.shape[1:] == batch.images.shape[2:]
    for mask, index in zip(targets.masks, targets.image_index.tolist(), strict=True):
        height, width = targets.sizes[index].tolist()
        assert not mask[height:].any() and not mask[:, width:].any()
    found = masks_to_boxes(targets.masks) + torch.tensor([0, 0, 1, 1])
    near = (found - targets.boxes_xyxy).abs().amax(1) <= 1.5
    assert near.float().mean() > 0.9  # annotators are not exact to the pixel


def test_data_without_masks_gives_boxes_for_them(shapes):
    dataset = find_data(shapes).read("train")
    assert not dataset.has_masks
    loader, _ = train_loader(
        dataset, Preprocessing((80, 100)), NO_AUGMENTATION, batch=4, seed=0, epochs=1, workers=0, masks=True
    )
    targets = next(iter(loader)).targets
    found = masks_to_boxes(targets.masks) + torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(found, targets.boxes_xyxy)


def test_what_the_network_sees_is_shown_with_masks(coco256, monkeypatch):
    drawn = []
    monkeypatch.setattr("crossstage.inference.drawing.draw", lambda image, found: drawn.append(found) or image)
    seen_by_the_network(find_data(coco256).read("val"), Preprocessing((64, 64)), None, 3)
    assert len(drawn) == 3 and all(found.mask.shape == (len(found), 64, 64) for found in drawn)


def test_hulls_are_those_of_the_pixels():
    mask = disc()
    rows, columns = np.nonzero(mask)
    assert hull(rle.pack(mask), SIZE) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert hull([np.array(TRIANGLE)], SIZE) == (30, 20, 80, 70)
