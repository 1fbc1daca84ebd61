"""Checkpoints of YOLOX's authors (Megvii-BaseDetection/YOLOX), such as ``torch.load(file)["model"]``."""

from __future__ import annotations

from crossstage.darknet.names import read_names
from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import State
from crossstage.weights.peers.renaming import Rules, renamed_by
from crossstage.weights.published import FOLDER

# A convolution has ``conv`` and ``bn`` as ours; a separable one has two of them by name, ours by number.
_PARTS: Rules = ((r"", ""), (r"dconv\.", "0."), (r"pconv\.", "1."))


def _spatial(theirs: str, ours: str) -> Rules:
    """Return the rules of a 3x3 convolution, which may be separable."""
    return tuple((rf"{theirs}{part}(?=conv\.|bn\.)", f"{ours}{number}") for part, number in _PARTS)


def _stage(theirs: str, ours: str, body: str) -> Rules:
    """Return the rules of a cross stage partial stage, one of whose blocks is ``body`` below its place."""
    block = theirs.count("(")
    return (
        (rf"{theirs}conv1\.", f"{ours}split.processed."),
        (rf"{theirs}conv2\.", f"{ours}split.carried."),
        (rf"{theirs}conv3\.", f"{ours}merge."),
        (rf"{theirs}m\.(\d+)\.conv1\.", f"{ours}blocks.{{{block}}}.{body}0."),
        *_spatial(rf"{theirs}m\.(\d+)\.conv2\.", f"{ours}blocks.{{{block}}}.{body}1."),
    )


_BACKBONE: Rules = (
    (r"backbone\.backbone\.stem\.conv\.", "backbone.stem.1."),
    *_spatial(r"backbone\.backbone\.dark(\d)\.0\.", "backbone.stages.{0:-2}.0."),
    (r"backbone\.backbone\.dark5\.1\.conv1\.", "backbone.stages.3.1.reduce."),
    (r"backbone\.backbone\.dark5\.1\.conv2\.", "backbone.stages.3.1.expand."),
    *_stage(r"backbone\.backbone\.dark5\.2\.", "backbone.stages.3.2.", ""),
    *_stage(r"backbone\.backbone\.dark(\d)\.1\.", "backbone.stages.{0:-2}.1.", "body."),
)
_NECK: Rules = (
    (r"backbone\.lateral_conv0\.", "neck.reduce.0."),
    (r"backbone\.reduce_conv1\.", "neck.reduce.1."),
    *_stage(r"backbone\.C3_p4\.", "neck.down.0.", ""),
    *_stage(r"backbone\.C3_p3\.", "neck.down.1.", ""),
    *_spatial(r"backbone\.bu_conv2\.", "neck.shrink.0."),
    *_spatial(r"backbone\.bu_conv1\.", "neck.shrink.1."),
    *_stage(r"backbone\.C3_n3\.", "neck.up.0.", ""),
    *_stage(r"backbone\.C3_n4\.", "neck.up.1.", ""),
)
_HEAD: Rules = (
    (r"head\.stems\.", "head.stems."),
    *_spatial(r"head\.cls_convs\.(\d+)\.(\d+)\.", "head.class_branches.{0}.{1}."),
    *_spatial(r"head\.reg_convs\.(\d+)\.(\d+)\.", "head.box_branches.{0}.{1}."),
    (r"head\.cls_preds\.", "head.classes."),
    (r"head\.reg_preds\.", "head.boxes."),
    (r"head\.obj_preds\.", "head.objectness."),
)


def _classes(state: State) -> int:
    return len(state["head.classes.0.weight"]) if "head.classes.0.weight" in state else 0


_COCO = read_names(FOLDER / "coco.names")
AUTHORS: dict[str, Release] = {
    f"yolox_{size}": Release(renamed_by((*_BACKBONE, *_NECK, *_HEAD)), _classes, class_names=_COCO)
    for size in ("nano", "tiny", "s", "m", "l", "x")
}
"""Detectors of ours with checkpoints of their authors' own code."""
