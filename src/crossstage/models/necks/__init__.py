"""Necks: lists of feature maps to lists of feature maps. A table of rows, and the function that builds one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crossstage.models.contracts import Neck
from crossstage.models.necks.base import NeckConfig
from crossstage.models.necks.efm import EFM, EFMConfig
from crossstage.models.necks.fpn import FPN, FPNConfig, TinyFPN, TinyFPNConfig, YoloFPN, YoloFPNConfig
from crossstage.models.necks.gfm import CEM, GFM, CEMConfig, GFMConfig
from crossstage.models.necks.panet import PANet, PANetConfig
from crossstage.models.necks.prn import PRN, PRNConfig
from crossstage.models.necks.spp import SPP, SPPConfig
from crossstage.nn import ConvStyle

NECKS: dict[str, NeckConfig] = {
    "fpn": FPNConfig(),
    "spp": SPPConfig(),
    "yolo_fpn": YoloFPNConfig(),
    "yolo_fpn_spp": YoloFPNConfig(spp=True),
    "tiny_fpn": TinyFPNConfig(),
    "panet": PANetConfig(),
    "panet_spp": PANetConfig(spp=True),
    "prn": PRNConfig(),
    "prn3l": PRNConfig(reads=(8, 16, 32), neck_channels=(128, 128, 256)),
    "cem": CEMConfig(),
    "cem_sam": CEMConfig(attention="pointwise"),
    "gfm": GFMConfig(),
    "efm": EFMConfig(),
    "efm_sam": EFMConfig(attention="pointwise"),
    "efm_spp": EFMConfig(spp=True),
    "efm_sam_spp": EFMConfig(attention="pointwise", spp=True),
}

_BUILDERS: dict[type[NeckConfig], Callable[..., Neck]] = {
    CEMConfig: CEM,
    EFMConfig: EFM,
    FPNConfig: FPN,
    GFMConfig: GFM,
    PANetConfig: PANet,
    PRNConfig: PRN,
    SPPConfig: SPP,
    TinyFPNConfig: TinyFPN,
    YoloFPNConfig: YoloFPN,
}


def build_neck(config: NeckConfig, channels: Sequence[int], strides: Sequence[int], *, style: ConvStyle) -> Neck:
    """Turn a row of the table, or a changed copy of one, into a neck.

    Args:
        config: The row.
        channels: Channels of the backbone's maps, shallow to deep.
        strides: Their strides, each twice the one before.
        style: The backbone's normalisation and activation; a row may have an activation of its own.

    Raises:
        ConfigError: The row does not fit the maps.

    Example:
        >>> neck = build_neck(NECKS["efm"], [128, 256, 512, 640], [4, 8, 16, 32], style=ConvStyle())
        >>> neck.channels, neck.strides
        ([64, 128, 128], [8, 16, 32])
    """
    return _BUILDERS[type(config)](channels, strides, config, style=config.styled(style))


__all__ = [
    "CEM",
    "EFM",
    "FPN",
    "GFM",
    "NECKS",
    "PRN",
    "SPP",
    "CEMConfig",
    "EFMConfig",
    "FPNConfig",
    "GFMConfig",
    "NeckConfig",
    "PANet",
    "PANetConfig",
    "PRNConfig",
    "SPPConfig",
    "TinyFPN",
    "TinyFPNConfig",
    "YoloFPN",
    "YoloFPNConfig",
    "build_neck",
]
