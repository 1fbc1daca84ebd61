"""Names of EfficientNet-Lite's tensors, which timm and the ports of Google's release share but for their spelling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crossstage.models.backbones import BACKBONES
from crossstage.models.backbones.efficientnet_lite import EfficientNetLiteConfig
from crossstage.structures import Preprocessing
from crossstage.weights.peers.renaming import Rules

NAMES = [name for name, row in BACKBONES.items() if isinstance(row, EfficientNetLiteConfig) and row.partial is None]
"""Our networks that there are weights of."""

_MARGIN = 32  # pixels around the crop, on both sides together (EfficientNet's preprocessing)


def preprocessing(name: str) -> Preprocessing:
    """Return how a network of :data:`NAMES` wants its images: (x - 127) / 128, resized bicubically."""
    side, mean, std = BACKBONES[name].size, 127 / 255, 128 / 255
    return Preprocessing(
        (side, side), "crop", (mean, mean, mean), (std, std, std), resample="cubic", crop=side / (side + _MARGIN)
    )


def groups(name: str) -> Iterator[tuple[str, int, bool]]:
    """Yield of each group its place in our network, its number of blocks, and whether these expand."""
    row = BACKBONES[name]
    assert isinstance(row, EfficientNetLiteConfig)
    for stage, rows in enumerate(row.stages):
        for number, (_, expansion, _, blocks) in enumerate(rows):
            yield f"backbone.stages.{stage}.{number}", blocks, expansion > 1


def closing(name: str) -> str:
    """Return the place of the closing convolution."""
    row = BACKBONES[name]
    assert isinstance(row, EfficientNetLiteConfig)
    return f"backbone.stages.{len(row.stages)}."


def block_rules(theirs: str, ours: str, layers: Sequence[tuple[str, str]]) -> Rules:
    """Return the rules of a block.

    Args:
        theirs: Pattern of what stands before a layer's name.
        ours: What stands before its number.
        layers: Patterns of the names of each convolution and its norm, in the order in which they run.
    """
    return tuple(
        rule
        for number, (conv, norm) in enumerate(layers)
        for rule in ((rf"{theirs}{conv}\.", f"{ours}{number}.conv."), (rf"{theirs}{norm}\.", f"{ours}{number}.bn."))
    )


def body(place: str, block: int) -> str:
    """Return what stands before the number of a layer in a block; the first of a group has no shortcut."""
    return f"{place}.{block}.body." if block else f"{place}.{block}."
