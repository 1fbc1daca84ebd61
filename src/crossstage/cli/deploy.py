"""The verbs that take models elsewhere: export, benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from crossstage.cli.console import console


def export(
    model: str,
    format: Literal["onnx", "openvino", "torchscript", "exported_program", "ncnn", "darknet"] = "onnx",
    out: str | None = None,
    imgsz: int | None = None,
    dynamic: bool = False,
    half: bool = False,
    int8: bool = False,
    calib: str | None = None,
    decode: bool = False,
    nms: bool = False,
    conf: float = 0.25,
    iou: float = 0.45,
) -> int:
    """Write a model as a file that other programs run.

    Args:
        model: As for predict.
        format: Of the file. predict and val run onnx and openvino with nothing else, and detectors of darknet.
        out: The file or folder to write; by default the model's name in the current folder. The weights and names of
            darknet go beside the cfg.
        imgsz: Side of the network's input in pixels; by default the one it was trained at.
        dynamic: Take any number of images of any size.
        half: Store float16.
        int8: Quantise to int8, by the images of calib.
        calib: Images to quantise by: a dataset, whose training part is taken, or a folder.
        decode: Give boxes and scores instead of raw maps.
        nms: Suppress overlapping boxes inside the graph, at conf and iou; gives detections alone.
        conf: Score of detections of nms.
        iou: Overlap of boxes of a class at which nms drops the weaker.
    """
    from crossstage.deploy.backends.onnx import OPSET
    from crossstage.deploy.export import export as write
    from crossstage.errors import ConfigError
    from crossstage.weights.loading import load_on

    if int8 != (calib is not None):
        raise ConfigError("int8 and calib go together; expected --int8 --calib DATA")
    loaded = load_on(model, "cpu")
    suppression = (conf, iou) if nms else None
    with console(stderr=True).status(f"writing {format}"):
        done = write(
            loaded,
            _stem(model),
            format,
            out,
            imgsz=imgsz,
            dynamic=dynamic,
            half=half,
            calib=calib,
            decode=decode,
            suppression=suppression,
        )
    size = sum(file.stat().st_size for file in done.files)
    opset = f", opset {OPSET}" if format == "onnx" else ""
    checked = "" if done.difference is None else f"; its outputs differ from PyTorch's by {done.difference:.1e}"
    told = f"{done.path}: {size / 1e6:.1f} MB{opset}, in {done.seconds:.0f} s{checked}"
    console().print(told, markup=False, highlight=False, soft_wrap=True)
    return 0


def benchmark(
    *,
    models: list[str],
    imgsz: int | None = None,
    runtimes: list[str] | None = None,
    peers: bool = False,
    rounds: int = 30,
    threads: int | None = None,
    memory: bool = True,
    calib: str | None = None,
    json: str | None = None,
) -> int:
    """Time networks in every installed runtime, side by side.

    Args:
        models: Names, with or without weights, or model files.
        imgsz: Side of the networks' input in pixels; by default each network's own.
        runtimes: Some of torch-eager, torch, torch-compiled, torch-bf16, onnxruntime, onnxruntime-int8, openvino,
            openvino-bf16, openvino-int8, ncnn, ncnn-bf16, opencv; by default all.
        peers: Add the same network by others (OpenCV on Darknet's files, timm), and ultralytics' nano models if they
            are installed.
        rounds: Timed passes of each.
        threads: For each runtime; by default all cores.
        memory: Measure peak memory, too, each row in a process of its own.
        calib: Images to quantise int8 networks by, a dataset or a folder; by default noise, which is as fast.
        json: File for all that was measured.
    """
    from crossstage.deploy.benchmark.benchmark import benchmark as measure
    from crossstage.deploy.benchmark.benchmark import print_benchmark

    chosen = [name for entry in runtimes for name in entry.split(",")] if runtimes else None
    with console(stderr=True).status("benchmark") as status:
        result = measure(
            models,
            imgsz=imgsz,
            runtimes=chosen,
            peers=peers,
            rounds=rounds,
            threads=threads,
            memory=memory,
            calib=calib,
            progress=status.update,
        )
    print_benchmark(result, console())
    if json:
        result.save(Path(json))
    return 0


def _stem(model: str) -> str:
    """A model's name; of a path its last part without the suffix of a model's file."""
    path = Path(model).resolve()
    return path.stem if path.suffix in (".safetensors", ".cfg") else path.name
