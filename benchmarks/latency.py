"""Latency of the shipped detector against the same network in OpenCV's DNN module, in one run.

    python benchmarks/latency.py ../shared/weights/yolov4-tiny.weights

Rounds alternate between the runtimes, so that a noisy machine is noisy for both; medians and their ratio are printed.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch
from peers import OpenCVDetector

from crossstage import darknet
from crossstage.zoo import load_detector

CFG = Path(__file__).parents[1] / "examples" / "darknet" / "yolov4-tiny.cfg"
ROUNDS = 40


def medians(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each run, taken in turns after three rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number >= 3:
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    weights = Path(sys.argv[1])
    native = load_detector("cspdarknet53_tiny_yolo.coco")
    read = darknet.load(CFG, weights)
    peer = OpenCVDetector(CFG, weights, native)
    x = torch.rand(1, 3, 416, 416)
    found = medians({"OpenCV DNN": lambda: peer(x), "native model": lambda: native(x), "darknet.load": lambda: read(x)})
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}, OpenCV {cv2.__version__}, 416 x 416, batch 1, {ROUNDS} rounds")
    for name, value in found.items():
        print(f"{name:14} {value:7.1f} ms   {value / found['OpenCV DNN']:5.2f} x OpenCV")


if __name__ == "__main__":
    main()
