"""Images put together: mosaics, images laid over each other, objects copied from one image to another.

Images are resized by :mod:`crossstage.inference.preprocessing` and nothing else; random numbers come from torch's
generator. Masks go wherever their boxes go, and nothing random depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossstage.data.labelled import Labelled, LabelledPixels, boxes_of, draw_masks, pad_masks, size_of, wrap
from crossstage.inference.preprocessing import pad, place, prepare, resize
from crossstage.structures import Colour, Placement, Preprocessing

MIN_VISIBLE = 0.25  # share of a box that must stay inside for it to stay an object
MIN_SIDE = 2.0  # pixels
SMALLEST_CUT = 0.3  # of the side: no image of a mosaic is thinner

Range = tuple[float, float]
Window = tuple[float, float, float, float]  # top, left, bottom, right


def fit(sample: LabelledPixels, preprocessing: Preprocessing) -> Labelled:
    """Prepare an image as inference does, and move its boxes along."""
    image, placement = prepare(sample.pixels, preprocessing)
    boxes = placement.to_input(sample.boxes_xyxy)
    (top, left), canvas = placement.offset, placement.input_size
    drawn = draw_masks(sample, (0, 0, *placement.image_size), placement.resized, (top, left), canvas)
    return wrap(image, boxes, sample.class_ids, drawn)


def mosaic(samples: Sequence[LabelledPixels], preprocessing: Preprocessing, scale: float) -> Labelled:
    """Compose four images around a random point, each zoomed by up to ``scale`` and cropped to its quarter.

    The composed image has the size that the first one would have alone.
    """
    height, width = place(size_of(samples[0]), preprocessing).input_size
    row = int(height * _uniform(SMALLEST_CUT, 1 - SMALLEST_CUT))
    column = int(width * _uniform(SMALLEST_CUT, 1 - SMALLEST_CUT))
    parts = []
    for number, sample in enumerate(samples):
        top, bottom = (0, row) if number < 2 else (row, height)
        left, right = (0, column) if number % 2 == 0 else (column, width)
        tile, (y, x) = _tile(sample, (bottom - top, right - left), preprocessing, scale, number)
        parts.append((tile, (top + y, left + x)))
    return _on_canvas(parts, (height, width), preprocessing)


def _tile(
    sample: LabelledPixels, space: tuple[int, int], preprocessing: Preprocessing, scale: float, number: int
) -> tuple[Labelled, tuple[int, int]]:
    """Return a zoomed image, cropped to the space there is, and where in it it goes: it touches the mosaic's point."""
    height, width = size_of(sample)
    zoom = _uniform(1 - scale, 1 + scale)
    vertical, horizontal = (side * zoom for side in place((height, width), preprocessing).scale)
    rows, columns = min(space[0], max(1, int(height * vertical))), min(space[1], max(1, int(width * horizontal)))
    crop_height = min(height, max(1, round(rows / vertical)))
    crop_width = min(width, max(1, round(columns / horizontal)))
    top = int(torch.randint(height - crop_height + 1, ()))
    left = int(torch.randint(width - crop_width + 1, ()))
    piece = sample.pixels[top : top + crop_height, left : left + crop_width]
    image = resize(piece, (rows, columns), preprocessing)
    placement = Placement(piece.shape[:2], (rows / crop_height, columns / crop_width), (0, 0), (rows, columns))
    boxes = placement.to_input(sample.boxes_xyxy - torch.tensor([left, top] * 2))
    y = space[0] - rows if number < 2 else 0
    x = space[1] - columns if number % 2 == 0 else 0
    drawn = draw_masks(sample, (top, left, crop_height, crop_width), (rows, columns), (0, 0), (rows, columns))
    return wrap(image, boxes, sample.class_ids, drawn), (y, x)


def wide_mosaic(
    samples: Sequence[LabelledPixels], preprocessing: Preprocessing, zooms: Range, margin: float = 1.0
) -> Labelled:
    """Compose four whole images on a canvas of twice the input's size, and show a random window of it (YOLOX, RTMDet).

    The images meet at a random point. Nothing is drawn that the window does not show.

    Args:
        samples: The four images.
        preprocessing: How images become input.
        zooms: Least and largest zoom of the canvas: at 1 images have the size that they would have alone, at 0.5 the
            window shows all of the canvas.
        margin: The window is this many times as high and wide as the input, so that it can be turned and cropped.
    """
    height, width = place(size_of(samples[0]), preprocessing).input_size
    zoom = _uniform(*zooms)
    middle = _uniform(0.5, 1.5) * height, _uniform(0.5, 1.5) * width
    size = round(height * margin), round(width * margin)
    window = _window((2 * height, 2 * width), (size[0] / zoom, size[1] / zoom))
    parts = []
    for number, sample in enumerate(samples):
        rows, columns = place(size_of(sample), preprocessing).resized
        top = middle[0] - rows if number < 2 else middle[0]
        left = middle[1] - columns if number % 2 == 0 else middle[1]
        limits = 0.0, 0.0, 2.0 * height, 2.0 * width
        parts.append(_shown(sample, (top, left, top + rows, left + columns), limits, window, size, preprocessing))
    return _on_canvas(parts, size, preprocessing)


