"""Speed claims of both papers on this machine: networks timed in turns, for ratios to set beside the published ones.

    python -m research.bench.claims_speed [--rounds N]      writes docs/claims/relative_speed.json

One image, fp32, all cores; the necks of table 2 at 416 pixels, backbones at 320. Whole detectors run at their own
sizes from the prepared image to the detections, with random weights: what scores above 0.25 is little, as in most
images. ``python -m research.pages.claims`` then takes the ratios into the ledger.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch
from torch import nn

from crossstage import create_model, fuse
from crossstage.analysis import count_flops
from crossstage.files import write_text
from crossstage.models.detector import Detector
from research.bench.timing import machine, medians
from research.claims.blocks import with_bottlenecks
from research.claims.detectors import TABLE_2
from research.claims.ledger import Found, Value
from research.places import CLAIMS

RESULTS = CLAIMS / "relative_speed.json"
DETECTORS, BACKBONES = 416, 320  # pixels
# DSOD's smallest dense backbone as a classifier; DSOD itself pools once less, and reads 300 pixels.
DENSENET67 = {"depths": (6, 8, 8, 8), "growth": 16, "compression": 1.0}


def detectors() -> dict[str, nn.Module]:
    """Those of table 2, by its names; GIoU is a loss and changes no network."""
    settings: dict[str, dict[str, Any]] = {row.model: {"act": row.act} if row.act else {} for row in TABLE_2}
    return {row.model: create_model(row.ours, **settings[row.model]) for row in TABLE_2 if "GIoU" not in row.model}


def backbones() -> dict[str, nn.Module]:
    """Those that VoVNet's papers compare."""
    return {
        "VoVNet-27-slim": create_model("vovnet27_slim"),
        "VoVNet-27-slim, bottlenecks": with_bottlenecks(create_model("vovnet27_slim")),
        "DenseNet-67": create_model("densenet121", **DENSENET67),
        "VoVNet-39": create_model("vovnet39"),
        "ResNet-50": create_model("resnet50_torchvision"),
        "DenseNet-201": create_model("densenet201"),
        "VoVNetV2-19": create_model("vovnet19_v2"),
        "VoVNetV2-19, depthwise": create_model("vovnet19_dw_v2"),
    }


@dataclass(frozen=True)
class Whole:
    """A detector that a paper was measured with.

    Attributes:
        model: Our name.
        size: Height and width of the input in pixels.
        fps: Published frames a second, which compare with each other in one table alone.
    """

    model: str
    size: tuple[int, int]
    fps: float


WHOLE = {
    "EFM(SAM), CSPPeleeNet, 416": Whole("csppeleenet_efm_sam", (416, 416), 129),
    "EFM(SAM), CSPPeleeNet, 512": Whole("csppeleenet_efm_sam", (512, 512), 109),
    "Pelee (SSD)": Whole("pelee_ssd304", (304, 304), 106),
    "CenterNet, R18": Whole("centernet_resnet18", (512, 512), 129),
    "ThunderNet, SNet49": Whole("thundernet_snet49", (320, 320), 267),
    "ThunderNet, SNet146": Whole("thundernet_snet146", (320, 320), 248),
    "PRN, CSPDenseNetb Ref.": Whole("cspdensenetb_ref_prn", (320, 320), 400),
    "DSOD, VoVNet-27-slim": Whole("dsod300_vovnet27_slim", (300, 300), 71),
    "DSOD, DenseNet-67": Whole("dsod300_densenet67", (300, 300), 35),
    "RefineDet, VoVNet-39": Whole("refinedet320_vovnet39", (320, 320), 25.0),
    "RefineDet, DenseNet-201": Whole("refinedet320_densenet201", (320, 320), 12.0),
    "RefineDet, ResNet-50": Whole("refinedet320_resnet50", (320, 320), 23.2),
    "Mask R-CNN, VoVNet-39": Whole("maskrcnn_vovnet39_fpn", (480, 640), 1000 / 81),
    "Mask R-CNN, ResNet-50": Whole("maskrcnn_resnet50_torchvision_fpn", (480, 640), 1000 / 83),
}
"""Detectors of CSPNet's table 4 (GTX 1080 Ti) and VoVNet's tables 2, 4 and 5 (Titan X and Xp) by the papers' names."""
FASTER = {
    "efm-vs-pelee": (("EFM(SAM), CSPPeleeNet, 512", "Pelee (SSD)"),),
    "efm-vs-centernet": (("EFM(SAM), CSPPeleeNet, 416", "CenterNet, R18"),),
    "prn-vs-thundernet": (("PRN, CSPDenseNetb Ref.", "ThunderNet, SNet49"),),
}
"""What the claims on speed compare, as frames a second of one against another."""


