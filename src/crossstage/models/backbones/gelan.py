"""GELAN, the backbone of YOLOv9 (arXiv 2402.13616): aggregations of cross stage partial blocks.

Sizes t, s, m and c are those of the MIT release (MultimediaTechLab/YOLO), where batch norm has an epsilon of 0.001. A
plain network has its bottlenecks in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.backbones.base import MAX_BLOCKS, MAX_CHANNELS, About, BackboneConfig, Stage, stepped
from crossstage.nn import ConvNormAct, Partial
from crossstage.nn.elan import BLOCKS, PARTIAL, Sampling, down, elan
from crossstage.nn.init import Init

_YOLOV9 = "YOLOv9, arXiv 2402.13616, as in MultimediaTechLab/YOLO"


@dataclass(frozen=True, kw_only=True)
class GelanConfig(BackboneConfig):
    """One row of the family.

    Attributes:
        stem_width: Channels of the first convolution, which strides.
        down_widths: Channels of each stage's map once it is halved.
        widths: Channels of each stage.
        elan_widths: Channels that each stage's aggregation reduces the map to.
        depths: Bottlenecks of each of an aggregation's two blocks; 0 leaves one convolution a block (ELAN).
        sampling: What halves the maps of all stages but the first, where it is a convolution: ``"aconv"`` or
            ``"adown"``, see :func:`crossstage.nn.elan.down`.

    Raises:
        ConfigError: The tuples differ in length, or a value is out of range.
    """

    stem_width: int
    down_widths: tuple[int, ...]
    widths: tuple[int, ...]
    elan_widths: tuple[int, ...]
    depths: tuple[int, ...]
    sampling: Sampling = "aconv"
    partial: Partial | None = PARTIAL
    act: str = "silu"
    momentum: float = 0.03
    eps: float = 1e-3
    init: Init = "torch"
    size: int = 640

    def __post_init__(self) -> None:
        super().__post_init__()
        tuples: dict[str, Sequence[int]] = {
            name: getattr(self, name) for name in ("widths", "down_widths", "elan_widths", "depths")
        }
        if not self.widths or len({len(values) for values in tuples.values()}) > 1:
            found = ", ".join(f"{name} {tuple(values)}" for name, values in tuples.items())
            raise ConfigError(f"{found}; expected as many of each, and one at least")
        if min(self.depths) < 0 or sum(self.depths) * BLOCKS > MAX_BLOCKS:
            raise ConfigError(f"depths are {self.depths}; expected 0 or more, at most {MAX_BLOCKS} blocks in all")
        for name, values in {**tuples, "depths": (), "stem_width": (self.stem_width,)}.items():
            if any(not 0 < value <= MAX_CHANNELS for value in values):
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 to {MAX_CHANNELS} channels")

    def has_residuals(self) -> bool:
        """See :meth:`BackboneConfig.has_residuals`."""
        return any(self.depths)

    def build_stages(self) -> tuple[nn.Module, list[Stage]]:
        """See :meth:`BackboneConfig.build_stages`."""
        return _build(self)


_T = (32, 64, 96, 128)
_S = (64, 128, 192, 256)
BACKBONES: dict[str, GelanConfig] = {
    "gelan_t": GelanConfig(
        about=About("GELAN-t", _YOLOV9),
        stem_width=16, down_widths=_T, widths=_T, elan_widths=_T, depths=(0, 3, 3, 3),
    ),
    "gelan_s": GelanConfig(
        about=About("GELAN-s", _YOLOV9),
        stem_width=32, down_widths=_S, widths=_S, elan_widths=_S, depths=(0, 3, 3, 3),
    ),
    "gelan_m": GelanConfig(
        about=About("GELAN-m", _YOLOV9),
        stem_width=32, down_widths=(64, 240, 360, 480), widths=(128, 240, 360, 480), elan_widths=(128, 240, 360, 480),
        depths=(1, 1, 1, 1),
    ),
    "gelan_c": GelanConfig(
        about=About("GELAN-c", _YOLOV9),
        stem_width=64, down_widths=(128, 256, 512, 512), widths=(256, 512, 512, 512), elan_widths=(128, 256, 512, 512),
        depths=(1, 1, 1, 1), sampling="adown",
    ),
}  # fmt: skip


class GelanStage(nn.Module):
    """Halve the map, then aggregate.

    Args:
        down: What halves the map.
        block: The aggregation.
    """

    def __init__(self, down: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.down = down
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Compute the stage's map."""
        return self.block(self.down(x))


def _build(config: GelanConfig) -> tuple[nn.Module, list[Stage]]:
    """Build stem and stages of a row.

    Raises:
        ConfigError: ``config.partial`` does not cut a block into whole channels.
    """
    style = config.style
    width, stride = config.stem_width, 2
    stages: list[Stage] = []
    rates = iter(stepped(config.drop_path, BLOCKS * sum(config.depths)))
    for index, (halved, out) in enumerate(zip(config.down_widths, config.widths, strict=True)):
        first = ConvNormAct(width, halved, 3, 2, style=style)
        block = elan(
            halved, out, config.elan_widths[index], config.depths[index],
            partial=config.partial, rates=rates, style=style,
        )  # fmt: skip
        halving = down(config.sampling, width, halved, style=style) if index else first
        width, stride = out, stride * 2
        stages.append(Stage(GelanStage(halving, block), out, stride))
    return ConvNormAct(config.in_chans, config.stem_width, 3, 2, style=style), stages
