"""Faster R-CNN (arXiv 1506.01497) on a feature pyramid (FPN, 1612.03144); masks are :mod:`.rcnn_masks`'s.

The parts are torchvision's: anchors, matchers, samplers, coders, heads and losses, under its names, so that its weights
fit. What differs from its detectors:

- ``forward`` ends with the region proposal network's maps; :meth:`FasterRCNNHead.detect` runs the second stage.
- A region's map follows from the strides, not from the sizes of the first batch.
- A class has no number for "none": class 0 is the first class, whose rows in the tensors come second.

Some settings make of it what detectron2 computes with the same weights: ``anchor_grid="exact"``, ``aligned`` and
``sampling=0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, remove_small_boxes

from crossstage.errors import ConfigError
from crossstage.models.heads.base import Head, HeadConfig, Raw
from crossstage.models.heads.rcnn_parts import ExactAnchors, HeadNorm, RCNNLoss, apart, best_of, norm_of
from crossstage.ops.nms import MAX_CANDIDATES, NMS, grouped_nms, kept_of, of_wanted
from crossstage.ops.rois import levels_by_area, pool, with_images
from crossstage.structures import Instances, Targets

AnchorGrid = Literal["rounded", "exact"]
Size = tuple[int, int]

ANCHOR_PER_STRIDE = 8  # pixels of an anchor's side per pixel of its map's stride
COARSEST_POOLED = 32  # stride of the coarsest map that regions are read from
WIDTH = 256  # channels of the second stage's convolutions
SMALLEST_PROPOSAL, SMALLEST_BOX = 1e-3, 1e-2  # pixels; torchvision's
ANCHORS_POSITIVE, ROIS_POSITIVE = 0.5, 0.25  # most objects among those that are sampled
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class FasterRCNNConfig(HeadConfig):
    """Settings of a Faster R-CNN head.

    Attributes:
        anchor_sizes: Sides of each map's square anchor in pixels, shallow to deep; empty takes 8 strides.
        anchor_ratios: Heights per width of the anchors of each cell, which have the same area.
        anchor_grid: ``"rounded"``: anchors' corners, and the steps between them, are whole pixels, the steps the
            quotients of the input's and the map's sides (torchvision). ``"exact"``: they are as they come, in steps of
            the stride (detectron2).
        rpn_convs: 3x3 convolutions of the region proposal network.
        proposals: Proposals of an image outside of training: the best of each map before suppression, and of all after
            it.
        proposal_nms: The overlap in [0, 1] above which the weaker one of two proposals of a map goes.
        sampling: Points in a row and in a column of a pooled cell; 0 takes as many as it has pixels.
        aligned: Whether the centre of a map's first pixel is at half a pixel, see :func:`crossstage.ops.rois.pool`.
        box_convs: 3x3 convolutions of 256 channels before the box head's linear layer; 0 for two linear layers alone.
        box_width: Width of the linear layers.
        agnostic: Whether classes share one box, and one mask.
        head_norm: What follows each convolution of the box and mask heads: ``"none"``, ``"batch"``, or ``"group"``,
            which has 32 groups.
        loss: How the head is trained.

    Raises:
        ConfigError: A value is out of range or unknown.
    """

    anchor_sizes: tuple[float, ...] = ()
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_grid: AnchorGrid = "rounded"
    rpn_convs: int = 1
    proposals: tuple[int, int] = (1000, 1000)
    proposal_nms: float = 0.7
    sampling: int = 2
    aligned: bool = False
    box_convs: int = 0
    box_width: int = 1024
    agnostic: bool = False
    head_norm: HeadNorm = "none"
    loss: RCNNLoss = field(default_factory=RCNNLoss)

    def __post_init__(self) -> None:
        if self.anchor_grid not in get_args(AnchorGrid) or self.head_norm not in get_args(HeadNorm):
            raise ConfigError(
                f"anchor_grid is {self.anchor_grid!r} and head_norm {self.head_norm!r}; expected rounded or exact, "
                f"and none, batch or group"
            )
        if not self.anchor_ratios or not all(value > 0 for value in (*self.anchor_ratios, *self.anchor_sizes)):
            raise ConfigError(f"anchor_ratios are {self.anchor_ratios}, anchor_sizes {self.anchor_sizes}; not positive")
        if min(self.rpn_convs, self.box_width, *self.proposals) < 1 or min(self.sampling, self.box_convs) < 0:
            raise ConfigError("rpn_convs, box_width and proposals are at least 1, sampling and box_convs at least 0")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> FasterRCNNHead:
        """See :meth:`HeadConfig.build`."""
        return FasterRCNNHead(self, channels, strides, num_classes)


class FasterRCNNHead(Head):
    """Propose regions on all maps; read each off the map that fits its size, and tell its class and box.

    Shape: a list of ``(N, channels, H_i, W_i)`` to the maps that regions are read from, named ``map4`` and so on by
    their strides, ``objectness4`` ``(N, A, H_i, W_i)`` and ``deltas4`` ``(N, 4A, H_i, W_i)`` for ``A`` anchors at each
    cell, four values for each anchor.

    Args:
        row: The head's settings.
        channels: Channels of the neck's maps, all the same.
        strides: Strides of the neck's maps, shallow to deep, each twice the one before.
        num_classes: Number of classes to tell apart, at least 1.

    Raises:
        ConfigError: There is not one size of anchors for each map, the maps' channels differ, none is fine enough to
            read regions from, or there is no class.
    """

    nms = NMS(0.05, 0.5, max_detections=100)
    second_stage = True
    shared_rows = "background"
    row: FasterRCNNConfig

    def __init__(
        self, row: FasterRCNNConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__(row, channels, strides, num_classes)
        self.pooled = tuple(stride for stride in strides if stride <= COARSEST_POOLED)
        if len(set(channels)) > 1 or not self.pooled:
            raise ConfigError(
                f"the head got maps of {list(channels)} channels at strides {list(strides)}; expected equal channels, "
                f"and strides from {COARSEST_POOLED} down"
            )
        width, loss = channels[0], row.loss
        low, high = loss.anchor_ious
        self.rpn = RegionProposalNetwork(
            (AnchorGenerator if row.anchor_grid == "rounded" else ExactAnchors)(*self._anchors()),
            self._rpn_head(width),
            high,
            low,
            loss.anchors_sampled,
            ANCHORS_POSITIVE,
            {},  # numbers of proposals are the caller's here
            {},
            row.proposal_nms,
        )
        boxes = 1 if row.agnostic else num_classes + 1
        predictor = FastRCNNPredictor(row.box_width, num_classes + 1)
        predictor.bbox_pred = nn.Linear(row.box_width, 4 * boxes)
        self.roi_heads = RoIHeads(
            None,  # regions are pooled here
            self._box_head(width),
            predictor,
            loss.roi_iou,
            loss.roi_iou,
            loss.rois_sampled,
            ROIS_POSITIVE,
            BOX_WEIGHTS,
            self.nms.score,
            self.nms.iou,
            self.nms.max_detections,
        )

    def _anchors(self) -> tuple[tuple[tuple[float, ...], ...], tuple[tuple[float, ...], ...]]:
        """Return for each map the sizes, and for each map the ratios, of the anchors at a cell."""
        row, strides = self.row, self.strides
        sizes = row.anchor_sizes or tuple(ANCHOR_PER_STRIDE * stride for stride in strides)
        if len(sizes) != len(strides):
            raise ConfigError(f"anchor_sizes are {sizes}; expected one for each of the strides {list(strides)}")
        return tuple((size,) for size in sizes), (row.anchor_ratios,) * len(sizes)

    def _rpn_head(self, channels: int) -> nn.Module:
        """Build what tells objectness and boxes of the anchors from a list of maps, each as a list."""
        return RPNHead(channels, len(self.row.anchor_ratios), self.row.rpn_convs)

    def _box_head(self, channels: int) -> nn.Module:
        """Build what leads from pooled regions to features ``(R, box_width)``."""
        return _box_head(self.row, channels)

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        maps = (f"map{stride}" for stride in self.pooled)
        return (*maps, *(f"{part}{stride}" for part in ("objectness", "deltas") for stride in self.strides))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """See :meth:`Head.forward`."""
        objectness, deltas = self.rpn.head(list(features))
        return dict(zip(self.raw_names, (*features[: len(self.pooled)], *objectness, *deltas), strict=True))

    def detect(
        self,
        raw: Raw,
        image_size: Size,
        nms: NMS | None = None,
        sizes: Sequence[Size] | None = None,
    ) -> list[Instances]:
        """See :meth:`Head.detect`; boxes are clipped to their image in both stages."""
        nms, features = nms or self.nms, self._maps(raw)
        sizes = sizes or [image_size] * features[0].shape[0]
        pairs = self._second_stage(raw, image_size, sizes)
        found = [self._select(boxes, scores, nms) for boxes, scores in pairs]
        return self._with_masks(features, found)

    def decode(self, raw: Raw, image_size: Size) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`: a box for each proposal and class, with the score of this class alone.

        Of more than :data:`crossstage.ops.nms.MAX_CANDIDATES` of an image the best are returned. Images with fewer
        than others are filled up with boxes that score 0.
        """
        images = self._maps(raw)[0].shape[0]
        pairs = self._second_stage(raw, image_size, [image_size] * images)
        most = min(MAX_CANDIDATES, max(scores.numel() for _, scores in pairs))
        boxes = raw[self.raw_names[0]].new_zeros(images, most, 4)
        scores = boxes.new_zeros(images, most, self.num_classes)
        for index, (every, each) in enumerate(pairs):
            best, place = each.flatten().topk(min(most, each.numel()))
            boxes[index, : len(best)] = every.flatten(0, 1)[place]
            scores[index, torch.arange(len(best)), place % self.num_classes] = best
        return boxes, scores

    def loss(self, raw: Raw, targets: Targets, image_size: Size) -> dict[str, Tensor]:
        """See :meth:`Head.loss`: ``objectness``, ``proposals``, ``classes`` and ``boxes``, and ``masks`` if it does."""
        features, gains = self._maps(raw), self.row.loss
        self._set_up(gains)
        images = features[0].shape[0]
        sizes = [image_size] * images if targets.sizes is None else [(h, w) for h, w in targets.sizes.tolist()]
        objects = self._objects(targets, images)
        objectness, deltas, anchors = self._first_stage(raw, image_size)
        with torch.no_grad():
            proposals = self._propose(raw, image_size, sizes, gains.proposals)
        labels, matched = self.rpn.assign_targets_to_anchors([anchors] * images, objects)
        wanted = self.rpn.box_coder.encode(matched, [anchors] * images)
        found, boxes = self.rpn.compute_loss(objectness.flatten(), deltas.flatten(0, 1), labels, list(wanted))
        return {
            "objectness": gains.objectness_gain * found,
            "proposals": gains.proposal_gain * boxes,
            **self._roi_loss(features, proposals, objects),
        }

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`: the first row of every tensor, of boxes the first four, is background's."""
        rows = [[index + 1] for index in range(num_classes)]
        fours = [[4 * (index + 1) + side for side in range(4)] for index in range(num_classes)]
        of = {"cls_score": rows} if self.row.agnostic else {"cls_score": rows, "bbox_pred": fours}
        return {
            f"roi_heads.box_predictor.{layer}.{part}": own for layer, own in of.items() for part in ("weight", "bias")
        }

    def _set_up(self, loss: RCNNLoss) -> None:
        """Match and sample as settings say that may have changed since the head was built."""
        low, high = loss.anchor_ious
        self.rpn.proposal_matcher = Matcher(high, low, allow_low_quality_matches=True)
        self.rpn.fg_bg_sampler = BalancedPositiveNegativeSampler(loss.anchors_sampled, ANCHORS_POSITIVE)
        self.roi_heads.proposal_matcher = Matcher(loss.roi_iou, loss.roi_iou, allow_low_quality_matches=False)
        self.roi_heads.fg_bg_sampler = BalancedPositiveNegativeSampler(loss.rois_sampled, ROIS_POSITIVE)

    def _maps(self, raw: Raw) -> list[Tensor]:
        return [raw[f"map{stride}"] for stride in self.pooled]

    def _objects(self, targets: Targets, images: int) -> list[dict[str, Tensor]]:
        """Return the objects of each image as torchvision wants them: class 0 is background, no box is empty."""
        boxes, masks = targets.boxes_xyxy, targets.masks
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        chosen = [(targets.image_index == image) & solid for image in range(images)]
        own = [{"boxes": boxes[each], "labels": targets.class_ids[each] + 1} for each in chosen]
        if masks is None:
            return own
        return [{**one, "masks": masks[each]} for one, each in zip(own, chosen, strict=True)]

    def _first_stage(self, raw: Raw, image_size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Return objectness ``(N, K)``, deltas ``(N, K, 4)`` and anchors ``(K, 4)`` of all maps, shallow to deep."""
        objectness = [raw[f"objectness{stride}"] for stride in self.strides]
        deltas = [raw[f"deltas{stride}"] for stride in self.strides]
        cells = [(each.shape[2], each.shape[3]) for each in objectness]
        steps = [(stride, stride) for stride in self.strides]
        if self.row.anchor_grid == "rounded":
            steps = [(image_size[0] // height, image_size[1] // width) for height, width in cells]
        generator = self.rpn.anchor_generator
        generator.set_cell_anchors(deltas[0].dtype, deltas[0].device)
        anchors = torch.cat(generator.grid_anchors(cells, steps))  # pyright: ignore[reportArgumentType] (plain numbers)
        images = objectness[0].shape[0]
        flat, boxes = concat_box_prediction_layers(objectness, deltas)
        return flat.reshape(images, -1), boxes.reshape(images, -1, 4), anchors

    def _propose(self, raw: Raw, image_size: Size, sizes: Sequence[Size], most: tuple[int, int]) -> list[Tensor]:
        """Return the proposals ``(P, 4)`` of each image, best first, as torchvision's network does.

        Args:
            raw: What :meth:`forward` returned.
            image_size: Height and width of the input in pixels.
            sizes: Height and width of each image in it.
            most: Proposals of a map before suppression, and of all maps after it.
        """
        objectness, deltas, anchors = (each.detach() for each in self._first_stage(raw, image_size))
        lengths = [raw[f"objectness{stride}"][0].numel() for stride in self.strides]
        proposals = []
        for scores, codes, size in zip(objectness, deltas, sizes, strict=True):
            boxes = self.rpn.box_coder.decode_single(codes, anchors)
            levels = [best_of(level, most[0]) for level in scores.split(lengths)]
            chosen = torch.cat([every[at] for every, (_, at) in zip(boxes.split(lengths), levels, strict=True)])
            groups = torch.cat([torch.full_like(at, level) for level, (_, at) in enumerate(levels)])
            best = torch.cat([values for values, _ in levels]).sigmoid()
            chosen = clip_boxes_to_image(chosen, size)
            large = remove_small_boxes(chosen, SMALLEST_PROPOSAL)
            chosen, groups, best = chosen[large], groups[large], best[large]
            kept = grouped_nms(chosen, best, groups, self.row.proposal_nms, num_groups=len(lengths))
            proposals.append(chosen[kept[: most[1]]])
        return proposals

    def _pool(self, features: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        """Read the regions ``(K, 4)`` of each image off their maps: ``(R, C, size, size)`` for all of them."""
        row, levels = self.row, levels_by_area(boxes, self.pooled)
        rois = with_images(boxes)
        return pool(features, rois, levels, self.pooled, size, sampling=row.sampling, aligned=row.aligned)

    def _read(self, features: Sequence[Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits ``(R, 1 + C)`` and deltas ``(R, 4 + 4C)`` of all proposals, background first."""
        logits, deltas = self.roi_heads.box_predictor(self.roi_heads.box_head(self._pool(features, proposals, 7)))
        return logits, deltas.repeat(1, self.num_classes + 1) if self.row.agnostic else deltas

    def _second_stage(self, raw: Raw, image_size: Size, sizes: Sequence[Size]) -> list[tuple[Tensor, Tensor]]:
        """Return boxes ``(P, C, 4)`` and scores ``(P, C)`` of each image's proposals and classes."""
        proposals = self._propose(raw, image_size, sizes, self.row.proposals)
        logits, deltas = self._read(self._maps(raw), proposals)
        boxes = self.roi_heads.box_coder.decode_single(deltas, torch.cat(proposals))
        boxes = boxes.reshape(-1, self.num_classes + 1, 4)[:, 1:]
        scores = logits.softmax(1)[:, 1:]
        parts = zip(apart(boxes, proposals), apart(scores, proposals), sizes, strict=True)
        return [(clip_boxes_to_image(own, size), own_scores) for own, own_scores, size in parts]

    def _select(self, boxes: Tensor, scores: Tensor, nms: NMS) -> Instances:
        """Return an image's detections among the boxes ``(P, C, 4)`` of its proposals and classes."""
        scores = of_wanted(scores, nms)
        at = torch.where(scores > nms.score)
        boxes, scores, class_ids = boxes[at], scores[at], at[1]
        large = remove_small_boxes(boxes, SMALLEST_BOX)
        boxes, scores, class_ids = boxes[large], scores[large], class_ids[large]
        kept = kept_of(boxes, scores, class_ids, nms, num_classes=self.num_classes)
        return Instances(boxes[kept], scores[kept], class_ids[kept])

    def _with_masks(self, features: Sequence[Tensor], found: list[Instances]) -> list[Instances]:
        """Add masks to detections, if the head finds any."""
        del features
        return found

    def _roi_loss(
        self, features: Sequence[Tensor], proposals: list[Tensor], objects: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the parts of the second stage's loss."""
        gains = self.row.loss
        rois, matched, labels, wanted = self.roi_heads.select_training_samples(proposals, objects)
        classes, boxes = fastrcnn_loss(*self._read(features, rois), labels, wanted)
        return {"classes": gains.class_gain * classes, "boxes": gains.box_gain * boxes} | self._mask_loss(
            features, rois, labels, matched, objects
        )

    def _mask_loss(
        self,
        features: Sequence[Tensor],
        rois: Sequence[Tensor],
        labels: Sequence[Tensor],
        matched: Sequence[Tensor],
        objects: Sequence[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Return the loss of masks, if the head finds any.

        Args:
            features: Maps that regions are read from.
            rois: Regions ``(K, 4)`` of each image.
            labels: Class of each region, 0 for background.
            matched: Position of each region's object in its image.
            objects: The objects of each image.
        """
        del features, rois, labels, matched, objects
        return {}


def _box_head(row: FasterRCNNConfig, channels: int) -> nn.Module:
    if not row.box_convs:
        return TwoMLPHead(channels * 7 * 7, row.box_width)
    return FastRCNNConvFCHead((channels, 7, 7), [WIDTH] * row.box_convs, [row.box_width], norm_of(row.head_norm))


HEADS: dict[str, HeadConfig] = {"fasterrcnn": FasterRCNNConfig()}
