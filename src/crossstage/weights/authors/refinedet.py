"""Checkpoints of RefineDet with VGG-16 from its port to PyTorch (luuuyi/RefineDet.PyTorch)."""

from __future__ import annotations

import torch
from torch import Tensor

from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import State
from crossstage.weights.peers.renaming import Rules, rename, vgg16

_LEVELS = range(4)
_RULES: Rules = (
    *vgg16(r"vgg\."),
    (r"conv4_3_L2Norm\.", "neck.norms.0."),
    (r"conv5_3_L2Norm\.", "neck.norms.1."),
    (r"extras\.(\d+)\.", "neck.extras.0.{0}.conv."),
    (r"arm_loc\.(\d+)\.", "head.arm.{0}.boxes."),
    (r"arm_conf\.(\d+)\.", "head.arm.{0}.classes."),
    (r"odm_loc\.(\d+)\.", "head.odm.{0}.boxes."),
    (r"odm_conf\.(\d+)\.", "head.odm.{0}.classes."),
    # Layers of the transfer connection blocks are numbered over all maps, ReLUs included.
    *((rf"tcb0\.{3 * level}\.", f"head.transfers.{level}.lateral.0.conv.") for level in _LEVELS),
    *((rf"tcb0\.{3 * level + 2}\.", f"head.transfers.{level}.lateral.1.conv.") for level in _LEVELS),
    (r"tcb1\.(\d+)\.", "head.transfers.{0}.enlarge.0."),
    *((rf"tcb2\.{3 * level + 1}\.", f"head.transfers.{level}.out.conv.") for level in _LEVELS),
)


def _adapt(state: State, source: str) -> dict[str, Tensor]:
    """Rename; where the scales of the L2 norms were not stored, they are what training starts from."""
    renamed = rename(state, _RULES, source)
    for index, scale in enumerate((10.0, 8.0)):
        renamed.setdefault(f"neck.norms.{index}.weight", torch.full((512,), scale))
    return renamed


def _classes(state: State) -> int:
    """Count the classes of three anchors, each of which has background besides."""
    return len(state["head.odm.0.classes.bias"]) // 3 - 1 if "head.odm.0.classes.bias" in state else 0


AUTHORS = {f"refinedet{size}_vgg16": Release(_adapt, _classes) for size in (320, 512)}
