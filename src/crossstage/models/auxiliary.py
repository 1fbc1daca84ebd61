"""Auxiliary branches: predictions besides a detector's own, which help it while it is trained and are then left out.

The contract, and YOLOv9's two branches (arXiv 2402.13616, section 4.1, "programmable gradient information"). Either
reads the backbone's maps, so that these learn from a shorter way to the objects than through the neck.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.backbones import StagedBackbone, build_backbone
from crossstage.models.backbones.gelan import GelanStage
from crossstage.models.heads.base import Head
from crossstage.models.necks.gelan import TopDown, widths_of
from crossstage.nn.rep import TrainingOnly


class AuxiliaryBranch(TrainingOnly):
    """Predictions of objects from a backbone's maps, trained as the detector's own.

    Args:
        pyramid: Images and the backbone's maps to maps of the same strides; ``channels`` are theirs.
        head: The detector's head, whose row and strides the branch's own has.
        weight: Weight of the branch's loss.
    """

    def __init__(self, pyramid: AuxiliaryPyramid, head: Head, weight: float) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.head = head.row.build(pyramid.channels, head.strides, head.num_classes)
        self.weight = weight

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return raw tensors, named as those of the detector's head.

        Args:
            images: ``(N, 3, H, W)``, as the detector takes them.
            features: The backbone's maps, shallow to deep.
        """
        return self.head(self.pyramid(images, features))


class AuxiliaryPyramid(nn.Module, ABC):
    """Maps that an auxiliary branch predicts from.

    Attributes:
        channels: Channels of the maps, shallow to deep.
    """

    channels: list[int]

    @abstractmethod
    def forward(self, images: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps; see :meth:`AuxiliaryBranch.forward`."""


@dataclass(frozen=True, kw_only=True)
class AuxiliaryConfig(ABC):
    """Settings of an auxiliary branch.

    Attributes:
        weight: Weight of its loss, to which that of the detector is added.
    """

    weight: float = 0.25

    def build(self, backbone: StagedBackbone, head: Head) -> AuxiliaryBranch:
        """Build the branch.

        Args:
            backbone: The detector's backbone.
            head: The detector's head.

        Raises:
            ConfigError: The branch does not fit them.
        """
        if tuple(backbone.strides) != head.strides:
            raise ConfigError(
                f"an auxiliary branch reads the backbone's maps at strides {backbone.strides}; expected those of the "
                f"head, {list(head.strides)}"
            )
        return AuxiliaryBranch(self.build_pyramid(backbone), head, self.weight)

    @abstractmethod
    def build_pyramid(self, backbone: StagedBackbone) -> AuxiliaryPyramid:
        """Build what makes maps of those of a backbone.

        Raises:
            ConfigError: It does not fit the backbone.
        """


@dataclass(frozen=True, kw_only=True)
class TopDownConfig(AuxiliaryConfig):
    """A way from the deepest map up, as in the neck (YOLOv9-t and -s).

    Attributes:
        depth: Bottlenecks of each of an aggregation's two blocks.
    """

    depth: int = 3

    def build_pyramid(self, backbone: StagedBackbone) -> AuxiliaryPyramid:
        """See :meth:`AuxiliaryConfig.build_pyramid`."""
        return _TopDownPyramid(backbone, self.depth)


class _TopDownPyramid(AuxiliaryPyramid):
    def __init__(self, backbone: StagedBackbone, depth: int) -> None:
        super().__init__()
        self.channels = widths_of(backbone.channels, backbone.strides)
        self.top_down = TopDown(backbone.channels, self.channels, depth, style=backbone.config.style)

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Lead the deepest map up."""
        del images
        return self.top_down(features)


@dataclass(frozen=True, kw_only=True)
class CompositeConfig(AuxiliaryConfig):
    """A second GELAN that takes in what the first makes of the images (YOLOv9-m and -c; CBNet, arXiv 1909.03625)."""

    def build_pyramid(self, backbone: StagedBackbone) -> AuxiliaryPyramid:
        """See :meth:`AuxiliaryConfig.build_pyramid`."""
        return _CompositePyramid(backbone)


class _CompositePyramid(AuxiliaryPyramid):
    """A second backbone, to whose halved maps the first one's are added: each its own stage's and all deeper ones'."""

    def __init__(self, backbone: StagedBackbone) -> None:
        super().__init__()
        self.second = build_backbone(backbone.config, strides=backbone.strides)
        self.channels, self.read = self.second.channels, self.second.out_indices
        if not all(isinstance(stage, GelanStage) for stage in self.second.stages):
            raise ConfigError("a composite auxiliary branch is for GELAN, whose stages halve a map and then aggregate")
        halved = [backbone.config.down_widths[index] for index in self.read]  # pyright: ignore
        self.given = [halved[: level + 1] for level in range(len(halved))]
        self.projections = nn.ModuleList(
            nn.Conv2d(width, sum(given), 1) for width, given in zip(backbone.channels, self.given, strict=True)
        )

    def forward(self, images: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """Run the second backbone, adding to each of its halved maps."""
        parts = [
            project(feature).split(given, dim=1)
            for project, feature, given in zip(self.projections, features, self.given, strict=True)
        ]
        x, maps = self.second.stem(images), []
        for index, stage in enumerate(self.second.stages):
            assert isinstance(stage, GelanStage)
            x = stage.down(x)
            level = len(maps)
            if index in self.read:
                for deeper in parts[level:]:
                    x = x + F.interpolate(deeper[level], size=x.shape[2:], mode="nearest")
            x = stage.block(x)
            if index in self.read:
                maps.append(x)
        return maps
