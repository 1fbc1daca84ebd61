"""torchvision's SSD300 in ours."""

from __future__ import annotations

from torchvision.models.detection import SSD300_VGG16_Weights

from crossstage.weights.peers.base import State, Twin
from crossstage.weights.peers.renaming import Rules, renamed_by, vgg16

_SSD: Rules = (
    *vgg16(r"backbone\.features\."),
    (r"backbone\.scale_weight", "neck.norms.0.weight"),
    # The first of torchvision's "extra" begins with the fourth pooling; behind it are conv5 and, nested, fc6 and fc7.
    *((rf"backbone\.extra\.0\.{number}\.", f"backbone.stages.4.{(number + 1) // 2}.conv.") for number in (1, 3, 5)),
    *((rf"backbone\.extra\.0\.7\.{number}\.", f"backbone.stages.5.{(number + 1) // 2}.conv.") for number in (1, 3)),
    *((rf"backbone\.extra\.(\d+)\.{2 * place}\.", f"neck.extras.{{0:-1}}.{place}.conv.") for place in (0, 1)),
    (r"head\.classification_head\.module_list\.(\d+)\.", "head.classes.{0}."),
    (r"head\.regression_head\.module_list\.(\d+)\.", "head.boxes.{0}."),
)


def _count_classes(state: State) -> int:
    """Count the classes of the four default boxes of the first map, each of which has background besides."""
    return len(state["head.classes.0.bias"]) // 4 - 1 if "head.classes.0.bias" in state else 0


PEERS: dict[str, Twin] = {
    "torchvision:ssd300_vgg16": Twin(
        "ssd300_vgg16",
        renamed_by(_SSD),
        count_classes=_count_classes,
        class_names=tuple(SSD300_VGG16_Weights.DEFAULT.meta["categories"][1:]),  # the first is background
    )
}
