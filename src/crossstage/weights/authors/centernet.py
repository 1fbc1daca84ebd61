"""Checkpoints of CenterNet's authors (xingyizhou/CenterNet), such as ``torch.load(file)["state_dict"]``.

The stored names begin with ``module.`` in some releases. DLA-34's hold projections and a classifier that are not used.
"""

from __future__ import annotations

import re

from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import State
from crossstage.weights.peers.renaming import DLA, RESNET, Rules, rename

_HEADS: Rules = ((r"hm\.", "head.heatmap."), (r"wh\.", "head.size."), (r"reg\.", "head.offset."))
# In a row: deformable convolution, norm, ReLU, transposed convolution, norm, ReLU, and again.
_RESDCN: Rules = (
    *_HEADS,
    *(
        rule
        for step in range(3)
        for rule in (
            (rf"deconv_layers\.{6 * step}\.conv_offset_mask\.", f"neck.layers.{2 * step}.conv.offsets."),
            (rf"deconv_layers\.{6 * step}\.", f"neck.layers.{2 * step}.conv."),
            (rf"deconv_layers\.{6 * step + 1}\.", f"neck.layers.{2 * step}.bn."),
            (rf"deconv_layers\.{6 * step + 3}\.", f"neck.layers.{2 * step + 1}.conv."),
            (rf"deconv_layers\.{6 * step + 4}\.", f"neck.layers.{2 * step + 1}.bn."),
        )
    ),
    *RESNET,
)


def _ascending(theirs: str, ours: str, number: int) -> Rules:
    """Return the rules of one IDAUp, whose parts have the number that comes as ``number``-th in a name."""
    at = f".{{{number}:-1}}."
    return (
        (rf"{theirs}up_(\d+)\.", f"{ours}enlarge{at}"),
        *(
            rule
            for part, name in (("proj", "project"), ("node", "smooth"))
            for rule in (
                (rf"{theirs}{part}_(\d+)\.conv\.conv_offset_mask\.", f"{ours}{name}{at}conv.offsets."),
                (rf"{theirs}{part}_(\d+)\.conv\.", f"{ours}{name}{at}conv."),
                (rf"{theirs}{part}_(\d+)\.actf\.0\.", f"{ours}{name}{at}bn."),
            )
        ),
    )


_DLA: Rules = (
    *_HEADS,
    *_ascending(r"dla_up\.ida_(\d+)\.", "neck.steps.{0}.", 1),
    *_ascending(r"ida_up\.", "neck.last.", 0),
    *((rf"base\.{theirs}", ours) for theirs, ours in DLA),
)
_UNUSED = re.compile(r"base\.(level[34]\.project|fc)\.")


def _used(state: State) -> State:
    plain = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    return {key: tensor for key, tensor in plain.items() if not _UNUSED.match(key)}


def _release(rules: Rules) -> Release:
    return Release(lambda state, source: rename(_used(state), rules, source), _classes)


def _classes(state: State) -> int:
    return len(state["head.heatmap.2.weight"]) if "head.heatmap.2.weight" in state else 0


AUTHORS: dict[str, Release] = {
    "centernet_resnet18": _release(_RESDCN),
    "centernet_resnet101": _release(_RESDCN),
    "centernet_dla34": _release(_DLA),
}