def zoomed(sample: LabelledPixels, preprocessing: Preprocessing, zooms: Range) -> Labelled:
    """Show an image larger or smaller than it would be alone: a random part of it, or all of it at a random place."""
    placement = place(size_of(sample), preprocessing)
    size, zoom = placement.input_size, _uniform(*zooms)
    rows, columns = placement.resized
    window = _window((rows, columns), (size[0] / zoom, size[1] / zoom))
    whole = 0.0, 0.0, float(rows), float(columns)
    return _on_canvas([_shown(sample, whole, whole, window, size, preprocessing)], size, preprocessing)


def shifted(sample: LabelledPixels, preprocessing: Preprocessing, scale: float, translate: float) -> Labelled:
    """Prepare an image as inference does, but zoomed about its middle by up to ``scale`` and shifted.

    Args:
        sample: The image.
        preprocessing: How images become input.
        scale: Most of the zoom, in or out, as a share.
        translate: Most of the shift, as a share of the input's side.
    """
    placement = place(size_of(sample), preprocessing)
    size, zoom = placement.input_size, _uniform(1 - scale, 1 + scale)
    top, left = (side / 2 - side / zoom * (0.5 + _uniform(-translate, translate)) for side in size)
    window = top, left, top + size[0] / zoom, left + size[1] / zoom
    (row, column), (rows, columns) = placement.offset, placement.resized
    tile = float(row), float(column), float(row + rows), float(column + columns)
    return _on_canvas([_shown(sample, tile, tile, window, size, preprocessing)], size, preprocessing)


def _window(canvas: tuple[int, int], size: tuple[float, float]) -> Window:
    """Return a window of a size: a random part of the canvas, or one that the canvas lies in at a random place."""
    top, left = (_uniform(0.0, 1.0) * (side - length) for side, length in zip(canvas, size, strict=True))
    return top, left, top + size[0], left + size[1]


def _shown(
    sample: LabelledPixels,
    tile: Window,
    limits: Window,
    window: Window,
    size: tuple[int, int],
    preprocessing: Preprocessing,
) -> tuple[Labelled, tuple[int, int]] | None:
    """Return what a window shows of an image, and where; None if it shows nothing.

    Args:
        sample: The image.
        tile: Where the whole image lies on a canvas.
        limits: What of the canvas counts.
        window: What of the canvas is shown.
        size: Height and width in pixels that the window is drawn with.
        preprocessing: How images become input.
    """
    image = size_of(sample)
    seen, cut, scale = [], [], []
    for axis in (0, 1):
        low = max(tile[axis], limits[axis], window[axis])
        high = min(tile[axis + 2], limits[axis + 2], window[axis + 2])
        drawn = size[axis] / (window[axis + 2] - window[axis])  # pixels of the result for one of the canvas
        first, last = (round((side - window[axis]) * drawn) for side in (low, high))
        if last <= first:
            return None
        of_image = image[axis] / (tile[axis + 2] - tile[axis])
        start = min(image[axis] - 1, max(0, round((low - tile[axis]) * of_image)))
        length = max(1, min(image[axis] - start, round((high - low) * of_image)))
        seen.append((first, last - first))
        cut.append((start, length))
        scale.append((last - first) / length)
    (top, rows), (left, columns) = seen
    (row, height), (column, width) = cut
    piece = sample.pixels[row : row + height, column : column + width]
    drawn_image = resize(piece, (rows, columns), preprocessing)
    placement = Placement((height, width), (scale[0], scale[1]), (0, 0), (rows, columns))
    boxes = placement.to_input(sample.boxes_xyxy - torch.tensor([column, row] * 2))
    masks = draw_masks(sample, (row, column, height, width), (rows, columns), (0, 0), (rows, columns))
    return wrap(drawn_image, boxes, sample.class_ids, masks), (top, left)


