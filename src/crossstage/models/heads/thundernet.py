"""ThunderNet's head (arXiv 1903.11752, section 3.2): a light RPN, spatial attention, position-sensitive pooling.

Layers are those of the public codes. Three things differ from the paper: one softmax over two logits tells the
objectness of an anchor, as in these codes; boxes are trained on samples at random instead of the hardest ones; and
suppression is hard instead of soft.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.heads.base import HeadConfig, Raw
from crossstage.models.heads.rcnn import FasterRCNNConfig, FasterRCNNHead, RCNNLoss
from crossstage.nn import ConvNormAct, ConvStyle
from crossstage.ops.nms import NMS
from crossstage.ops.position_sensitive import position_sensitive_pool
from crossstage.ops.rois import with_images
from crossstage.structures import Instances, Targets

_CELLS = 7  # in a row, of a pooled region
_STYLE = ConvStyle("relu")


@dataclass(frozen=True, kw_only=True)
class ThunderNetConfig(FasterRCNNConfig):
    """Settings of a ThunderNet head.

    Attributes:
        anchor_sizes: Sides of the square anchors of each cell in pixels; there is one map.
        proposal_channels: Channels of the RPN's map.

    Raises:
        ConfigError: A value is out of range, or a layer is asked for that the head does not have.
    """

    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_ratios: tuple[float, ...] = (0.5, 0.75, 1.0, 4 / 3, 2.0)
    proposals: tuple[int, int] = (6000, 200)
    agnostic: bool = True
    proposal_channels: int = 256
    loss: RCNNLoss = field(default_factory=lambda: RCNNLoss(proposals=(12_000, 1000), rois_sampled=256))

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.rpn_convs, self.box_convs, self.head_norm) != (1, 0, "none"):
            raise ConfigError(
                f"rpn_convs is {self.rpn_convs}, box_convs {self.box_convs}, head_norm {self.head_norm!r}; "
                "ThunderNet's head has none of these, expected 1, 0 and none"
            )
        if self.proposal_channels < 1 or self.sampling < 1 or not self.anchor_sizes:
            raise ConfigError("proposal_channels and sampling are at least 1, and there is an anchor")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> ThunderNetHead:
        """See :meth:`HeadConfig.build`."""
        return ThunderNetHead(self, channels, strides, num_classes)


HEADS: dict[str, HeadConfig] = {"thundernet": ThunderNetConfig()}


class ProposalHead(nn.Module):
    """A 5x5 depthwise and a 1x1 convolution, each with batch norm and ReLU, and the predictions for all anchors.

    Shape: ``(N, in_channels, H, W)`` to the map ``(N, width, H, W)``, logits ``(N, 2A, H, W)``, all of background
    before all of objects, and deltas ``(N, 4A, H, W)``, four values for each anchor.

    Args:
        in_channels: Channels of the input.
        width: Channels of the map.
        anchors: Number ``A`` of anchors at each cell.
    """

    def __init__(self, in_channels: int, width: int, anchors: int) -> None:
        super().__init__()
        self.depthwise = _biased(ConvNormAct(in_channels, in_channels, 5, groups=in_channels, style=_STYLE))
        self.pointwise = _biased(ConvNormAct(in_channels, width, style=_STYLE))
        self.cls_logits = nn.Conv2d(width, 2 * anchors, 1)
        self.bbox_pred = nn.Conv2d(width, 4 * anchors, 1)
        for layer in (self.cls_logits, self.bbox_pred):
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the map and both predictions."""
        x = self.pointwise(self.depthwise(x))
        return x, self.cls_logits(x), self.bbox_pred(x)


class ThunderNetHead(FasterRCNNHead):
    """Propose regions on one map, weigh it by what the proposals' map says, and read each region's cells off it.

    Shape: a list of one map ``(N, 49 C, H, W)`` to the weighed map ``map16`` of the same shape, named by its stride,
    and ``logits16`` and ``deltas16`` as :class:`ProposalHead` returns them.

    Args:
        row: The head's settings.
        channels: Channels of the neck's map, a multiple of 49.
        strides: Its stride.
        num_classes: Number of classes to tell apart, at least 1.

    Raises:
        ConfigError: There is more than one map, its channels are no multiple of 49, or there is no class.
    """

    nms = NMS(0.05, 0.5, max_detections=100)
    row: ThunderNetConfig  # pyright: ignore[reportIncompatibleVariableOverride] (rows are frozen)

    def __init__(
        self, row: ThunderNetConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        if len(channels) != 1 or channels[0] % _CELLS**2:
            raise ConfigError(
                f"ThunderNet's head got maps of {list(channels)} channels; expected one, a multiple of {_CELLS**2}"
            )
        super().__init__(row, channels, strides, num_classes)
        self.attend = _biased(ConvNormAct(row.proposal_channels, channels[0], style=_STYLE.linear))

    def _anchors(self) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
        return (self.row.anchor_sizes,), (self.row.anchor_ratios,)

    def _rpn_head(self, channels: int) -> nn.Module:
        anchors = len(self.row.anchor_sizes) * len(self.row.anchor_ratios)
        return ProposalHead(channels, self.row.proposal_channels, anchors)

    def _box_head(self, channels: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(channels, self.row.box_width), nn.ReLU(inplace=True))

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return tuple(f"{part}{self.strides[0]}" for part in ("map", "logits", "deltas"))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """See :meth:`Head.forward`."""
        x, logits, deltas = self.rpn.head(features[0])
        return dict(zip(self.raw_names, (features[0] * self.attend(x).sigmoid(), logits, deltas), strict=True))

    def detect(
        self,
        raw: Raw,
        image_size: tuple[int, int],
        nms: NMS | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Instances]:
        """See :meth:`Head.detect`."""
        return super().detect(self._with_objectness(raw), image_size, nms, sizes)

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`FasterRCNNHead.decode`."""
        return super().decode(self._with_objectness(raw), image_size)

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`FasterRCNNHead.loss`."""
        return super().loss(self._with_objectness(raw), targets, image_size)

    def _with_objectness(self, raw: Raw) -> Raw:
        """Add one logit for each anchor, whose sigmoid is what the softmax of its two logits says of an object."""
        background, found = raw[self.raw_names[1]].chunk(2, dim=1)
        return {**raw, f"objectness{self.strides[0]}": found - background}

    def _pool(self, features: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        del size
        sampling = self.row.sampling
        return position_sensitive_pool(features[0], with_images(boxes), self.strides[0], _CELLS, sampling=sampling)


def _biased(block: ConvNormAct) -> ConvNormAct:
    """Give a block's convolution a bias, which the released networks have in spite of the norm that cancels it."""
    conv = block.conv
    block.conv = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size[0], padding=conv.kernel_size[0] // 2, groups=conv.groups
    )
    return block
