"""What reading, preparing and post-processing add to the forward pass, over a folder of 640-pixel JPEGs.

    python benchmarks/pipeline.py [--memory]

Runs take turns, forth and back; medians of the rounds and their ratio are printed. `--memory` prints the process's peak
memory after 1,000 and after 10,000 pictures instead. For two cores of many: ``taskset -c 0,1 python ...``.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from timing import machine, medians
from torch import Tensor

from crossstage import fuse
from crossstage.deploy import open_model
from crossstage.inference import DetectionModel, Predictor, load_image, predict_to_files, prepare
from crossstage.zoo import load_detector

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
MODEL = "cspdarknet53_tiny_yolo.coco"


def models() -> Iterator[tuple[str, DetectionModel]]:
    for runtime in ("torch", "onnxruntime", "openvino"):
        opened = open_model(MODEL, runtime=runtime, device="cpu", threads=torch.get_num_threads())
        assert opened.detector
        yield runtime, opened.detector


def linked(folder: Path, count: int) -> Path:
    """A folder of so many JPEGs, which are links to a few real photos."""
    folder.mkdir()
    photos = sorted(PHOTOS.glob("*.jpg"))
    for number in range(count):
        (folder / f"{number:05}.jpg").symlink_to(photos[number % len(photos)])
    return folder


@torch.inference_mode()
def speed(pictures: int, rounds: int) -> None:
    print(f"{machine()}, {MODEL} at 416, {pictures} JPEGs of 640 pixels, {rounds} rounds\n")
    print("| runtime | forward, ms | end to end, ms | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = linked(Path(name) / "pictures", pictures)
        for label, model in models():
            predictor = Predictor(model)
            inputs = [
                prepare(load_image(photo), predictor.preprocessing.size, predictor.preprocessing.resize)[0].unsqueeze(0)
                for photo in sorted(PHOTOS.glob("*.jpg"))
            ]

            def forward(model: DetectionModel = model, inputs: list[Tensor] = inputs) -> None:
                for number in range(pictures):
                    model(inputs[number % len(inputs)])

            def end_to_end(predictor: Predictor = predictor) -> None:
                predict_to_files(predictor, folder)

            found = medians({"forward": forward, "end to end": end_to_end}, rounds, warm_up=1)
            alone, whole = (found[run] / pictures for run in ("forward", "end to end"))
            print(f"| {label} | {alone:.1f} | {whole:.1f} | {whole / alone:.2f} |", flush=True)


def memory() -> None:
    predictor = Predictor(fuse(load_detector(MODEL)), imgsz=64)
    print(f"{machine()}, {MODEL} at 64, peak memory of the process")
    with tempfile.TemporaryDirectory() as name:
        for count in (1_000, 10_000):
            predict_to_files(predictor, linked(Path(name) / str(count), count))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"after a folder of {count:6,} pictures: {peak:7.1f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    memory() if arguments.memory else speed(arguments.pictures, arguments.rounds)


if __name__ == "__main__":
    main()
