"""Detections drawn onto images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.errors import DataError
from crossstage.files import whole_file
from crossstage.inference.images import Pixels

if TYPE_CHECKING:
    from PIL import Image
    from supervision import Detections


def draw(image: Pixels, detections: Detections) -> Pixels:
    """Return a copy of an image with boxes and class names, and confidences and masks where there are any.

    Args:
        image: ``(H, W, 3)`` RGB uint8; it is not changed.
        detections: Boxes, and perhaps masks, in its pixels, with ``data["class_name"]``, and ``confidence`` unless they
            are what is true.
    """
    import supervision as sv

    size = (image.shape[1], image.shape[0])
    thickness = max(1, sv.calculate_optimal_line_thickness(size))
    scale = max(0.35, sv.calculate_optimal_text_scale(size))
    labels = [str(name) for name in detections.data["class_name"]]
    if detections.confidence is not None:
        labels = [f"{name} {score:.2f}" for name, score in zip(labels, detections.confidence, strict=True)]
    drawn = image.copy()
    if detections.mask is not None:
        drawn = sv.MaskAnnotator().annotate(drawn, detections)
    drawn = sv.BoxAnnotator(thickness=thickness).annotate(drawn, detections)
    label = sv.LabelAnnotator(
        text_scale=scale, text_thickness=max(1, thickness // 2), text_padding=3, smart_position=True
    )
    return label.annotate(drawn, detections, labels)


def caption(image: Pixels, text: str) -> Pixels:
    """Return a copy of an image with a line of text on its top left corner.

    Args:
        image: ``(H, W, 3)`` RGB uint8; it is not changed.
        text: The line.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    drawn = Image.fromarray(image)
    drawing = ImageDraw.Draw(drawn)
    font = ImageFont.load_default(max(10, round(min(drawn.size) / 24)))
    box = drawing.textbbox((4, 4), text, font)
    drawing.rectangle((0, 0, box[2] + 4, box[3] + 4), fill="black")
    drawing.text((4, 4), text, fill="white", font=font)
    return np.asarray(drawn)


def write_sheet(path: Path, tiles: Sequence[Pixels], side: int = 320) -> None:
    """Write images in rows, each scaled to fit a square, on white, in the format that the file's ending says.

    Args:
        path: The file to write.
        tiles: Images ``(H, W, 3)`` RGB uint8, at least one.
        side: Side of each square in pixels.

    Raises:
        DataError: The file cannot be written, or its ending is of no format.
    """
    from PIL import Image

    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise DataError(
            f"{path}: expected the name of an image, which ends with .png, .jpg or another format's letters"
        )
    with whole_file(path) as temporary:
        _sheet(tiles, side).save(temporary, quality=88)


def _sheet(tiles: Sequence[Pixels], side: int, columns: int = 4) -> Image.Image:
    from PIL import Image

    page = Image.new("RGB", (min(columns, len(tiles)) * side, -(-len(tiles) // columns) * side), "white")
    for number, pixels in enumerate(tiles):
        tile = Image.fromarray(pixels)
        ratio = side / max(tile.size)
        tile = tile.resize((max(1, round(tile.width * ratio)), max(1, round(tile.height * ratio))))
        page.paste(tile, (number % columns * side, number // columns * side))
    return page
