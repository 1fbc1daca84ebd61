"""Checkpoints of CenterMask's authors: each tensor by detectron2's name finds its place."""

import pytest
import torch

import crossstage
from crossstage.errors import WeightsError


def test_authors_names_have_a_place():
    """Names of detectron2's modules; each tensor is told apart by its first value."""
    name = "centermask_lite_vovnet19_slim_v2"
    state = _authors(classes=5)
    model = crossstage.from_authors(name, state)
    assert model.head.num_classes == 5 and model.backbone.config.norm == "frozen"
    placed = {
        "backbone.bottom_up.stem.stem_2/conv.weight": model.backbone.stem[1].conv.weight,
        "backbone.bottom_up.stage3.OSA3_1.layers.1.OSA3_1_1/norm.running_var": (
            model.backbone.stages[1][1][0].layers[1].bn.running_var
        ),
        "backbone.bottom_up.stage5.OSA5_1.ese.fc.bias": model.backbone.stages[3][1][0].attention.fc.bias,
        "backbone.fpn_lateral4.bias": model.neck.fpn.inner_blocks[1][0].bias,
        "backbone.fpn_output5.weight": model.neck.fpn.layer_blocks[2][0].weight,
        "backbone.top_block.p7.weight": model.neck.fpn.extra_blocks.p7.weight,
        "proposal_generator.fcos_head.cls_tower.3.weight": model.head.class_tower[3].weight,
        "proposal_generator.fcos_head.bbox_tower.4.bias": model.head.box_tower[4].bias,
        "proposal_generator.fcos_head.cls_logits.bias": model.head.classes.bias,
        "proposal_generator.fcos_head.bbox_pred.weight": model.head.distances.weight,
        "proposal_generator.fcos_head.ctrness.weight": model.head.centreness.weight,
        "roi_heads.mask_head.mask_fcn2.weight": model.head.mask.convs[2].weight,
        "roi_heads.mask_head.spatialAtt.conv.weight": model.head.mask.attention.conv.weight,
        "roi_heads.mask_head.deconv.weight": model.head.mask.enlarge.weight,
        "roi_heads.mask_head.predictor.bias": model.head.mask.predict.bias,
        "roi_heads.maskiou_head.maskiou_fcn2.bias": model.head.mask_iou.convs[2].bias,
        "roi_heads.maskiou_head.maskiou_fc1.weight": model.head.mask_iou.hidden[1].weight,
        "roi_heads.maskiou_head.maskiou_fc2.bias": model.head.mask_iou.hidden[3].bias,
        "roi_heads.maskiou_head.maskiou.weight": model.head.mask_iou.predict.weight,
    }
    for key, tensor in placed.items():
        assert torch.equal(tensor, state[key]), key
    assert model.head.scales.tolist() == [
        state[f"proposal_generator.fcos_head.scales.{n}.scale"].item() for n in range(5)
    ]
    with pytest.raises(WeightsError, match=r"tensor 'roi_heads.box_head.fc1.weight' has no place"):
        crossstage.from_authors(name, {**state, "roi_heads.box_head.fc1.weight": torch.zeros(2, 2)})


def _authors(classes: int) -> dict[str, torch.Tensor]:
    """A state of CenterMask-Lite with VoVNetV2-19-slim by detectron2's names and shapes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, width: int, kernel: int = 3, *, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, width, kernel, kernel)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def normed(name: str, out: int, width: int, kernel: int = 3) -> None:
        conv(f"{name}/conv", out, width, kernel, bias=False)
        shapes.update({f"{name}/norm.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")})

    body = "backbone.bottom_up"
    for number, (out, width) in enumerate(((64, 3), (64, 64), (128, 64)), 1):
        normed(f"{body}.stem.stem_{number}", out, width)
    width = 128
    for stage, inner, out in ((2, 64, 112), (3, 80, 256), (4, 96, 384), (5, 112, 512)):
        osa = f"{body}.stage{stage}.OSA{stage}_1"
        for layer in range(3):
            normed(f"{osa}.layers.{layer}.OSA{stage}_1_{layer}", inner, inner if layer else width)
        normed(f"{osa}.concat.OSA{stage}_1_concat", out, width + 3 * inner, 1)
        conv(f"{osa}.ese.fc", out, out, 1)
        width = out
        if stage > 2:
            conv(f"backbone.fpn_lateral{stage}", 128, out, 1)
            conv(f"backbone.fpn_output{stage}", 128, 128)
    for level in ("p6", "p7"):
        conv(f"backbone.top_block.{level}", 128, 128)
    fcos = "proposal_generator.fcos_head"
    for tower in ("cls_tower", "bbox_tower"):
        for layer in (0, 3):
            conv(f"{fcos}.{tower}.{layer}", 128, 128)
            shapes.update({f"{fcos}.{tower}.{layer + 1}.{part}": (128,) for part in ("weight", "bias")})
    for name, out in (("cls_logits", classes), ("bbox_pred", 4), ("ctrness", 1)):
        conv(f"{fcos}.{name}", out, 128)
    shapes.update({f"{fcos}.scales.{level}.scale": (1,) for level in range(5)})
    for layer in (1, 2):
        conv(f"roi_heads.mask_head.mask_fcn{layer}", 128, 128)
        conv(f"roi_heads.maskiou_head.maskiou_fcn{layer}", 128, 129 if layer == 1 else 128)
    conv("roi_heads.mask_head.spatialAtt.conv", 1, 2, bias=False)
    conv("roi_heads.mask_head.deconv", 128, 128, 2)
    conv("roi_heads.mask_head.predictor", classes, 128, 1)
    for name, out, inner in (("maskiou_fc1", 1024, 128 * 49), ("maskiou_fc2", 1024, 1024), ("maskiou", classes, 1024)):
        shapes.update(
            {f"roi_heads.maskiou_head.{name}.weight": (out, inner), f"roi_heads.maskiou_head.{name}.bias": (out,)}
        )
    return {key: torch.full(shape, float(number)) for number, (key, shape) in enumerate(shapes.items())}
