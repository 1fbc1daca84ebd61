"""Checkpoints of RTMDet's authors (open-mmlab/mmdetection), such as ``torch.load(file)["state_dict"]``.

The convolutions that the head's levels share are stored with each of them.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from crossstage.darknet.names import read_names
from crossstage.errors import WeightsError
from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import State
from crossstage.weights.peers.renaming import Rules, rename
from crossstage.weights.published import FOLDER


def _stage(theirs: str, ours: str, merge: str, block: str) -> Rules:
    """Return the rules of a partial stage.

    Args:
        theirs: Pattern of what stands before the names of its layers.
        ours: What stands before ours.
        merge: Our name of U.
        block: Our name of a block, ``{{}}`` being its number.
    """
    number = re.compile(theirs).groups
    block = f"{ours}{block.replace('{}', f'{{{number}}}')}"
    return (
        (rf"{theirs}main_conv\.", f"{ours}split.processed."),
        (rf"{theirs}short_conv\.", f"{ours}split.carried."),
        (rf"{theirs}final_conv\.", f"{ours}{merge}."),
        (rf"{theirs}attention\.fc\.", f"{ours}merge.0.fc."),
        (rf"{theirs}blocks\.(\d+)\.conv1\.", f"{block}.0."),
        (rf"{theirs}blocks\.(\d+)\.conv2\.depthwise_conv\.", f"{block}.1."),
        (rf"{theirs}blocks\.(\d+)\.conv2\.pointwise_conv\.", f"{block}.2."),
    )


_BRANCHES = (("cls", "class"), ("reg", "box"))
_RULES: Rules = (
    (r"backbone\.stem\.", "backbone.stem."),
    (r"backbone\.stage(\d+)\.0\.", "backbone.stages.{0:-1}.0."),
    (r"backbone\.stage4\.1\.conv1\.", "backbone.stages.3.1.reduce."),
    (r"backbone\.stage4\.1\.conv2\.", "backbone.stages.3.1.expand."),
    *_stage(r"backbone\.stage([123])\.1\.", "backbone.stages.{0:-1}.1.", "merge.1", "blocks.{}.body"),
    *_stage(r"backbone\.stage4\.2\.", "backbone.stages.3.2.", "merge.1", "blocks.{}"),
    (r"neck\.reduce_layers\.", "neck.reduce."),
    (r"neck\.downsamples\.", "neck.shrink."),
    (r"neck\.out_convs\.", "neck.out."),
    *_stage(r"neck\.top_down_blocks\.(\d+)\.", "neck.down.{0}.", "merge", "blocks.{}"),
    *_stage(r"neck\.bottom_up_blocks\.(\d+)\.", "neck.up.{0}.", "merge", "blocks.{}"),
    *(
        rule
        for theirs, ours in _BRANCHES
        for rule in (
            (rf"bbox_head\.{theirs}_convs\.0\.(\d+)\.conv\.", f"head.{ours}_convs.{{0}}.conv."),
            (rf"bbox_head\.{theirs}_convs\.(\d+)\.(\d+)\.bn\.", f"head.{ours}_convs.{{1}}.norms.{{0}}."),
        )
    ),
    (r"bbox_head\.rtm_cls\.", "head.classes."),
    (r"bbox_head\.rtm_reg\.", "head.boxes."),
)
_REPEATED = re.compile(r"(bbox_head\.(?:cls|reg)_convs\.)[1-9]\d*(\.\d+\.conv\.weight)$")


def _once(state: State, source: str) -> State:
    """Return the tensors without those that are stored once more.

    Raises:
        WeightsError: One of these differs from the first, so that levels do not share it.
    """
    kept = {}
    for key, tensor in state.items():
        match = _REPEATED.match(key)
        if match is None:
            kept[key] = tensor
            continue
        first = match.group(1) + "0" + match.group(2)
        if first not in state or not torch.equal(state[first], tensor):
            raise WeightsError(f"{source}: {key} is not {first}; expected convolutions that all levels share")
    return kept


def _classes(state: State) -> int:
    return len(state["head.classes.0.bias"]) if "head.classes.0.bias" in state else 0


def _adapt(state: State, source: str) -> dict[str, Tensor]:
    return rename(_once(state, source), _RULES, source)


_COCO = read_names(FOLDER / "coco.names")
AUTHORS: dict[str, Release] = {
    f"rtmdet_{size}": Release(_adapt, _classes, class_names=_COCO) for size in ("tiny", "s", "m", "l", "x")
}
