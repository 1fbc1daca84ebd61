"""Checkpoints of YOLOv9's MIT release (MultimediaTechLab/YOLO), whose layers are numbered from end to end.

Layers without parameters are counted, too. The branch that helps in training comes last; files may lack it.
"""

from __future__ import annotations

import re

from crossstage.darknet.names import read_names
from crossstage.models.detector import AUXILIARY
from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import State
from crossstage.weights.peers.renaming import Rules, rename
from crossstage.weights.published import FOLDER

_BINS = ".anc2vec."  # 0, 1, ... 15, which nothing trains
_HEAD = 22  # place of the head
_AVERAGED = "ema."
_COCO = read_names(FOLDER / "coco.names")


def _elan(number: int, ours: str) -> Rules:
    """Return the rules of an aggregation of convolutions."""
    return (
        (rf"{number}\.conv1\.", f"{ours}reduce."),
        (rf"{number}\.conv2\.", f"{ours}blocks.0."),
        (rf"{number}\.conv3\.", f"{ours}blocks.1."),
        (rf"{number}\.conv4\.", f"{ours}merge."),
    )


def _partial_elan(number: int, ours: str) -> Rules:
    """Return the rules of an aggregation of partial blocks."""
    rules: Rules = ()
    for block, theirs in enumerate((rf"{number}\.conv2\.", rf"{number}\.conv3\.")):
        inner = f"{ours}blocks.{block}."
        rules += (
            (rf"{theirs}0\.conv1\.", f"{inner}0.split.processed."),
            (rf"{theirs}0\.conv2\.", f"{inner}0.split.carried."),
            (rf"{theirs}0\.conv3\.", f"{inner}0.merge."),
            (rf"{theirs}0\.bottleneck\.(\d+)\.conv1\.conv1\.", f"{inner}0.blocks.{{0}}.body.0.spatial."),
            (rf"{theirs}0\.bottleneck\.(\d+)\.conv1\.conv2\.", f"{inner}0.blocks.{{0}}.body.0.pointwise."),
            (rf"{theirs}0\.bottleneck\.(\d+)\.conv2\.", f"{inner}0.blocks.{{0}}.body.1."),
            (rf"{theirs}1\.", f"{inner}1."),
        )
    return (*rules, (rf"{number}\.conv1\.", f"{ours}reduce."), (rf"{number}\.conv4\.", f"{ours}merge."))


def _pool(number: int, ours: str) -> Rules:
    return ((rf"{number}\.conv1\.", f"{ours}reduce."), (rf"{number}\.conv5\.", f"{ours}expand."))


def _head(number: int, ours: str) -> Rules:
    branches = (("anchor", "boxes"), ("class", "classes"))
    return tuple((rf"{number}\.heads\.(\d+)\.{theirs}_conv\.", f"{ours}{name}.{{0}}.") for theirs, name in branches)


def _down(number: int, ours: str, kind: str) -> Rules:
    if kind == "aconv":
        return ((rf"{number}\.conv\.", f"{ours}1."),)
    return ((rf"{number}\.conv1\.", f"{ours}convolved."), (rf"{number}\.conv2\.", f"{ours}pooled."))


def _backbone(number: int, ours: str, kind: str, *, plain: bool, between: int = 0) -> Rules:
    """Return the rules of a GELAN.

    Args:
        number: Place of its first layer.
        ours: What our names begin with.
        kind: What halves its maps.
        plain: Whether its first aggregation is of convolutions.
        between: Layers without parameters between what halves a map and what aggregates it, of all but the first.
    """
    rules: Rules = ((rf"{number}\.", f"{ours}stem."), (rf"{number + 1}\.", f"{ours}stages.0.down."))
    rules += (_elan if plain else _partial_elan)(number + 2, f"{ours}stages.0.block.")
    for stage in (1, 2, 3):
        place = number + 3 + (2 + between) * (stage - 1)
        rules += _down(place, f"{ours}stages.{stage}.down.", kind)
        rules += _partial_elan(place + 1 + between, f"{ours}stages.{stage}.block.")
    return rules


def _top_down(number: int, ours: str) -> Rules:
    """Return the rules of what leads a map up, in which enlarging and joining are layers of their own."""
    return (
        *_pool(number, f"{ours}pool."),
        *_partial_elan(number + 3, f"{ours}blocks.1."),
        *_partial_elan(number + 6, f"{ours}blocks.0."),
    )


def _detector(kind: str, *, plain: bool) -> Rules:
    """Return the rules of a detector without what helps in training."""
    return (
        *_backbone(0, "backbone.", kind, plain=plain),
        *_top_down(9, "neck.top_down."),
        *_down(16, "neck.down.0.", kind),
        *_partial_elan(18, "neck.blocks.0."),
        *_down(19, "neck.down.1.", kind),
        *_partial_elan(21, "neck.blocks.1."),
        *_head(_HEAD, "head."),
    )


def _small() -> Rules:
    pyramid = f"{AUXILIARY}pyramid.top_down."
    return (*_detector("aconv", plain=True), *_top_down(23, pyramid), *_head(30, f"{AUXILIARY}head."))


def _large(kind: str) -> Rules:
    pyramid = f"{AUXILIARY}pyramid."
    return (
        *_detector(kind, plain=False),
        *((rf"{23 + level}\.conv\.", f"{pyramid}projections.{level}.") for level in range(3)),
        *_backbone(26, f"{pyramid}second.", kind, plain=False, between=1),
        *_head(38, f"{AUXILIARY}head."),
    )


def _release(rules: Rules) -> Release:
    return Release(lambda state, source: rename(_used(state), rules, source), _classes, class_names=_COCO)


def _used(state: State) -> State:
    """Drop what names of whole models and of trainers begin with, and the numbers of the bins.

    A trainer's file holds averaged tensors besides, which are then taken.
    """
    averaged = {key.removeprefix(_AVERAGED): tensor for key, tensor in state.items() if key.startswith(_AVERAGED)}
    return {re.sub(r"^(model\.)+", "", key): tensor for key, tensor in (averaged or state).items() if _BINS not in key}


def _classes(state: State) -> int:
    return len(state["head.classes.0.2.bias"]) if "head.classes.0.2.bias" in state else 0


AUTHORS: dict[str, Release] = {
    "yolov9_t": _release(_small()),
    "yolov9_s": _release(_small()),
    "yolov9_m": _release(_large("aconv")),
    "yolov9_c": _release(_large("adown")),
}
