"""A small instance segmenter, trained here: what it can learn by heart, and what it learns of 100 photos.

    python -m research.studies.masks DATA/coco256.tar
    python -m research.studies.masks --page > docs/results/masks.md

"overfit" trains on a dozen photos of coco256's train part until it finds what is marked on them: mask AP of its own
training images near 1 shows that loss, targets, masks and metrics fit together. The photos are those whose smallest
object is largest, among those whose masks the grid of 28 x 28 cells that a mask is predicted on can hold. "finetune"
trains on the train part, its classes merged, and is measured on the images of the val part that have masks.

Both start with the backbone of the COCO detector in the package, and with all else at random. Each takes about so many
minutes as ``--minutes`` says; one that was interrupted goes on when the command is given again, one that is finished is
not trained again. Raw results lie in ``docs/results/masks/``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.ops import roi_align

from crossstage.data.formats.coco import read_coco
from crossstage.data.masks import packed
from crossstage.data.records import DetectionData
from crossstage.evaluation.coco import coco_content
from crossstage.files import write_text
from crossstage.ops import rle
from crossstage.ops.masks import in_image
from crossstage.training import Interrupted, TrainOptions, result_of, resume, train
from crossstage.weights.model_file import write_model
from crossstage.weights.starting import start_model
from research.bench.timing import machine
from research.places import RESULTS

RAW = RESULTS / "masks"
MODEL = "centermask_lite_cspdarknet53_tiny"
BACKBONE = "cspdarknet53_tiny_yolo.coco"
GRID = 28  # cells along a side of a predicted mask
HELD = 0.95  # IoU of each mask that is laid onto that grid and back
PHOTOS = 12
KINDS = ("person", "animal", "vehicle")  # COCO's own groups of classes, as which "finetune" sees them
METRICS = ("ap", "ap50", "ap75")

# Masks are read from the finest map alone: at these sizes the others have a few cells for a large object. Few boxes
# train masks, which take most of a step's time, for there are one to three objects on a photo.
SETTINGS = {"mask_maps": 1}
LOSS = {"proposals": 20, "positives": 24}
PLAIN = {"mosaic": 0, "scale": 0, "translate": 0, "hue": 0, "saturation": 0, "brightness": 0, "flip": 0}


@dataclass(frozen=True)
class Part:
    """One of the two trainings.

    Attributes:
        about: What it shows, for the page.
        minutes: How long it takes by default, on two cores with nothing else running.
        size: Side of the input in pixels.
        prepare: Writes the dataset, given coco256's two parts and the folder to write to.
        options: What differs from the options that both have.
    """

    about: str
    minutes: float
    size: int
    prepare: Callable[[DetectionData, DetectionData, Path], None]
    options: Mapping[str, Any]


def of_all_sizes(train_part: DetectionData, val_part: DetectionData, folder: Path) -> None:
    """Write the dataset of "finetune": COCO's groups as classes; of val, images on which each object has a mask."""
    write_coco(train_part, range(len(train_part)), folder, "train", group)
    masked = [index for index in range(len(val_part)) if has_masks(val_part, index)]
    write_coco(val_part, masked, folder, "val", group)


def by_heart(train_part: DetectionData, _: DetectionData, folder: Path) -> None:
    """Write the dataset of "overfit": the same photos to train and to measure on, with all their classes."""
    chosen = photos(train_part, PHOTOS)
    for split in ("train", "val"):
        write_coco(train_part, chosen, folder, split, lambda name: name)


PARTS = {
    "overfit": Part(
        "photos that it was trained on",
        6,
        256,
        by_heart,
        {"batch": 4, "lr": 0.001, "burn_in": 30, "ema": 0.98, "val_every": 25, "augment": PLAIN},
    ),
    "finetune": Part(
        "images that it never saw",
        40,
        320,
        of_all_sizes,
        {
            "batch": 8,
            "lr": 0.0005,
            "burn_in": 50,
            "ema": 0.995,
            "val_every": 5,
            "augment": {"mosaic": 0.3, "scale": 0.4},
        },
    ),
}
COMMON = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine", "sample_every": 0, "workers": 0, "seed": 0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained yet, or print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, nargs="?", help="coco256.tar")
    parser.add_argument("--part", choices=PARTS, help="one of the two trainings; by default both")
    parser.add_argument("--minutes", type=float, help="time that a training is to take; by default as the page has it")
    parser.add_argument("--size", type=int, help="side of the input in pixels; by default as the page has it")
    parser.add_argument("--work", type=Path, default=Path("runs/masks"), help="where datasets and runs are kept")
    parser.add_argument("--out", type=Path, default=RAW, help="where raw results go, and the page's are read from")
    parser.add_argument("--page", action="store_true", help="print the page of the raw results")
    chosen = parser.parse_args(arguments)
    if chosen.page:
        print(page(chosen.out), end="")
        return
    if chosen.archive is None:
        parser.error("expected coco256.tar, or --page")
    for name in [chosen.part] if chosen.part else PARTS:
        if not (chosen.out / f"{name}.json").exists():
            measure(name, chosen.archive, chosen.work, chosen.out, chosen.minutes, chosen.size)


