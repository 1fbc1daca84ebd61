"""What reading, preparing and post-processing add to the forward pass, over a folder of 640-pixel JPEGs.

    python benchmarks/pipeline.py [--memory]

Runs take turns, forth and back; medians of the rounds and their ratio are printed. `--memory` prints the process's peak
memory after 1,000 and after 10,000 pictures instead. For two cores of many: ``taskset -c 0,1 python ...``.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import machine, medians
from torch import Tensor

from crossstage import fuse
from crossstage.detectors import Detector
from crossstage.inference import Detected, DetectionModel, Predictor, load_image, predict_to_files, prepare
from crossstage.zoo import load_detector

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
MODEL = "cspdarknet53_tiny_yolo.coco"


class Session:
    """A detector whose forward pass another runtime runs; decoding and suppression are the native model's.

    Args:
        native: The model.
        run: From ``(1, 3, H, W)`` float32 to raw head tensors.
    """

    def __init__(self, native: Detector, run: Callable[[np.ndarray], Sequence[np.ndarray]]) -> None:
        self.class_names, self.preprocessing = native.class_names, native.preprocessing
        self.max_stride = native.max_stride
        self.native, self.run = native, run

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Raw head tensors."""
        return [torch.from_numpy(raw) for raw in self.run(images.numpy())]

    def detect(self, raw: Sequence[Tensor], **options: Any) -> list[Detected]:
        """See :meth:`crossstage.detectors.Detector.detect`."""
        return self.native.detect(raw, **options)


def openvino_session(native: Detector, onnx: Path) -> Session:
    import openvino

    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    options["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    request = openvino.Core().compile_model(onnx, "CPU", options).create_infer_request()
    return Session(native, lambda images: list(request.infer([images]).values()))


def onnxruntime_session(native: Detector, onnx: Path) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # a waiting thread leaves its core to others
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    return Session(native, lambda images: [np.asarray(raw) for raw in session.run(None, {"images": images})])


def models(folder: Path) -> Iterator[tuple[str, DetectionModel]]:
    native = fuse(load_detector(MODEL)).eval()
    yield "torch, fused", native
    onnx = folder / "model.onnx"
    torch.onnx.export(
        native,
        (torch.rand(1, 3, *native.preprocessing.size),),
        onnx,
        dynamo=True,
        input_names=["images"],
        opset_version=18,
        external_data=False,
        verbose=False,
    )
    yield "ONNX Runtime", onnxruntime_session(native, onnx)
    yield "OpenVINO", openvino_session(native, onnx)


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
        for label, model in models(Path(name)):
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
