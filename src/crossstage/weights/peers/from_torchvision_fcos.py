"""torchvision's FCOS in ours, whose backbone has frozen norms as torchvision's trained one has."""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

from crossstage.models.heads.fcos import FcosLoss
from crossstage.weights.peers.base import State, Twin
from crossstage.weights.peers.renaming import FC, RESNET, Rules, rename

_BODY: Rules = tuple((rf"backbone\.body\.{pattern}", ours) for pattern, ours in RESNET if (pattern, ours) not in FC)
_FCOS: Rules = (
    *_BODY,
    (r"backbone\.fpn\.", "neck.fpn."),
    (r"head\.classification_head\.conv\.", "head.class_tower."),
    (r"head\.classification_head\.cls_logits\.", "head.classes."),
    (r"head\.regression_head\.conv\.", "head.box_tower."),
    (r"head\.regression_head\.bbox_reg\.", "head.distances."),
    (r"head\.regression_head\.bbox_ctrness\.", "head.centreness."),
)
_CLASSES = "head.classes.bias"
_COUNT = ".num_batches_tracked"


def _from_fcos(state: State, source: str) -> dict[str, Tensor]:
    """Rename; of batch norms, such as of a network that did not start from weights, the counts of batches go."""
    return rename({key: tensor for key, tensor in state.items() if not key.endswith(_COUNT)}, _FCOS, source)


def _count_classes(state: State) -> int:
    return len(state[_CLASSES]) if _CLASSES in state else 0


PEERS: dict[str, Twin] = {
    "torchvision:fcos_resnet50_fpn": Twin(
        "fcos_resnet50_torchvision_fpn",
        _from_fcos,
        settings={
            "norm": "frozen",
            "scaled": False,
            "grid": "corners",
            "loss": FcosLoss(closed=False, weighted=False),
        },
        count_classes=_count_classes,
        class_names=tuple(FCOS_ResNet50_FPN_Weights.DEFAULT.meta["categories"]),  # 0 is background, and never found
    )
}
