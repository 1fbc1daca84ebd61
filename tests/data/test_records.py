"""Detection data in memory: columns, samples of them, parts of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crossstage.data.records import Box, Boxes, DetectionBuilder, DetectionData, joined, split_off
from crossstage.errors import DataError


def data(counts: tuple[int, ...] = (2, 0, 3, 1), *, masks: bool = False) -> DetectionData:
    """Images with so many boxes, each 10 pixels wide and as high as its number; every third is a crowd."""
    builder, number = DetectionBuilder(), 0
    for image, count in enumerate(counts):
        boxes = []
        for _ in range(count):
            number += 1
            boxes.append(Box(number % 2, (5, 0, 15, number), difficult=number % 3 == 0))
        builder.add(Path(f"{image}.png"), (100, 200), boxes)
    built = builder.build(Path("data"), ("even", "odd"))
    assert built is not None
    if not masks:
        return built
    entries = np.empty(number, object)
    entries[:] = [[[0, 0, 9, 0, 9, n]] for n in range(1, number + 1)]
    columns = Boxes(**{**vars(built.boxes), "masks": entries})
    return DetectionData(built.path, built.class_names, built.images, columns, built.category_ids)


def test_a_dataset_is_a_sequence_of_samples():
    dataset = data()
    assert len(dataset) == 4
    assert [len(sample.class_ids) for sample in dataset] == [2, 0, 3, 1]
    last = dataset[-1]
    assert (last.image.id, last.image.path, last.boxes_xyxy.tolist()) == (4, Path("3.png"), [[5, 0, 15, 6]])
    assert (last.areas.tolist(), last.crowd.tolist(), last.class_ids.tolist()) == ([60], [True], [0])
    assert last.boxes_xyxy.dtype == np.float32
    assert len(last.objects.class_ids) == 0
    assert [len(sample.objects.class_ids) for sample in dataset] == [2, 0, 2, 0]
    assert dataset.counts.tolist() == [2, 2]
    assert dataset.categories == {1: "even", 2: "odd"}
    with pytest.raises(IndexError):
        dataset[4]


def test_boxes_are_clipped_to_their_image():
    builder = DetectionBuilder()
    builder.add(Path("a.png"), (30, 40), [Box(0, (-0.5, -1, 40.8, 20))])
    dataset = builder.build(Path(), ["x"])
    assert dataset is not None
    assert dataset[0].boxes_xyxy.tolist() == [[0, 0, 40, 20]]
    assert dataset.boxes.areas.tolist() == [800]
    assert DetectionBuilder().build(Path(), ["x"]) is None


@pytest.mark.parametrize("positions", [[2, 0], [], [1], [3, 2, 1, 0]])
def test_parts_keep_images_boxes_and_masks_together(positions):
    dataset = data(masks=True)
    part = dataset.take(positions)
    assert [image.id for image in part.images] == [position + 1 for position in positions]
    for position, sample in zip(positions, part, strict=True):
        whole = dataset[position]
        np.testing.assert_array_equal(sample.boxes_xyxy, whole.boxes_xyxy)
        np.testing.assert_array_equal(sample.crowd, whole.crowd)
        assert sample.masks is not None
        assert whole.masks is not None
        assert sample.masks.tolist() == whole.masks.tolist()
        assert sample.objects.masks is not None
        heights = sample.objects.boxes_xyxy[:, 3].tolist()
        assert [mask[0][-1] for mask in sample.objects.masks] == heights
    assert [image.id for image in dataset[1:3].images] == [2, 3]


def test_masks_come_through_a_split_and_are_none_where_there_are_none():
    rest, held = split_off(data((1,) * 20, masks=True), 0.25, seed=1)
    assert (len(rest), len(held)) == (15, 5)
    assert isinstance(held, DetectionData)
    assert all(mask[0][-1] == height for mask, height in zip(held.boxes.masks, held.boxes.xywh[:, 3], strict=True))
    assert data().boxes.masks is data()[0].masks is data()[0].objects.masks is data().take([0]).boxes.masks is None


def test_many_boxes_are_a_few_arrays():
    boxes = [Box(number % 5, (1, 2, 30, 40)) for number in range(100)]
    builder = DetectionBuilder()
    for _ in range(1000):
        builder.add(Path("x.png"), (100, 100), boxes)
    dataset = builder.build(Path("data"), "abcde")
    assert dataset is not None
    columns = [column for column in vars(dataset.boxes).values() if column is not None]
    assert len(dataset.boxes.class_ids) == 100_000
    assert sum(column.nbytes for column in columns) < 50 * 100_000  # a dictionary for each would take 500
    assert dataset.take(range(10, 20)).counts.tolist() == [200] * 5


def test_images_with_and_without_labels_keep_their_shares_in_a_split():
    builder = DetectionBuilder()
    for number in range(20):
        builder.add(Path(f"{number}.png"), (20, 40), [Box(0, (1, 1, 9, 9))] * (number < 4))
    whole = builder.build(Path(), ["x"])
    assert whole is not None
    rest, held = split_off(whole, 0.25, seed=3)
    assert (len(rest), len(held)) == (15, 5)
    assert isinstance(held, DetectionData)
    assert held.labelled.sum() == 1


def test_a_single_image_is_not_split():
    with pytest.raises(DataError, match="1 image; expected at least 2 of a kind, one to learn from and one to measure"):
        split_off(data((1,)), 0.1, seed=0)


def test_datasets_are_joined_with_their_boxes_and_masks():
    builder = DetectionBuilder()
    polygon = [np.array([1.0, 1, 9, 1, 9, 9])]
    builder.add(Path("m.png"), (30, 40), [Box(1, (1, 1, 9, 9), mask=polygon), Box(0, (1, 1, 5, 5))])
    second = builder.build(Path(), ("even", "odd"))
    assert second is not None
    first = data()
    both = joined([first, second])
    assert isinstance(both, DetectionData)
    assert [image.id for image in both.images] == [1, 2, 3, 4, 5]
    assert [len(sample.class_ids) for sample in both] == [2, 0, 3, 1, 2]
    assert both[4].boxes_xyxy.tolist() == [[1, 1, 9, 9], [1, 1, 5, 5]]
    assert both.boxes.masks is not None
    assert both.boxes.masks.present.tolist() == [False] * 6 + [True, False]
    np.testing.assert_array_equal(both[4].masks[0], polygon)  # pyright: ignore[reportOptionalSubscript, reportArgumentType]
    with pytest.raises(DataError, match="other classes than in"):
        joined([first, replace(second, class_names=("even", "y"))])