def _on_canvas(
    parts: Sequence[tuple[Labelled, tuple[int, int]] | None], size: tuple[int, int], preprocessing: Preprocessing
) -> Labelled:
    """Lay images onto one canvas; of each object, what reaches out of its own image is cut off."""
    canvas = torch.tensor(preprocessing.padding).view(3, 1, 1).repeat(1, *size)
    boxes, class_ids, masks = [torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], []
    for part in parts:
        if part is None:
            continue
        tile, (top, left) = part
        tile = clip(tile)
        rows, columns = tile.image.shape[-2:]
        canvas[:, top : top + rows, left : left + columns] = tile.image
        boxes.append(tile.boxes.as_subclass(Tensor) + torch.tensor([left, top] * 2))
        class_ids.append(tile.class_ids)
        if tile.masks is not None:
            masks.append(pad_masks(tile.masks, size, (top, left)))
    return wrap(canvas, torch.cat(boxes), torch.cat(class_ids), torch.cat(masks) if masks else None)


def mixup(first: Labelled, second: Labelled, padding: Colour, share: float | None = None) -> Labelled:
    """Lay two images over each other; the objects of both stay.

    Args:
        first: One image.
        second: The other one.
        padding: RGB in [0, 1] below and to the right of the smaller one.
        share: The share of the first; None draws about a half.
    """
    share = float(torch.distributions.Beta(8.0, 8.0).sample()) if share is None else share
    height, width = (max(sides) for sides in zip(first.image.shape[1:], second.image.shape[1:], strict=True))
    over, under = (pad(sample.image.as_subclass(Tensor), (height, width), padding) for sample in (first, second))
    boxes = torch.cat([first.boxes.as_subclass(Tensor), second.boxes.as_subclass(Tensor)])
    masks = [pad_masks(sample.masks, (height, width)) for sample in (first, second) if sample.masks is not None]
    class_ids = torch.cat([first.class_ids, second.class_ids])
    return wrap(torch.lerp(under, over, share), boxes, class_ids, torch.cat(masks) if masks else None)


def clip(sample: Labelled) -> Labelled:
    """Clip boxes to the image; objects of which too little is left, or no pixel of their mask, are dropped."""
    boxes = sample.boxes.as_subclass(Tensor)
    height, width = sample.image.shape[-2:]
    inside = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], dim=-1).flatten(1)
    sides, whole = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    kept = (sides >= MIN_SIDE).all(1) & (sides.prod(1) >= MIN_VISIBLE * whole.prod(1))
    if sample.masks is not None:
        kept &= sample.masks.as_subclass(Tensor).flatten(1).amax(1) > 0
    masks = None if sample.masks is None else sample.masks.as_subclass(Tensor)[kept]
    return wrap(sample.image, inside[kept], sample.class_ids[kept], masks)


def with_masks(sample: LabelledPixels) -> LabelledPixels:
    """Return an image with those of its objects alone that have a mask."""
    if sample.masks is None:
        return sample
    present = sample.masks.present
    kept = torch.from_numpy(present)
    return LabelledPixels(sample.pixels, sample.boxes_xyxy[kept], sample.class_ids[kept], sample.masks[present])


def copy_paste(first: Labelled, second: Labelled, share: float) -> Labelled:
    """Copy objects with their masks from one image into another (arXiv 2012.07177).

    Objects that are hidden by them for the most part are dropped, and the boxes of others hold what is left to be seen.

    Args:
        first: The image that gets objects.
        second: The image that they come from, of the same size; all of its objects have masks.
        share: Probability of each object to be copied.
    """
    if first.masks is None or second.masks is None or first.image.shape != second.image.shape:
        return first
    chosen = torch.rand(len(second.class_ids)) < share
    pasted = second.masks.as_subclass(Tensor)[chosen]
    if not len(pasted):
        return first
    over = pasted.amax(0)
    image = torch.where(over.bool(), second.image.as_subclass(Tensor), first.image.as_subclass(Tensor))
    before = first.masks.as_subclass(Tensor)
    after = before * (1 - over)
    boxes = first.boxes.as_subclass(Tensor).clone()
    areas = [masks.flatten(1).sum(1, dtype=torch.float32) for masks in (before, after)]
    hidden, kept = areas[1] < areas[0], areas[1] >= MIN_VISIBLE * areas[0]
    boxes[hidden & kept] = boxes_of(after[hidden & kept])
    return wrap(
        image,
        torch.cat([boxes[kept], second.boxes.as_subclass(Tensor)[chosen]]),
        torch.cat([first.class_ids[kept], second.class_ids[chosen]]),
        torch.cat([after[kept], pasted]),
    )


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
