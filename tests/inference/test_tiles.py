"""Tiles cover an image, and objects that they cut are seen elsewhere."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from crossstage.errors import ConfigError
from crossstage.inference.sources import Source
from crossstage.inference.tiles import TiledPredictor, Tiling, tiles
from crossstage.ops.nms import NMS, postprocess
from crossstage.structures import Preprocessing


class Squares:
    """Finds every bright connected row range of an input: boxes of white rectangles that do not share a row."""

    class_names = ("square",)
    size_divisor = 1
    nms = NMS(score=0.1)

    def __init__(self, side: int) -> None:
        self.preprocessing = Preprocessing((side, side), "letterbox", fill=0.0)

    def __call__(self, images: Tensor) -> Tensor:
        return images

    def detect(self, raw, image_size, nms=None, sizes=None):
        found = []
        for image in raw:
            lit = image[0] > 0.6
            boxes = []
            start = None
            for row in range(lit.shape[0] + 1):
                on = row < lit.shape[0] and bool(lit[row].any())
                if on and start is None:
                    start = row
                if not on and start is not None:
                    columns = lit[start:row].any(0).nonzero()
                    boxes.append([columns.min().item(), start, columns.max().item() + 1, row])
                    start = None
            kept = [box for box in boxes if box[2] - box[0] >= 3]  # too small to be seen
            tensor = torch.tensor(kept, dtype=torch.float32).reshape(1, -1, 4)
            found += postprocess(tensor, torch.full((1, tensor.shape[1], 1), 0.9), nms)
        return found


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [((100, 250), 64, 0.2), ((65, 64), 64, 0.5), ((500, 31), 40, 0.0)]
)
def test_tiles_cover_every_pixel_and_overlap(size, tile, overlap) -> None:
    seen = np.zeros(size, int)
    found = tiles(size, Tiling(tile, overlap))
    for view in found:
        assert view.top >= 0 and view.top + view.height <= size[0]
        assert view.left >= 0 and view.left + view.width <= size[1]
        assert view.height <= tile and view.width <= tile
        seen[view.top : view.top + view.height, view.left : view.left + view.width] += 1
    assert seen.min() >= 1
    lefts = sorted({view.left for view in found})
    assert all(second - first <= tile * (1 - overlap) + 1 for first, second in pairwise(lefts))


def test_an_image_of_one_tile_is_only_looked_at_whole() -> None:
    assert tiles((64, 64), Tiling(64)) == []


def _image() -> np.ndarray:
    image = np.zeros((256, 256, 3), np.uint8)
    image[10:16, 20:26] = 255  # 1.5 pixels of the whole input: too small there
    image[40:240, 60:200] = 255  # larger than a tile
    return image


def test_small_objects_are_found_in_tiles_and_large_ones_whole() -> None:
    model = Squares(64)
    (found, placement, _) = TiledPredictor(model, None, Tiling(64), batch=3).detect(_image())
    boxes = placement.to_image(found.boxes_xyxy)
    expected = torch.tensor([[20.0, 10, 26, 16], [60, 40, 200, 240]])
    assert torch.allclose(boxes[boxes[:, 0].argsort()], expected, atol=4)
    assert len(boxes) == 2


def test_an_object_on_a_border_of_tiles_is_found_once_and_whole() -> None:
    image = np.zeros((100, 180, 3), np.uint8)
    image[30:40, 58:70] = 255
    (found, _, _) = TiledPredictor(Squares(64), None, Tiling(64, 0.3)).detect(image)
    assert torch.allclose(found.boxes_xyxy, torch.tensor([[58.0, 30, 70, 40]]), atol=2)


def test_predictions_of_a_source_are_in_pixels_of_the_image() -> None:
    (prediction,) = TiledPredictor(Squares(64), None, Tiling(64)).predict(_image())
    assert sorted(prediction.detections.xyxy.round().astype(int)[:, 0].tolist())[0] == 20
    assert Source(_image()).total == 1


@pytest.mark.parametrize(("settings", "told"), [(Tiling(8), "tiles=8"), (Tiling(64, 1.0), "overlap=1.0")])
def test_settings_out_of_range_are_refused(settings, told) -> None:
    with pytest.raises(ConfigError, match=told):
        TiledPredictor(Squares(64), None, settings)


def test_masks_stay_with_their_boxes() -> None:
    class Filled(Squares):
        def detect(self, raw, image_size, nms=None, sizes=None):
            return [
                each._replace(masks=torch.ones(len(each.scores), 4, 4)) for each in super().detect(raw, image_size, nms)
            ]

    (prediction,) = TiledPredictor(Filled(64), None, Tiling(64)).predict(_image())
    masks = prediction.detections.mask
    assert masks is not None and masks.shape == (2, 256, 256)
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in prediction.detections.xyxy]
    assert masks.sum((1, 2)).tolist() == pytest.approx(areas, rel=0.3)