def measure(
    name: str, archive: Path, work: Path, out: Path, minutes: float | None = None, size: int | None = None
) -> None:
    """Train one of the two, or go on with it, and write its raw result when it is finished."""
    part, run = PARTS[name], work / name
    try:
        if not (run / "config.yaml").is_file():
            train(options_of_part(name, archive, work, minutes or part.minutes, size or part.size))
        elif result_of(run) is None:
            resume(run)
    except Interrupted as stopped:
        raise SystemExit(f"{name}: {stopped}, or by this command again") from None
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / f"{name}.json", json.dumps(result(run), indent=1) + "\n")


def options_of_part(name: str, archive: Path, work: Path, minutes: float, size: int) -> TrainOptions:
    """Write the dataset and the model to start with, and return how it is trained."""
    part, data, start = PARTS[name], work / f"{name}_data", work / f"{name}_start.safetensors"
    source = work / "coco256"
    if not source.is_dir():
        with tarfile.open(archive) as tar:
            tar.extractall(source, filter="data")
    shutil.rmtree(data, ignore_errors=True)
    found = [read_coco(source / "annotations" / f"instances_{split}2017.json") for split in ("train", "val")]
    part.prepare(found[0], found[1], data)
    classes = read_coco(data / "annotations" / "instances_train.json").class_names
    torch.manual_seed(0)
    started = start_model(MODEL, classes, backbone=BACKBONE, overrides=SETTINGS, imgsz=size, resize="stretch")
    write_model(start, started.model.state_dict(), started.spec)
    settings = {
        "model": str(start),
        "data": str(data),
        "name": name,
        "out": str(work),
        "minutes": minutes,
        "imgsz": size,
    }
    return TrainOptions.from_mapping({**settings, **COMMON, "loss": LOSS, **part.options}, name)


def photos(dataset: DetectionData, count: int) -> list[int]:
    """Return the images whose smallest object is largest, among those whose masks the grid can hold."""
    sized = []
    for index, image in enumerate(dataset.images):
        rows = range(dataset.boxes.starts[index], dataset.boxes.starts[index + 1])
        if rows and has_masks(dataset, index) and all(held(dataset, row) >= HELD for row in rows):
            sides = dataset.boxes.xywh[list(rows), 2:].min(1) / max(image.width, image.height)
            sized.append((-float(sides.min()), index))
    return [index for _, index in sorted(sized)[:count]]


def has_masks(dataset: DetectionData, index: int) -> bool:
    """Return whether each object of an image has a mask, and none stands for a crowd."""
    rows = slice(dataset.boxes.starts[index], dataset.boxes.starts[index + 1])
    masks = dataset.boxes.masks
    return masks is not None and not dataset.boxes.crowd[rows].any() and all(mask is not None for mask in masks[rows])


def held(dataset: DetectionData, row: int) -> float:
    """Return the IoU of an object's mask with what is left of it on the grid of a predicted mask."""
    boxes, image = dataset.boxes, dataset.images[int(dataset.boxes.image_index[row])]
    assert boxes.masks is not None
    size = image.height, image.width
    mask = boxes.masks[row]
    assert mask is not None
    whole = rle.unpack(packed(mask, size), size)
    x, y, width, height = boxes.xywh[row].tolist()
    box = torch.tensor([[x, y, x + width, y + height]])
    grid = roi_align(torch.from_numpy(whole).float()[None, None], [box], GRID, aligned=True)[0, 0]
    laid = in_image(grid, box[0], size)
    return float((laid & whole).sum() / (laid | whole).sum())


def group(name: str) -> str | None:
    """Return the group of a class of COCO, None if it is in none of :data:`KINDS`."""
    animals = "bird cat dog horse sheep cow elephant bear zebra giraffe".split()
    vehicles = "bicycle car motorcycle airplane bus train truck boat".split()
    return "person" if name == "person" else "animal" if name in animals else "vehicle" if name in vehicles else None


def write_coco(
    dataset: DetectionData, chosen: Sequence[int], folder: Path, split: str, renamed: Callable[[str], str | None]
) -> None:
    """Write some images of a dataset, with those of their objects whose class has a name there."""
    content = coco_content(dataset, masks=True)
    names = {id_: renamed(name) for id_, name in dataset.categories.items()}
    images = {dataset.images[index].id: dataset.images[index] for index in chosen}
    present = [entry for entry in content["annotations"] if entry["image_id"] in images and names[entry["category_id"]]]
    kept = sorted({str(names[entry["category_id"]]) for entry in present})
    place = folder / "images" / split
    place.mkdir(parents=True)
    for image in images.values():
        (place / image.path.name).symlink_to(image.path.resolve())
    written = {
        "images": [entry for entry in content["images"] if entry["id"] in images],
        "categories": [{"id": number, "name": name} for number, name in enumerate(kept, start=1)],
        "annotations": [{**e, "category_id": kept.index(str(names[e["category_id"]])) + 1} for e in present],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(written))


