"""Tables 1 and 3 of the CSPNet paper: what each network is published to cost, and which of ours it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn

from crossstage.analysis import count_flops
from crossstage.models.registry import find
from crossstage.nn import Partial
from crossstage.weights.loading import create_model

NetworkBasis = Literal["cfg", "code", "paper", "reconstruction", "none"]


@dataclass(frozen=True)
class NetworkRow:
    """A row of the paper's tables.

    Attributes:
        model: As the paper calls it.
        bflops: Published billions of operations.
        weights: Published millions of parameters: weights of convolutions alone, unless ``all_in``.
        ours: Our network, or None.
        settings: What differs from our network's row.
        basis: What our network follows.
        size: Input size, if not our network's own.
        all_in: The published parameters include norms and biases.
        why: What explains a difference, or the absence.
        top1: Published accuracy on ImageNet in percent, where research/studies/ablation.py compares it.
    """

    model: str
    bflops: float | None
    weights: float | None
    ours: str | None
    basis: NetworkBasis
    settings: tuple[tuple[str, Any], ...] = ()
    size: int | None = None
    all_in: bool = False
    why: str = ""
    top1: float | None = None


def _partial(gamma: float, fusion: Any) -> tuple[tuple[str, Any], ...]:
    return (("partial", Partial(gamma, fusion)),)


POOLING = "pooling is counted there (0.001)"
FIRST = f"{POOLING}; how the structure was found is described in backbones/peleenet.py"
TABLE_1 = (
    NetworkRow("PeleeNet", 1.017, None, "peleenet", "code", why=POOLING, top1=70.7),
    NetworkRow("SPeleeNet (sparse)", 0.904, None, "sparse_peleenet", "reconstruction", why=POOLING, top1=69.6),
    NetworkRow("PeleeNeXt (grouped)", 0.837, None, "peleenext", "reconstruction", why=POOLING, top1=68.9),
    *(
        NetworkRow(
            f"fusion first, γ {g}",
            b,
            None,
            "csppeleenet_fusion_first",
            "reconstruction",
            _partial(g, "first"),
            why=FIRST,
            top1=top1,
        )
        for g, b, top1 in ((0.75, 0.649, 68.4), (0.5, 0.755, 69.2), (0.25, 0.861, 70.0))
    ),
    *(
        NetworkRow(
            f"fusion last, γ {g}",
            b,
            None,
            "csppeleenet_fusion_last",
            "paper",
            _partial(g, "last"),
            why=POOLING,
            top1=top1,
        )
        for g, b, top1 in ((0.75, 0.716, 69.2), (0.5, 0.804, 70.6), (0.25, 0.902, 70.8))
    ),
    *(
        NetworkRow(f"CSPPeleeNet, γ {g}", b, None, "csppeleenet", "paper", _partial(g, "both"), why=POOLING, top1=top1)
        for g, b, top1 in ((0.75, 0.800, 70.4), (0.5, 0.888, 70.9), (0.25, 0.986, 71.5))
    ),
)

OTHERS = "a network of others, here only for comparison of accuracy; not part of this library"
TEN_CROP = "the row above on ten crops"
TABLE_3 = (
    NetworkRow("PeleeNet", 1.017, 2.79, "peleenet", "code", why=POOLING),
    NetworkRow("PeleeNet-swish", 1.017, 2.79, "peleenet_swish", "code", why=POOLING),
    NetworkRow("PeleeNet-swish-SE", 1.017, 2.81, "peleenet_swish_se", "paper", why=POOLING),
    NetworkRow("CSPPeleeNet", 0.888, 2.83, "csppeleenet", "paper", why=POOLING),
    NetworkRow("CSPPeleeNet-swish", 0.888, 2.83, "csppeleenet_swish", "paper", why=POOLING),
    NetworkRow("CSPPeleeNet-swish-SE", 0.888, 2.85, "csppeleenet_swish_se", "paper", why=POOLING),
    NetworkRow("SparsePeleeNet", 0.904, 2.39, "sparse_peleenet", "reconstruction", why=POOLING),
    NetworkRow("EfficientNet-B0 (Darknet)", 0.915, 4.81, None, "none", why=OTHERS),
    NetworkRow("EfficientNet-B0 (official code)", None, None, None, "none", why=OTHERS),
    NetworkRow("MobileNet-v2 (README)", 0.858, 3.47, "mobilenetv2", "cfg"),
    NetworkRow("CSPMobileNet-v2 (README)", 0.764, 2.51, "cspmobilenetv2", "cfg"),
    NetworkRow("Darknet Reference", 0.96, 7.31, "darknet_reference", "cfg", why="0.965, cut to two digits there"),
    NetworkRow(
        "CSPDenseNet Reference", 0.886, 3.48, "cspdensenet_ref", "reconstruction",
        why="0.835 would fit table 4's detector on it, see backbones/reference.py",
    ),
    NetworkRow("CSPPeleeNet Reference", 1.103, 4.10, "csppeleenet_ref", "reconstruction",
               why="see backbones/reference.py"),
    NetworkRow("CSPDenseNetb Reference (README)", 0.631, 1.38, "cspdensenetb_ref", "reconstruction",
               why="see backbones/reference.py"),
    NetworkRow("CSPPeleeNetb Reference (README)", 0.897, 2.01, "csppeleenetb_ref", "reconstruction",
               why="see backbones/reference.py"),
    NetworkRow("ResNet-10", 2.273, 5.24, "resnet10", "cfg", why=POOLING),
    NetworkRow("CSPResNet-10", 1.905, 2.73, "cspresnet10", "reconstruction", why="see backbones/resnet.py"),
    NetworkRow("ResNeXt-50", 10.11, 22.19, "resnext50", "cfg"),
    NetworkRow("CSPResNeXt-50", 7.93, 20.50, "cspresnext50", "cfg"),
    NetworkRow("HarDNet-138s", 13.4, 35.5, None, "none", why=OTHERS),
    NetworkRow(
        "DenseNet-264-32", 11.03, 27.21, "densenet264_32", "code", all_in=True,
        why="with 32 layers in the last block; the 264 layers of the DenseNet paper are 48 there, 33.3M and 11.50",
    ),
    NetworkRow(
        "ResNet-152", 22.6, 60.2, "resnet152_torchvision", "code", all_in=True,
        why="a figure of others, twice the 11.3 G multiply-adds of the ResNet paper",
    ),
    NetworkRow(
        "DenseNet-201-Elastic", 8.77, 19.48, "densenet201_elastic", "code", all_in=True,
        why="a figure of the ELASTIC paper, whose counter adds norms, activations, pooling; parameters are exact",
    ),
    NetworkRow("CSPDenseNet-201-Elastic", 7.13, 20.17, "cspdensenet201_elastic", "reconstruction",
               why="see backbones/densenet.py"),
    NetworkRow("Res2Net-50 (10-crop)", 84.0, 25.29, None, "none", why=OTHERS),
    NetworkRow("Res2NeXt-50 (10-crop)", 84.0, 24.27, None, "none", why=OTHERS),
    NetworkRow("CSPResNeXt-50 (10-crop)", 79.0, 20.50, None, "none", why=TEN_CROP),
    NetworkRow("DarkNet-53 (README)", 18.57, 41.57, "darknet53", "cfg"),
    NetworkRow("CSPDarkNet-53 (README)", 13.07, 27.61, "cspdarknet53", "cfg"),
    NetworkRow("CSPDarkNet-53-Elastic (README)", 7.74, None, "cspdarknet53_elastic", "cfg"),
    NetworkRow("ResNet-50 (README)", 9.74, 22.73, "resnet50", "cfg"),
    NetworkRow("CSPResNet-50 (README)", 8.97, 21.57, "cspresnet50", "cfg"),
    NetworkRow("CSPResNet-50-Elastic (README)", 9.36, None, "cspresnet50_elastic", "cfg"),
    NetworkRow("CSPResNeXt-50-Elastic (README)", 5.45, None, "cspresnext50_elastic", "cfg"),
    NetworkRow("CSPResNeXt-50+Elastic (README)", 7.82, None, None, "none",
               why="never released; nothing but the cost is known"),
)  # fmt: skip


@cache
def counted(row: NetworkRow) -> tuple[float, float]:
    """Our network's BFLOPs and parameters in M, counted as the row counts them."""
    assert row.ours is not None
    with torch.device("meta"):
        model = create_model(row.ours, **dict(row.settings)).eval()
    assert isinstance(model, nn.Module)
    size = row.size or find(row.ours).input_size[0]
    parameters = [p for p in model.parameters() if row.all_in or p.dim() > 1]
    return count_flops(model, (1, 3, size, size)) / 1e9, sum(p.numel() for p in parameters) / 1e6
