"""The verbs that use models: predict, val, models, info, darknet."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from crossstage.cli.console import console, nearest
from crossstage.cli.console import table as make_table
from crossstage.cli.lookup import opened_model
from crossstage.errors import ConfigError

DEFAULT_MODEL = "cspdarknet53_tiny_yolo.coco"
FOUND_FAULTS = 1
INTERRUPTED = 130


def predict(
    source: str,
    model: str = DEFAULT_MODEL,
    conf: float = 0.25,
    iou: float = 0.45,
    nms: Literal["iou", "diou", "agnostic"] = "iou",
    imgsz: int | None = None,
    classes: list[str] | None = None,
    batch: int = 1,
    device: str | None = None,
    runtime: Literal["auto", "torch", "onnxruntime", "openvino", "opencv", "ncnn"] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    threads: int | None = None,
    compiled: bool = False,
    save: str | None = None,
    json: str | None = None,
) -> int:
    """Find objects in images and videos, or tell what images show.

    Args:
        source: An image, folder, glob, .txt list, video file or camera number.
        model: A model with weights in "crossstage models", with or without their tag; a model file; a run's folder; a
            Darknet .cfg with its .weights, and .names if there are any, beside it; or what export wrote for ONNX,
            OpenVINO or ncnn.
        conf: Keep detections that score more than this.
        iou: Of two boxes of one class that overlap more than this, drop the weaker.
        nms: How that overlap is measured: by IoU, by distance-IoU, or by IoU whatever the classes are.
        imgsz: Side of the network's input in pixels; by default the one it was trained at.
        classes: Names or ids of the classes to look for; by default all.
        batch: Images that share a forward pass.
        device: Where to run, such as cpu or cuda:1; by default a GPU if there is one.
        runtime: What runs the model: torch, another runtime, or auto for the fastest installed; by default torch, for
            an exported file what reads it.
        precision: Of the arithmetic: bf16 where runtime and processor have it.
        threads: How many to use on a CPU.
        compiled: Have torch compile the model, which takes a minute and pays off on long runs.
        save: Folder for annotated copies.
        json: File for the detections, one JSON object for each image or frame.
    """
    from crossstage.deploy.open import streams_for
    from crossstage.inference.classify import ClassPredictor, classify_to_files
    from crossstage.inference.predictor import Predictor, class_ids_of
    from crossstage.inference.run import predict_to_files, print_summary
    from crossstage.inference.sources import Source
    from crossstage.ops.nms import NMS

    images = Source(source)
    streams = streams_for(threads, single=images.single, live=images.live)
    opened = opened_model(
        model,
        runtime=runtime,
        device=device,
        threads=threads,
        precision=precision,
        compiled=compiled,
        imgsz=imgsz,
        batch=batch,
        streams=streams,
    )
    shared = {"imgsz": imgsz, "batch": batch, "streams": opened.streams}
    if opened.classifier:
        if classes or save:
            raise ConfigError(f"{model} is a classifier; classes and save are for detectors")
        predictor = ClassPredictor(opened.classifier, **shared)
        unreadable = classify_to_files(predictor, source, console(), json=Path(json) if json else None)
        return FOUND_FAULTS if unreadable else 0
    assert opened.detector
    wanted = [name for entry in classes for name in entry.split(",")] if classes else None
    settings = NMS(conf, iou, nms, class_ids=class_ids_of(wanted, opened.detector.class_names))
    predictor = Predictor(opened.detector, settings, **shared)
    summary = predict_to_files(predictor, source, save=Path(save) if save else None, json=Path(json) if json else None)
    print_summary(summary, console())
    if summary.interrupted:
        return INTERRUPTED
    return FOUND_FAULTS if summary.unreadable else 0


def val(
    *,
    data: str,
    model: str = DEFAULT_MODEL,
    split: str | None = None,
    imgsz: int | None = None,
    conf: float = 0.001,
    iou: float = 0.45,
    nms: Literal["iou", "diou", "agnostic"] = "iou",
    nms_sweep: bool = False,
    on_bad_label: Literal["refuse", "skip"] = "refuse",
    device: str | None = None,
    runtime: Literal["auto", "torch", "onnxruntime", "openvino", "opencv", "ncnn"] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    threads: int | None = None,
    batch: int = 1,
    json: str | None = None,
) -> int:
    """Measure a detector's average precision or a classifier's accuracy.

    Args:
        data: The dataset, see "crossstage data check --help".
        model: A model with weights in "crossstage models", with or without their tag; a model file; a run's folder; a
            Darknet .cfg with its .weights, and .names if there are any, beside it; or what export wrote for ONNX,
            OpenVINO or ncnn.
        split: The part to measure on: train, val or test; by default val, else test. Of a folder with several
            annotation files also a part of one's name.
        imgsz: Side of the network's input in pixels; by default the one it was trained at.
        conf: Score that detections need to be counted; average precision wants it near 0.
        iou: Of two boxes of one class that overlap more than this, drop the weaker.
        nms: How that overlap is measured: by IoU, by distance-IoU, or by IoU whatever the classes are.
        nms_sweep: Measure at every threshold from 0.30 to 0.70 of all three instead, in one pass over the images.
        on_bad_label: Refuse broken labels, or skip them.
        device: Where to run, such as cpu or cuda:1; by default a GPU if there is one.
        runtime: What runs the model, as for predict.
        precision: Of the arithmetic: bf16 where runtime and processor have it.
        threads: How many to use on a CPU.
        batch: Images that share a forward pass.
        json: File for the report.
    """
    from dataclasses import replace

    from crossstage.data.find import part_to_measure
    from crossstage.data.formats.coco import CocoDataset
    from crossstage.evaluation import evaluate, evaluate_classifier, print_classification, print_report
    from crossstage.evaluation.sweep import nms_sweep as sweep
    from crossstage.evaluation.sweep import print_sweep, save_sweep
    from crossstage.ops.nms import EVALUATION

    opened = opened_model(
        model, runtime=runtime, device=device, threads=threads, precision=precision, imgsz=imgsz, batch=batch
    )
    dataset = part_to_measure(data, split, on_bad_label)
    if bool(opened.classifier) == isinstance(dataset, CocoDataset):
        held = "boxes" if isinstance(dataset, CocoDataset) else "labels without boxes"
        raise ConfigError(f"{data} holds {held}, which {model} does not find; expected data of the model's task")
    if opened.classifier:
        assert not isinstance(dataset, CocoDataset)
        if nms_sweep or nms != "iou":
            raise ConfigError(f"{model} is a classifier; nms and nms_sweep are for detectors")
        report = evaluate_classifier(
            opened.classifier, dataset, imgsz=imgsz, batch=batch, progress=True, model_name=model
        )
        print_classification(report, console())
    else:
        assert opened.detector and isinstance(dataset, CocoDataset)
        if nms_sweep:
            rows = sweep(opened.detector, dataset, imgsz=imgsz, nms=replace(EVALUATION, score=conf), progress=True)
            print_sweep(rows, console())
            if json:
                save_sweep(rows, Path(json))
            return 0
        settings = replace(EVALUATION, score=conf, iou=iou, kind=nms)
        report = evaluate(
            opened.detector, dataset, imgsz=imgsz, nms=settings, batch=batch, progress=True, model_name=model
        )
        print_report(report, console())
    if json:
        report.save(Path(json))
    return 0


def models(pattern: str = "*") -> int:
    """List the models.

    Args:
        pattern: Shell-style wildcards, such as "csp*".
    """
    from rich.progress import track

    from crossstage.weights.cards import list_models, model_info

    table = make_table("model", "weights", "what", "M parameters", "GFLOPs", "at", numbers=3)
    names = list_models(pattern)
    if not names:
        raise ConfigError(f"no model is called {pattern!r}{nearest(pattern, list_models())}")
    for name in track(names, "counting", console=console(stderr=True), transient=True):
        card = model_info(name)
        tags = " ".join(weights.removeprefix(name) for weights in card.weights)
        parameters, bflops = f"{card.parameters / 1e6:.3f}", f"{card.bflops:.3f}"
        table.add_row(name, tags, card.summary, parameters, bflops, f"{card.input_size[0]} x {card.input_size[1]}")
    console().print(table)
    return 0


def info(name: str) -> int:
    """Show a model's card: what it is, what it costs, where its weights come from.

    Args:
        name: A model's name, with or without the tag of its weights.
    """
    from crossstage.weights.cards import model_info

    card = model_info(name)
    rows = {
        "task": card.task + (", a reconstruction from published sizes" if card.reconstruction else ""),
        "what": card.summary,
        "source": card.source,
        "input": f"{card.input_size[0]} x {card.input_size[1]}",
        "classes": str(card.num_classes),
        "parameters": f"{card.parameters:,}, of which {card.weights_only:,} weights",
        "GFLOPs": f"{card.bflops:.3f} (two for each multiply-add; the papers' BFLOPs)",
        "weights": ", ".join(card.weights) or "none yet",
    }
    if card.provenance:
        rows |= {f"weights' {key}".replace("_", " "): value for key, value in vars(card.provenance).items() if value}
    if card.class_names:
        rows["class names"] = ", ".join(card.class_names)
    table = make_table("", name)
    for key, value in rows.items():
        table.add_row(key, value)
    console().print(table)
    return 0


def pack(*, model: str, out: str, source: str, licence: str, trained_on: str, half: bool = True) -> int:
    """Write a trained model as one file to pass on, with its origin and licence.

    Args:
        model: A training's folder or a model file.
        out: The .safetensors file to write.
        source: What was trained and by whom, for the file's header.
        licence: Licence of the weights, for the file's header.
        trained_on: The training data, for the file's header.
        half: Store float16, which halves the file.
    """
    import hashlib

    from crossstage.weights.model_file import pack as write
    from crossstage.weights.starting import weights_file

    path = weights_file(model)
    if path is None:
        raise ConfigError(f"{model} has no weights; expected a training's folder or a model file")
    write(path, out, told=source, licence=licence, trained_on=trained_on, half=half)
    digest = hashlib.sha256(Path(out).read_bytes()).hexdigest()
    console().print(f"{out}: sha256 {digest}", highlight=False, soft_wrap=True)
    return 0


def darknet_info(cfg: str, weights: str | None = None) -> int:
    """Show a Darknet network layer by layer, and whether a weights file fits it.

    Args:
        cfg: The .cfg file.
        weights: The .weights file.
    """
    from crossstage.darknet import check_weights, describe

    rows = describe(cfg)
    table = make_table("", "layer", "output", "parameters", "BFLOPs", numbers=3)
    for row in rows:
        table.add_row(str(row.index), row.kind, str(row.output_shape), f"{row.parameters:,}", f"{row.bflops:.3f}")
    table.add_section()
    table.add_row("", "total", "", f"{sum(row.parameters for row in rows):,}", f"{sum(row.bflops for row in rows):.3f}")
    out = console()
    out.print(table)
    if weights:
        out.print(str(check_weights(cfg, weights)), style="bold", highlight=False, soft_wrap=True)
    return 0


def darknet_convert(
    *,
    weights: str,
    model: str,
    names: str,
    out: str,
    source: str,
    licence: str,
    trained_on: str,
    half: bool = True,
) -> int:
    """Turn Darknet weights into a model file for the native network; equal input gives equal bytes.

    Args:
        weights: The .weights file.
        model: Name of the native model.
        names: Text file with a class name in each line.
        out: The .safetensors file to write.
        source: What was trained and by whom, for the file's header.
        licence: Licence of the weights, for the file's header.
        trained_on: The training data, for the file's header.
        half: Store float16, which halves the file.
    """
    import hashlib

    from crossstage.weights.from_darknet import convert_darknet

    convert_darknet(
        weights, out, model=model, names=names, source=source, licence=licence, trained_on=trained_on, half=half
    )
    console().print(f"{out}: sha256 {hashlib.sha256(Path(out).read_bytes()).hexdigest()}", soft_wrap=True)
    return 0