def result(run: Path) -> dict[str, Any]:
    """Return what is kept of a finished training."""
    done, report = result_of(run), json.loads((run / "report.json").read_text())
    assert done is not None
    options = TrainOptions.from_yaml(run / "config.yaml")
    parts = {
        split: read_coco(Path(options.data) / "annotations" / f"instances_{split}.json") for split in ("train", "val")
    }
    return {
        "boxes": {name: report[name] for name in METRICS},
        "masks": {name: report["masks"][name] for name in METRICS},
        "classes": {entry["name"]: [entry["ap"], entry["mask_ap"]] for entry in report["classes"]},
        "epochs": len(done.history),
        "best_epoch": done.best_epoch,
        "history": [
            {k: v for k, v in row.items() if k in ("epoch", "AP", "AP_mask")} for row in done.history if "AP" in row
        ],
        "seconds": sum(row["seconds"] for row in done.history),
        "size": options.imgsz,
        "images": {split: len(part) for split, part in parts.items()},
        "objects": {split: int((~part.boxes.crowd).sum()) for split, part in parts.items()},
        "photos": [image.path.stem for image in parts["train"].images] if len(parts["train"]) <= 2 * PHOTOS else [],
        "machine": machine(),
    }


def page(folder: Path) -> str:
    """Return the page of the raw results: of "overfit", and of "finetune" once it is there."""
    paths = {name: folder / f"{name}.json" for name in PARTS}
    found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    first = found["overfit"]
    lines = [
        "# Masks learned here",
        "",
        f"Written by `python -m research.studies.masks --page`; {first['machine']}. Raw results are in [masks](masks).",
        "",
        f"`{MODEL}` with masks read from the finest map, its backbone that of `{BACKBONE}`, all else at random; AdamW,",
        "one seed. Average precision over IoU .50:.95, and at .50 and .75, in percent.",
        "",
        "| training | measured on | box AP | AP50 | AP75 | mask AP | AP50 | AP75 | input | epochs | minutes |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in found.items():
        shown = [f"{100 * (row[kind][metric] or 0):.1f}" for kind in ("boxes", "masks") for metric in METRICS]
        what = f"{row['images']['val']} {PARTS[name].about} ({row['objects']['val']} objects)"
        tail = [str(row["size"]), str(row["epochs"]), f"{row['seconds'] / 60:.0f}"]
        lines.append(f"| {name} | {' | '.join([what, *shown, *tail])} |")
    lines += [
        "",
        f"**overfit**: {first['images']['train']} photos of coco256's train part with {first['objects']['train']}"
        f" objects of {len(first['classes'])} classes, no augmentation: those whose smallest object is largest, among",
        f"photos each mask of which the {GRID} x {GRID} grid holds at an IoU of {HELD} or more"
        f" ({', '.join(number.lstrip('0') for number in first['photos'])}).",
        "",
        *(of_groups(found["finetune"]) if "finetune" in found else ()),
        "AP of boxes and masks in the course of the trainings:",
        "",
        *(
            f"- {name}: "
            + ", ".join(
                f"{row['epoch']:.0f}: {row['AP']:.2f} and {row['AP_mask']:.2f}"
                for row in spread(found[name]["history"])
            )
            for name in found
        ),
    ]
    return "\n".join(lines) + "\n"


def of_groups(fine: Mapping[str, Any]) -> list[str]:
    """Return what the page tells of "finetune"."""
    return [
        f"**finetune**: {fine['images']['train']} photos of the train part with {fine['objects']['train']} objects of"
        f" {', '.join(KINDS)}, groups of COCO's classes;",
        "measured on the images of the val part on which each object has a mask. The detector whose backbone it starts",
        "with learned boxes of COCO's train2017, these photos among them, and has seen none of val2017. By group:",
        "",
        "| group | box AP | mask AP |",
        "|---|---:|---:|",
        *(
            f"| {name} | {' | '.join(f'{100 * value:.1f}' if value is not None else '–' for value in pair)} |"
            for name, pair in fine["classes"].items()
        ),
        "",
    ]


def spread(rows: Sequence[Any], count: int = 8) -> list[Any]:
    """Return some of the rows, evenly over all, the last among them."""
    return [rows[round(index)] for index in np.linspace(0, len(rows) - 1, min(count, len(rows)))]


if __name__ == "__main__":
    main()
