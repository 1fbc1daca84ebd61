"""Checkpoints of DAMO-YOLO's authors (tinyvision/DAMO-YOLO), such as ``torch.load(file)["model"]``; small networks."""

from __future__ import annotations

from crossstage.darknet.names import read_names
from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import State
from crossstage.weights.peers.renaming import Rules, rename
from crossstage.weights.published import FOLDER


def _block(theirs: str, ours: str, places: tuple[int, ...]) -> Rules:
    """Return the rules of an inverted residual, whose convolutions and norms are numbered so in a row."""
    names = [f"{number}.{layer}." for number in range(3) for layer in ("conv", "bn")]
    return tuple((rf"{theirs}{place}\.", ours + name) for place, name in zip(places, names, strict=True))


_BACKBONE, _NECK = (0, 1, 3, 4, 7, 8), (0, 1, 3, 4, 6, 7)
_SHRINKING = (("13", "detail.1"), ("24", "detail.0"), ("57", "shrink.0"), ("46", "kept.0"), ("76", "shrink.1"))
_SEPARABLE = (("depthwise", "0.conv"), ("dwnorm", "0.bn"), ("pointwise", "1.conv"), ("pwnorm", "1.bn"))
_STAGES = (("3", "down.2"), ("4", "down.1"), ("5", "down.0"), ("7", "up.0"), ("6", "up.1"))
_RULES: Rules = (
    (r"backbone\.block_list\.0\.conv\.conv1\.", "backbone.stem.conv."),
    (r"backbone\.block_list\.0\.conv\.bn1\.", "backbone.stem.bn."),
    (r"backbone\.block_list\.5\.block_list\.1\.conv1\.", "backbone.stages.4.1.reduce."),
    (r"backbone\.block_list\.5\.block_list\.1\.conv2\.", "backbone.stages.4.1.expand."),
    *_block(r"backbone\.block_list\.(\d+)\.block_list\.0\.conv\.", "backbone.stages.{0:-1}.0.", _BACKBONE),
    *_block(r"backbone\.block_list\.(\d+)\.block_list\.(\d+)\.conv\.", "backbone.stages.{0:-1}.{1}.body.", _BACKBONE),
    *(
        (rf"neck\.bu_conv{theirs}\.{layer}\.", f"neck.{ours}.{part}.")
        for theirs, ours in _SHRINKING
        for layer, part in _SEPARABLE
    ),
    *(
        rule
        for theirs, ours in _STAGES
        for rule in (
            (rf"neck\.merge_{theirs}\.conv1\.", f"neck.{ours}.split.carried."),
            (rf"neck\.merge_{theirs}\.conv2\.", f"neck.{ours}.split.processed."),
            (rf"neck\.merge_{theirs}\.conv3\.", f"neck.{ours}.merge."),
            *_block(
                rf"neck\.merge_{theirs}\.convs\.(\d+)\.conv\.conv\.", f"neck.{ours}.blocks.blocks.{{0}}.body.", _NECK
            ),
        )
    ),
    (r"head\.gfl_cls\.", "head.classes."),
    (r"head\.gfl_reg\.", "head.boxes."),
    (r"head\.scales\.(\d+)\.scale", "head.scales.{0}"),
)
# Nl's fourth stage neither halves nor widens, so that its first block has a shortcut as well.
_LARGE = _block(r"backbone\.block_list\.4\.block_list\.0\.conv\.", "backbone.stages.3.0.body.", _BACKBONE)


def _learned(state: State) -> State:
    """Leave out the numbers of the bins, which are stored as well."""
    return {key: tensor for key, tensor in state.items() if key != "head.integral.project"}


def _classes(state: State) -> int:
    return len(state["head.classes.0.bias"]) if "head.classes.0.bias" in state else 0


def _release(rules: Rules) -> Release:
    return Release(lambda state, source: rename(_learned(state), rules, source), _classes, class_names=_COCO)


_COCO = read_names(FOLDER / "coco.names")
AUTHORS: dict[str, Release] = {
    "damo_yolo_ns": _release(_RULES),
    "damo_yolo_nm": _release(_RULES),
    "damo_yolo_nl": _release((*_LARGE, *_RULES)),
}
