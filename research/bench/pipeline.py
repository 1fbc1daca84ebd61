"""What reading, preparing, post-processing, drawing and writing add to the forward pass, over a folder of JPEGs.

    python -m research.bench.pipeline [--memory]

Forward passes alone, one after the other with all threads, and whole runs over a folder of 640-pixel JPEGs take turns,
forth and back; medians of the rounds are printed. `--memory` prints the process's peak memory after 1,000 and after
10,000 images instead. For two cores of many: ``taskset -c 0,1 python ...``.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from crossstage.deploy.backends.base import Arithmetic
from crossstage.deploy.open import open_model, streams_for
from crossstage.deploy.sessions import installed
from crossstage.inference.images import load_image
from crossstage.inference.predictor import Predictor
from crossstage.inference.preprocessing import prepare
from crossstage.inference.run import predict_to_files
from crossstage.machine import cores
from research.bench.timing import machine, medians
from research.places import EXAMPLES

PHOTOS = EXAMPLES / "photos"
MODEL = "cspdarknet53_tiny_yolo.coco"
HEAD = """\
| runtime | forward, ms | end to end, ms | of it | drawn and written, ms | of it | one pass at a time, ms | of it |
|---|---|---|---|---|---|---|---|"""


def linked(folder: Path, count: int) -> Path:
    """A folder of so many JPEGs, which are links to a few real photos."""
    folder.mkdir()
    photos = sorted(PHOTOS.glob("*.jpg"))
    for number in range(count):
        (folder / f"{number:05}.jpg").symlink_to(photos[number % len(photos)])
    return folder


def ways() -> list[tuple[str, Arithmetic]]:
    fp32: list[tuple[str, Arithmetic]] = [(runtime, "fp32") for runtime in ("torch", *installed())]
    return [*fp32, *((runtime, "bf16") for runtime in installed(precision="bf16"))]


def predictor(runtime: str, precision: Arithmetic, streams: int, imgsz: int | None = None) -> Predictor:
    opened = open_model(
        MODEL, runtime=runtime, device="cpu", threads=cores(), precision=precision, streams=streams, imgsz=imgsz
    )
    assert opened.detector
    return Predictor(opened.detector, streams=streams, imgsz=imgsz)


@torch.inference_mode()
def row(runtime: str, precision: Arithmetic, folder: Path, rounds: int) -> str:
    """A row of the table."""
    alone = predictor(runtime, precision, 1)
    beside = predictor(runtime, precision, streams_for(None, single=False, live=False))
    photos = sorted(PHOTOS.glob("*.jpg"))
    known = alone.preprocessing
    inputs = [known.normalise(prepare(load_image(photo), known)[0].unsqueeze(0)) for photo in photos]
    images = len(list(folder.iterdir()))

    def forward() -> None:
        for number in range(images):
            alone.model(inputs[number % len(inputs)])

    with tempfile.TemporaryDirectory() as copies:
        runs: dict[str, Callable[[], object]] = {
            "forward": forward,
            "end to end": partial(predict_to_files, beside, folder),
            "drawn": partial(predict_to_files, beside, folder, save=Path(copies), json=Path(copies) / "found.jsonl"),
            "one at a time": partial(predict_to_files, alone, folder),
        }
        found = {name: ms / images for name, ms in medians(runs, rounds, warm_up=1).items()}
    base = found.pop("forward")
    cells = (f"{ms:.1f} | {ms / base:.2f}" for ms in found.values())
    return f"| {runtime} {precision} | {base:.1f} | {' | '.join(cells)} |"


def speed(images: int, rounds: int) -> None:
    torch.set_num_threads(cores())
    print(f"{machine()}, {MODEL} at 416, {images} JPEGs of 640 pixels, {rounds} rounds\n")
    print(HEAD)
    with tempfile.TemporaryDirectory() as name:
        folder = linked(Path(name) / "images", images)
        for runtime, precision in ways():
            print(row(runtime, precision, folder, rounds), flush=True)


def memory() -> None:
    torch.set_num_threads(cores())
    small = predictor("openvino", "fp32", streams_for(None, single=False, live=False), imgsz=64)
    print(f"{machine()}, {MODEL} at 64 in OpenVINO, peak memory of the process")
    with tempfile.TemporaryDirectory() as name:
        for count in (1_000, 10_000):
            predict_to_files(small, linked(Path(name) / str(count), count))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"after a folder of {count:6,} images: {peak:7.1f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    memory() if arguments.memory else speed(arguments.images, arguments.rounds)


if __name__ == "__main__":
    main()
