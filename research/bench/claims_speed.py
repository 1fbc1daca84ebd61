"""Speed claims of both papers on this machine: networks timed in turns, for ratios to set beside the published ones.

    python -m research.bench.claims_speed [--rounds N]      writes docs/claims/relative_speed.json

One image, fp32, all cores; detectors at 416 pixels, backbones at 320. ``python -m research.pages.claims`` then takes
the ratios into the ledger.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from datetime import date
from typing import Any

import torch
from torch import nn

from crossstage import create_model, fuse
from crossstage.analysis import count_flops
from crossstage.files import write_text
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
    heads, nets, flops = results["detectors"], results["backbones"], results["flops"]
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
        "vovnet-vs-densenet-speed": {
            f"{ours} to {theirs}": nets[theirs] / nets[ours]
            for ours, theirs in (("VoVNet-27-slim", "DenseNet-67"), ("VoVNet-39", "DenseNet-201"))
        },
        "vovnet-maskrcnn": {"time": rise(nets["VoVNet-39"], nets["ResNet-50"])},
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
    results = {
        "machine": machine(),
        "date": date.today().isoformat(),
        "rounds": rounds,
        "detectors": timed(detectors(), DETECTORS, rounds),
        "backbones": timed(networks, BACKBONES, rounds),
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
