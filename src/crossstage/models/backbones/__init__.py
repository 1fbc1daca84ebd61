"""Backbones: one file for each family, each beginning with its table."""

from __future__ import annotations

from collections.abc import Sequence

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import About, BackboneConfig, StagedBackbone
from crossstage.models.backbones.darknet import DARKNETS, DarknetConfig, build_darknet
from crossstage.models.backbones.densenet import DENSENETS, DenseNetConfig, build_densenet
from crossstage.models.backbones.mobilenet import MOBILENETS, MobileNetV2Config, build_mobilenet
from crossstage.models.backbones.peleenet import PELEENETS, PeleeNetConfig, build_peleenet
from crossstage.models.backbones.reference import REFERENCES, ReferenceConfig, build_reference
from crossstage.models.backbones.resnet import RESNETS, ResNetConfig, build_resnet
from crossstage.models.backbones.vovnet import VOVNETS, VoVNetConfig, build_vovnet

BACKBONES: dict[str, BackboneConfig] = {
    **DARKNETS,
    **DENSENETS,
    **MOBILENETS,
    **PELEENETS,
    **REFERENCES,
    **RESNETS,
    **VOVNETS,
}

_BUILDERS = {
    DarknetConfig: build_darknet,
    DenseNetConfig: build_densenet,
    MobileNetV2Config: build_mobilenet,
    PeleeNetConfig: build_peleenet,
    ReferenceConfig: build_reference,
    ResNetConfig: build_resnet,
    VoVNetConfig: build_vovnet,
}


def build_backbone(
    config: BackboneConfig, *, out_indices: Sequence[int] = (-1,), strides: Sequence[int] | None = None
) -> StagedBackbone:
    """Turn a row of a family's table, or a changed copy of one, into a backbone.

    Args:
        config: The row.
        out_indices: Which stages' maps to return, counted from 0, negative from the end.
        strides: Return the last map of each of these strides instead.

    Raises:
        ConfigError: A value of the row does not fit the others, an index is out of range, or there is no map of a
            stride.

    Example:
        >>> backbone = build_backbone(BACKBONES["cspresnet50"], out_indices=(1, 2, 3))
        >>> backbone.channels, backbone.strides
        ([256, 512, 1024], [8, 16, 32])
    """
    stem, stages = _BUILDERS[type(config)](config)
    if strides is not None:
        last = {stage.stride: index for index, stage in enumerate(stages)}
        if not set(strides) <= last.keys():
            raise ConfigError(f"maps of strides {list(strides)} are asked for; this backbone's are at {sorted(last)}")
        out_indices = [last[stride] for stride in strides]
    return StagedBackbone(config, stem, stages, out_indices=out_indices)


__all__ = [
    "BACKBONES",
    "DARKNETS",
    "DENSENETS",
    "MOBILENETS",
    "PELEENETS",
    "REFERENCES",
    "RESNETS",
    "VOVNETS",
    "About",
    "BackboneConfig",
    "DarknetConfig",
    "DenseNetConfig",
    "MobileNetV2Config",
    "PeleeNetConfig",
    "ReferenceConfig",
    "ResNetConfig",
    "StagedBackbone",
    "VoVNetConfig",
    "build_backbone",
]
