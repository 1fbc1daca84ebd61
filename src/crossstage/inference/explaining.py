"""What an image's classification or detections rest on, as a map over the image.

The map is a weighted sum of a layer's channels, of which what is below 0 is dropped. A classifier's channels are
weighted by the mean gradient of the class's score (Grad-CAM, Selvaraju et al. 2017); a detector's, whose scores belong
to places, by the gradient at each place (HiResCAM, Draelos and Carin 2020), of the sum of the scores of what was found.
Of several maps, as a backbone gives to a neck, the sum is taken, each over its largest value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from crossstage.errors import ConfigError, did_you_mean
from crossstage.inference.classify import ClassPredictor
from crossstage.inference.images import Pixels
from crossstage.inference.predictor import Predictor
from crossstage.inference.preprocessing import prepare, stack
from crossstage.structures import Placement

if TYPE_CHECKING:
    from crossstage.ops.nms import NMS

USUAL_LAYER = "backbone"
OPACITY = 0.5  # of the map over the image


def explain(
    model: Any, image: Pixels, *, class_id: int | None = None, layer: str = USUAL_LAYER, nms: NMS | None = None
) -> tuple[NDArray[np.float32], float]:
    """Return what a classification or what was found rests on.

    Args:
        model: A classifier or a detector of torch's.
        image: ``(H, W, 3)`` RGB uint8.
        class_id: The class; by default a classifier's likeliest, and all that a detector finds.
        layer: The name of the module whose output is looked at; by default the backbone, of a classifier its last map.
        nms: How a detector's boxes become detections; None takes its own way.

    Returns:
        ``(H, W)`` in [0, 1], all 0 where nothing was found; and the class's probability, or the sum of the scores.

    Raises:
        ConfigError: There is no such layer, or its output is no map.
    """
    classifies = not hasattr(model, "detect")
    predictor = ClassPredictor(model) if classifies else Predictor(model, nms)
    modules = dict(model.named_modules())
    if layer not in modules:
        raise ConfigError(f"layer {layer!r} is unknown{did_you_mean(layer, modules)}")
    tensor, placement = prepare(image, predictor.preprocessing)
    batch = stack([tensor], predictor.preprocessing).to(predictor.device)
    maps: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        maps.extend(each for each in (output if isinstance(output, (list, tuple)) else [output]))

    handle = modules[layer].register_forward_hook(keep)
    try:
        with torch.enable_grad():
            inputs = predictor.preprocessing.normalise(batch).to(predictor.dtype).requires_grad_()
            raw = model(inputs)
            score, shown = _class_score(raw, class_id) if classifies else _found(model, raw, placement, class_id, nms)
            maps = [each for each in maps if isinstance(each, Tensor) and each.dim() == 4]
            if not maps:
                raise ConfigError(f"layer {layer!r} gives no map (N, C, H, W); expected another one")
            maps = maps[-1:] if classifies else maps
            if score is None:
                return np.zeros(image.shape[:2], np.float32), 0.0
            slopes = torch.autograd.grad(score, maps, allow_unused=True)
    finally:
        handle.remove()
    pairs = [(each, slope) for each, slope in zip(maps, slopes, strict=True) if slope is not None]
    return _joined(pairs, placement, pooled=classifies), shown


def _class_score(logits: Tensor, class_id: int | None) -> tuple[Tensor, float]:
    chosen = int(logits[0].argmax()) if class_id is None else class_id
    return logits[0, chosen], float(logits[0].detach().softmax(0)[chosen])


def _found(model: Any, raw: Any, placement: Placement, class_id: int | None, nms: NMS | None) -> Any:
    wanted = (nms or model.nms) if class_id is None else replace(nms or model.nms, class_ids=(class_id,))
    (found,) = model.detect(raw, placement.input_size, wanted, [placement.extent])
    score = found.scores.sum()
    return (score, float(score.detach())) if len(found.scores) and score.requires_grad else (None, 0.0)


def _joined(pairs: list[tuple[Tensor, Tensor]], placement: Placement, *, pooled: bool) -> NDArray[np.float32]:
    """Return the weighted maps, laid over the image."""
    size, total = placement.input_size, torch.zeros(placement.input_size)
    for each, slope in pairs:
        weights = slope.mean((2, 3), keepdim=True) if pooled else slope
        one = (weights * each).sum(1, keepdim=True).clamp(min=0).detach().float().cpu()
        total += F.interpolate(one / one.max().clamp(min=1e-12), size, mode="bilinear", align_corners=False)[0, 0]
    (top, left), (height, width) = placement.offset, placement.resized
    rows, columns = placement.image_size
    inside = torch.zeros(height, width)
    low, high = max(0, top), max(0, left)
    part = total[low : min(size[0], top + height), high : min(size[1], left + width)]
    inside[low - top : low - top + part.shape[0], high - left : high - left + part.shape[1]] = part
    whole = F.interpolate(inside[None, None], (rows, columns), mode="bilinear", align_corners=False)[0, 0]
    return (whole / whole.max().clamp(min=1e-12)).numpy()


def laid_over(image: Pixels, heat: NDArray[np.float32]) -> Pixels:
    """Return a copy of an image with a map over it, from blue over yellow to red.

    Args:
        image: ``(H, W, 3)`` RGB uint8.
        heat: ``(H, W)`` in [0, 1].
    """
    import matplotlib

    colours = matplotlib.colormaps["turbo"](heat)[..., :3] * 255
    return (image * (1 - OPACITY) + colours * OPACITY).round().astype(np.uint8)
