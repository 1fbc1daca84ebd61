"""Tensors under other names: rules of patterns, and those that several libraries share.

A rule is a pattern of a peer's name and our name for it; in ours, ``{0}`` is the first number of the peer's name and
``{0:-1}`` that number less one.
"""

from __future__ import annotations

import re

from torch import Tensor

from crossstage.errors import WeightsError
from crossstage.weights.peers.base import Adapter, State

Rules = tuple[tuple[str, str], ...]

FC: Rules = ((r"(?:head\.)?fc\.", "fc."), (r"classifier\.(?:1\.)?", "fc."))
RESNET: Rules = (
    (r"conv1\.", "backbone.stem.0.conv."),
    (r"bn1\.", "backbone.stem.0.bn."),
    (r"layer(\d+)\.(\d+)\.conv(\d+)\.", "backbone.stages.{0:-1}.{1}.body.{2:-1}.conv."),
    (r"layer(\d+)\.(\d+)\.bn(\d+)\.", "backbone.stages.{0:-1}.{1}.body.{2:-1}.bn."),
    (r"layer(\d+)\.(\d+)\.downsample\.0\.", "backbone.stages.{0:-1}.{1}.shortcut.conv."),
    (r"layer(\d+)\.(\d+)\.downsample\.1\.", "backbone.stages.{0:-1}.{1}.shortcut.bn."),
    *FC,
)
DENSENET: Rules = (
    (r"features\.conv0\.", "backbone.stem.0.conv."),
    (r"features\.norm0\.", "backbone.stem.0.bn."),
    (r"features\.denseblock(\d+)\.denselayer(\d+)\.", "backbone.stages.{0:-1}.1.layers.{1:-1}."),
    (r"features\.transition(\d+)\.norm\.", "backbone.stages.{0}.0.0.bn."),
    (r"features\.transition(\d+)\.conv\.", "backbone.stages.{0}.0.0.conv."),
    (r"features\.norm5\.", "backbone.stages.3.2.0."),
    *FC,
)
DLA: Rules = (
    (r"base_layer\.0\.", "backbone.stem.0.conv."),
    (r"base_layer\.1\.", "backbone.stem.0.bn."),
    (r"level([01])\.0\.", "backbone.stem.{0:+1}.conv."),
    (r"level([01])\.1\.", "backbone.stem.{0:+1}.bn."),
    *(
        rule
        for theirs, ours, part in (
            (r"level(\d+)\.", "backbone.stages.{0:-2}.", 1),
            (r"level(\d+)\.tree(\d+)\.", "backbone.stages.{0:-2}.parts.{1:-1}.", 2),
        )
        for rule in (
            (rf"{theirs}root\.", f"{ours}root."),
            (rf"{theirs}project\.0\.", f"{ours}parts.0.shortcut.1.conv."),
            (rf"{theirs}project\.1\.", f"{ours}parts.0.shortcut.1.bn."),
            *(
                (rf"{theirs}tree(\d+)\.{layer}(\d+)\.", f"{ours}parts.{{{part}:-1}}.body.{{{part + 1}:-1}}.{layer}.")
                for layer in ("conv", "bn")
            ),
        )
    ),
    *FC,
)


def vgg16(prefix: str) -> Rules:
    """Return the rules of VGG-16's layers where they are numbered from end to end, those of ReLU and pooling included.

    Args:
        prefix: Pattern of what stands before the number.
    """
    rules, number = [], 0
    for stage, convolutions in enumerate((2, 2, 3, 3, 3, 2)):  # the last are fc6 and fc7
        pooled = int(stage > 0)
        number += pooled
        for place in range(pooled, pooled + convolutions):
            rules.append((rf"{prefix}{number}\.", f"backbone.stages.{stage}.{place}.conv."))
            number += 2
    return tuple(rules)


class _Number(int):
    """A number of a tensor's name; its format specification is added to it."""

    def __format__(self, spec: str) -> str:
        return str(self + int(spec or 0))


def rename(state: State, rules: Rules, source: str) -> dict[str, Tensor]:
    """Give every tensor our name, by the first rule that fits the beginning of its own.

    Args:
        state: The tensors.
        rules: The rules.
        source: What the tensors are, for messages.

    Raises:
        WeightsError: A name fits no rule.
    """
    compiled = [(re.compile(pattern), name) for pattern, name in rules]
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        for pattern, name in compiled:
            if match := pattern.match(key):
                renamed[name.format(*map(_Number, match.groups())) + key[match.end() :]] = tensor
                break
        else:
            raise WeightsError(f"{source}: tensor {key!r} has no place in this network")
    return renamed


def renamed_by(rules: Rules) -> Adapter:
    """Return an adapter that follows rules and does nothing else."""
    return lambda state, source: rename(state, rules, source)
