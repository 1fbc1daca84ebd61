"""The command line: one function for each verb, over the functions that the Python API offers.

Nothing heavy is imported before a verb runs, so that ``crossstage --help`` answers at once.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.errors import ConfigError, CrossStageError
from crossstage.version import __version__

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser
    from rich.console import Console
    from rich.table import Table

DEFAULT_MODEL = "cspdarknet53_tiny_yolo.coco"
FOUND_FAULTS = 1
FAILED = 2
INTERRUPTED = 130


def predict(
    source: str,
    model: str = DEFAULT_MODEL,
    conf: float = 0.25,
    iou: float = 0.45,
    imgsz: int | None = None,
    classes: list[str] | None = None,
    device: str | None = None,
    save: str | None = None,
    json: str | None = None,
) -> int:
    """Find objects in pictures and videos.

    Args:
        source: A picture, folder, glob, .txt list, video file or camera number.
        model: A model with weights in "crossstage models", with or without their tag; a model file; or a Darknet .cfg
            with its .weights, and .names if there are any, beside it.
        conf: Keep detections that score more than this.
        iou: Of two boxes of one class that overlap more than this, drop the weaker.
        imgsz: Side of the network's input in pixels; by default the one it was trained at.
        classes: Names or ids of the classes to look for; by default all.
        device: Where to run, such as cpu or cuda:1; by default a GPU if there is one.
        save: Folder for annotated copies.
        json: File for the detections, one JSON object for each picture or frame.
    """
    from crossstage.inference import Predictor, predict_to_files, print_summary
    from crossstage.zoo import load_detector

    wanted = [name for entry in classes for name in entry.split(",")] if classes else None
    predictor = Predictor(load_detector(model, device), conf=conf, iou=iou, imgsz=imgsz, classes=wanted)
    summary = predict_to_files(predictor, source, save=Path(save) if save else None, json=Path(json) if json else None)
    print_summary(summary, _console())
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
    device: str | None = None,
    json: str | None = None,
) -> int:
    """Measure a detector's average precision on data in COCO format.

    Args:
        data: An annotation .json, or a folder that holds annotations/*.json.
        model: A model with weights in "crossstage models", with or without their tag; a model file; or a Darknet .cfg
            with its .weights, and .names if there are any, beside it.
        split: Part of the annotation file's name that picks one of several, such as val.
        imgsz: Side of the network's input in pixels; by default the one it was trained at.
        conf: Score that detections need to be counted; average precision wants it near 0.
        iou: Of two boxes of one class that overlap more than this, drop the weaker.
        device: Where to run, such as cpu or cuda:1; by default a GPU if there is one.
        json: File for the report.
    """
    from crossstage.data import find_coco
    from crossstage.evaluation import evaluate, print_report
    from crossstage.zoo import load_detector

    report = evaluate(
        load_detector(model, device),
        find_coco(Path(data), split=split),
        imgsz=imgsz,
        conf=conf,
        iou=iou,
        progress=True,
        model_name=model,
    )
    print_report(report, _console())
    if json:
        report.save(Path(json))
    return 0


def models(pattern: str = "*") -> int:
    """List the models.

    Args:
        pattern: Shell-style wildcards, such as "csp*".
    """
    from rich.progress import track

    from crossstage.zoo import list_models, model_info

    table = _table("model", "weights", "what", "M parameters", "GFLOPs", "at", numbers=3)
    names = list_models(pattern)
    if not names:
        raise ConfigError(f"no model is called {pattern!r}{_nearest(pattern, list_models())}")
    for name in track(names, "counting", console=_console(stderr=True), transient=True):
        card = model_info(name)
        tags = " ".join(weights.removeprefix(name) for weights in card.weights)
        parameters, bflops = f"{card.parameters / 1e6:.3f}", f"{card.bflops:.3f}"
        table.add_row(name, tags, card.summary, parameters, bflops, f"{card.input_size[0]} x {card.input_size[1]}")
    _console().print(table)
    return 0


def info(name: str) -> int:
    """Show a model's card: what it is, what it costs, where its weights come from.

    Args:
        name: A model's name, with or without the tag of its weights.
    """
    from crossstage.zoo import model_info

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
    table = _table("", name)
    for key, value in rows.items():
        table.add_row(key, value)
    _console().print(table)
    return 0


def darknet_info(cfg: str, weights: str | None = None) -> int:
    """Show a Darknet network layer by layer, and whether a weights file fits it.

    Args:
        cfg: The .cfg file.
        weights: The .weights file.
    """
    from crossstage.darknet import check_weights, describe

    rows = describe(cfg)
    table = _table("", "layer", "output", "parameters", "BFLOPs", numbers=3)
    for row in rows:
        table.add_row(str(row.index), row.kind, str(row.output_shape), f"{row.parameters:,}", f"{row.bflops:.3f}")
    table.add_section()
    table.add_row("", "total", "", f"{sum(row.parameters for row in rows):,}", f"{sum(row.bflops for row in rows):.3f}")
    console = _console()
    console.print(table)
    if weights:
        console.print(str(check_weights(cfg, weights)), style="bold", highlight=False, soft_wrap=True)
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

    from crossstage.zoo import convert_darknet

    convert_darknet(
        weights, out, model=model, names=names, source=source, licence=licence, trained_on=trained_on, half=half
    )
    _console().print(f"{out}: sha256 {hashlib.sha256(Path(out).read_bytes()).hexdigest()}", soft_wrap=True)
    return 0


Verb = Callable[..., int]

VERBS: dict[str, Verb | dict[str, Verb]] = {
    "predict": predict,
    "val": val,
    "models": models,
    "info": info,
    "darknet": {"info": darknet_info, "convert": darknet_convert},
}
GROUPS = {"darknet": "Networks and weights in Darknet's formats."}
LISTS = {
    "classes": "Names or ids of the classes to look for, apart or with commas; by default all."
}  # options that take several values
OPTIONAL = {"pattern": "Shell-style wildcards, such as 'csp*'; by default all."}  # positional, and may be left out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Command and options; by default those of the process.

    Returns:
        0 on success, 1 if something was skipped or faulty, 2 if the command could not be carried out, 130 after Ctrl-C.
    """
    chosen = _parser().parse_args(arguments)
    verb = VERBS[chosen.subcommand]
    chosen = chosen[chosen.subcommand]
    if isinstance(verb, dict):
        verb, chosen = verb[chosen.subcommand], chosen[chosen.subcommand]
    try:
        return verb(**vars(chosen))
    except CrossStageError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="crossstage", description="Cross Stage Partial networks: find objects, measure, convert."
    )
    parser.add_argument("--version", action="version", version=f"crossstage {__version__}")
    _add_verbs(parser, VERBS)
    return parser


def _add_verbs(parser: ArgumentParser, verbs: Mapping[str, Verb | dict[str, Verb]]) -> None:
    """Required parameters become positional arguments, unless they are keyword-only."""
    from jsonargparse import ArgumentParser

    commands = parser.add_subcommands()
    for name, verb in verbs.items():
        summary = GROUPS[name] if isinstance(verb, dict) else (verb.__doc__ or "").splitlines()[0]
        below = ArgumentParser(description=summary)
        commands.add_subcommand(name, below, help=summary.rstrip("."))
        if isinstance(verb, dict):
            _add_verbs(below, verb)
            continue
        parameters = inspect.signature(verb).parameters
        first = next(iter(parameters.values()))
        below.add_function_arguments(verb, as_positional=first.kind is not first.KEYWORD_ONLY, skip={*LISTS, *OPTIONAL})
        for argument in OPTIONAL.keys() & parameters.keys():
            below.add_argument(argument, nargs="?", default=parameters[argument].default, help=OPTIONAL[argument])
        for option in LISTS.keys() & parameters.keys():
            below.add_argument(f"--{option}", nargs="+", help=LISTS[option])


def _nearest(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name.strip("*?"), known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def _table(*columns: str, numbers: int = 0) -> Table:
    """A table whose last ``numbers`` columns are aligned to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for position, column in enumerate(columns):
        right = position >= len(columns) - numbers
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=right or position == 0)
    return table