def whole_runs() -> dict[str, Callable[[], object]]:
    """What each whole detector does with an image."""

    def run(entry: Whole) -> Callable[[], object]:
        model = create_model(entry.model).eval()
        assert isinstance(model, Detector)
        fused = fuse(model)
        x = torch.rand(1, 3, *entry.size)
        return lambda: fused.detect(fused(x), entry.size)

    return {name: run(entry) for name, entry in WHOLE.items()}


def timed(models: Mapping[str, nn.Module], size: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of each fused network's forward pass."""
    x = torch.rand(1, 3, size, size)
    fused = {name: fuse(model.eval()) for name, model in models.items()}
    with torch.inference_mode():
        return medians({name: (lambda model=model: model(x)) for name, model in fused.items()}, rounds)


def rise(new: float, old: float) -> float:
    """In percent."""
    return 100 * (new / old - 1)


def ratios(results: Mapping[str, Any]) -> dict[str, Found]:
    """The speed claims' values, from the milliseconds that this script wrote."""
    heads, nets, whole = results["detectors"], results["backbones"], results["whole"]
    flops = results["flops"]
    fps = {row.model: row.fps for row in TABLE_2}

    def rates(new: str, old: str) -> Value:
        return Value(rise(fps[new], fps[old]), rise(heads[old], heads[new]))

    dense, apart = "VoVNetV2-19", "VoVNetV2-19, depthwise"
    narrowed = rise(nets["VoVNet-27-slim, bottlenecks"], nets["VoVNet-27-slim"])
    return {
        "efm-vs-gfm": {"frames a second": rates("EFM", "GFM")},
        "efm-table2": {name: rates(name, "PRN") for name in heads if name != "PRN"},
        "sam-over-spp": {"frames a second": rates("EFM (SAM)", "EFM (SPP)")},
        "osa-bottleneck": {"time": narrowed},
        **{
            claim: {
                f"{new} against {old}": Value(rise(WHOLE[new].fps, WHOLE[old].fps), rise(whole[old], whole[new]))
                for new, old in pairs
            }
            for claim, pairs in FASTER.items()
        },
        "vovnet-vs-densenet-speed": {
            f"{new} to {old}": Value(WHOLE[new].fps / WHOLE[old].fps, whole[old] / whole[new])
            for new, old in (
                ("DSOD, VoVNet-27-slim", "DSOD, DenseNet-67"),
                ("RefineDet, VoVNet-39", "RefineDet, DenseNet-201"),
            )
        },
        "vovnet-vs-resnet-speed": {
            "RefineDet, VoVNet-39 to RefineDet, ResNet-50": Value(
                25.0 / 23.2, whole["RefineDet, ResNet-50"] / whole["RefineDet, VoVNet-39"]
            )
        },
        "vovnet-maskrcnn": {"time": rise(whole["Mask R-CNN, VoVNet-39"], whole["Mask R-CNN, ResNet-50"])},
        "depthwise-inefficient": {
            "fall of FLOP/s": -rise(flops[apart] / nets[apart], flops[dense] / nets[dense]),
            "rise of time": rise(nets[apart], nets[dense]),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    networks = backbones()
    with torch.inference_mode():
        whole = medians(whole_runs(), max(3, rounds // 3))
    results = {
        "machine": machine(),
        "date": date.today().isoformat(),
        "rounds": rounds,
        "detectors": timed(detectors(), DETECTORS, rounds),
        "backbones": timed(networks, BACKBONES, rounds),
        "whole": whole,
        "flops": {
            name: count_flops(model.to("meta"), (1, 3, BACKBONES, BACKBONES)) for name, model in networks.items()
        },
    }
    write_text(RESULTS, json.dumps(results, indent=1) + "\n")
    for claim, found in ratios(results).items():
        for label, value in found.items():
            print(f"{claim:26} {label:32}", value if not isinstance(value, Value) else value.ours)


if __name__ == "__main__":
    main()
