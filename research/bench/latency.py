"""Latency of the shipped detector against the same network in OpenCV's DNN module, in one run.

    python -m research.bench.latency ../shared/weights/yolov4-tiny.weights

Medians of alternating rounds and their ratio are printed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import torch

from crossstage import darknet, fuse
from crossstage.models.composed import ComposedDetector
from crossstage.weights.loading import load_detector
from research.bench.peers import OpenCVDetector
from research.bench.timing import machine, medians
from research.places import EXAMPLES

CFG = EXAMPLES / "darknet" / "yolov4-tiny.cfg"
ROUNDS = 40


@torch.inference_mode()
def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    weights = Path(sys.argv[1])
    native = load_detector("cspdarknet53_tiny_yolo.coco")
    assert isinstance(native, ComposedDetector)
    read = darknet.load(CFG, weights)
    peer = OpenCVDetector(CFG, weights, native)
    x = torch.rand(1, 3, 416, 416)
    fused = fuse(native)
    runs = {
        "OpenCV DNN": lambda: peer(x),
        "native model": lambda: native(x),
        "fused": lambda: fused(x),
        "darknet.load": lambda: read(x),
    }
    found = medians(runs, ROUNDS)
    print(f"{machine()}, OpenCV {cv2.__version__}, 416 x 416, batch 1, {ROUNDS} rounds")
    for name, value in found.items():
        print(f"{name:14} {value:7.1f} ms   {value / found['OpenCV DNN']:5.2f} x OpenCV")


if __name__ == "__main__":
    main()
