"""A small drawn dataset and a detector that finds its squares by their colours."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Preprocessing

SIDE = 200
SQUARES = {  # of each image: class, left, top, side in pixels
    "a": [("cat", 10, 10, 20), ("dog", 100, 100, 50)],
    "b": [("dog", 20, 20, 120)],
    "c": [("cat", 50, 50, 40)],
    "d": [],
}
COLOURS = {"cat": (255, 0, 0), "dog": (0, 255, 0)}


def draw_squares(folder: Path) -> Path:
    """Write the images and COCO's labels of them, polygons among these."""
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for number, (name, squares) in enumerate(SQUARES.items(), start=1):
        image = Image.new("RGB", (SIDE, SIDE), "white")
        for kind, left, top, side in squares:
            ImageDraw.Draw(image).rectangle((left, top, left + side - 1, top + side - 1), COLOURS[kind])
            right, bottom = left + side, top + side
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 + list(COLOURS).index(kind),
                    "bbox": [left, top, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                }
            )
        image.save(folder / "images" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


class Told(torch.nn.Module):
    """Finds what it was told to find in each image, in the order in which the images come."""

    class_names = ("cat", "dog")
    size_divisor = 1
    nms = NMS()

    def __init__(self, found: list[list[tuple[int, float, tuple[float, float, float, float]]]]):
        super().__init__()
        self.preprocessing = Preprocessing((SIDE, SIDE))
        self.found = iter(found)

    def forward(self, images):
        return [images]

    def detect(self, raw, image_size, nms, sizes=None):
        rows = [row for row in next(self.found) if row[1] > nms.score]
        boxes = torch.tensor([row[2] for row in rows]).reshape(-1, 4).float()
        scores, classes = torch.tensor([row[1] for row in rows]), torch.tensor([row[0] for row in rows])
        return [Instances(boxes, scores.float(), classes.long())]


class Brightest(torch.nn.Module):
    """Takes an image for the colour of its brightest channel, and all that is blue for green."""

    class_names = ("red", "green", "blue", "black")

    def __init__(self):
        super().__init__()
        self.preprocessing = Preprocessing((32, 32))

    def forward(self, images):
        red, green, blue = images.mean((2, 3)).unbind(1)
        return 20 * torch.stack([red, torch.maximum(green, blue), torch.zeros_like(blue), torch.zeros_like(blue)], 1)
