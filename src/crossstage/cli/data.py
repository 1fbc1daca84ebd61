"""The verbs that look at datasets."""

from __future__ import annotations

from pathlib import Path

from crossstage.cli.console import console
from crossstage.cli.console import table as make_table
from crossstage.cli.lookup import anchors_of, source_of
from crossstage.cli.verbs import DEFAULT_MODEL, FOUND_FAULTS
from crossstage.errors import ConfigError


def data_check(data: str, format: str | None = None, json: str | None = None) -> int:
    """Report everything that is wrong or odd about a dataset; exit code 1 if anything is broken.

    Args:
        data: A COCO json or folder, a VOC folder, a YOLO data.yaml, class folders, parquet, or a dataset YAML.
        format: coco, voc, yolo, folder or parquet, where it is not recognised.
        json: File for the report.
    """
    from crossstage.data.check import check_data, print_check

    report = check_data(source_of(data, format), progress=True)
    print_check(report, console())
    if json:
        report.save(Path(json))
    return FOUND_FAULTS if report.broken else 0


def data_stats(
    data: str, format: str | None = None, model: str = DEFAULT_MODEL, imgsz: int | None = None, out: str = "runs/stats"
) -> int:
    """Draw class counts, box sizes against anchors, and sample images.

    Args:
        data: The dataset, see "crossstage data check --help".
        format: Its format, where it is not recognised.
        model: The detector whose anchors are drawn.
        imgsz: Side of the input in pixels; by default the model's.
        out: Folder for the PNG files.
    """
    from crossstage.data.anchors import judge, scaled_sizes
    from crossstage.data.formats.coco import CocoDataset
    from crossstage.data.plots import class_counts, plot_boxes, plot_classes, seen_by_the_network
    from crossstage.evaluation.plots import save
    from crossstage.files import whole_file
    from crossstage.inference.drawing import sheet

    source, folder = source_of(data, format), Path(out)
    parts = {split: source.read(split, "skip") for split in source.parts}
    counts = {split: class_counts(part) for split, part in parts.items()}
    first = parts.get("train") or next(iter(parts.values()))
    anchors, preprocessing = anchors_of(model, imgsz)
    save(plot_classes(counts), folder / "classes.png")
    written = ["classes.png", "samples.png"]
    if isinstance(first, CocoDataset) and len(anchors):
        sizes = scaled_sizes(first, preprocessing)
        fit = judge(sizes, anchors)
        title = f"{model} at {preprocessing.size[0]}: mean IoU {fit.mean_iou:.3f}, recall {fit.recall:.3f}"
        save(plot_boxes(sizes, anchors, title), folder / "boxes.png")
        written.append("boxes.png")
    with whole_file(folder / "samples.png") as temporary:
        sheet(seen_by_the_network(first, preprocessing, None, 16)).save(temporary)
    table = make_table("class", *counts, numbers=len(counts))
    for name in next(iter(counts.values())):
        table.add_row(name, *(str(of_class.get(name, 0)) for of_class in counts.values()))
    console().print(table)
    console().print(f"{folder}: {', '.join(written)}", highlight=False, markup=False, soft_wrap=True)
    return 0


def data_anchors(
    data: str,
    format: str | None = None,
    model: str = DEFAULT_MODEL,
    imgsz: int | None = None,
    count: int | None = None,
    seed: int = 0,
) -> int:
    """Fit anchors to a dataset's boxes, and tell how well they and the model's fit.

    Args:
        data: The dataset, see "crossstage data check --help".
        format: Its format, where it is not recognised.
        model: The detector whose anchors are compared.
        imgsz: Side of the input in pixels; by default the model's.
        count: How many anchors; by default as many as the model has.
        seed: Chooses where the search begins.
    """
    from crossstage.data.anchors import fit_anchors, judge, scaled_sizes
    from crossstage.data.formats.coco import CocoDataset

    source = source_of(data, format)
    dataset = source.read("train" if "train" in source.parts else next(iter(source.parts)), "skip")
    if not isinstance(dataset, CocoDataset):
        raise ConfigError(f"{data}: {source.format} has labels without boxes; expected boxes")
    if count is not None and count < 1:
        raise ConfigError(f"count is {count}; expected at least 1")
    current, preprocessing = anchors_of(model, imgsz)
    if not len(current):
        raise ConfigError(f"{model} has no anchors; expected a detector")
    sizes = scaled_sizes(dataset, preprocessing)
    fitted = fit_anchors(sizes, count or len(current), seed=seed)
    table = make_table("anchors", "mean IoU", "recall at 0.5", "width x height in pixels of the input", numbers=0)
    for name, anchors in ((f"{model}'s", current), ("fitted", fitted)):
        fit = judge(sizes, anchors)
        told = ", ".join(f"{width:.0f} x {height:.0f}" for width, height in anchors)
        table.add_row(name, f"{fit.mean_iou:.3f}", f"{fit.recall:.3f}", told)
    console().print(table)
    height, width = preprocessing.size
    console().print(
        f"{len(sizes)} boxes at an input of {width} x {height}; train with them: --fit_anchors true", highlight=False
    )
    return 0


def data_show(
    data: str,
    format: str | None = None,
    augment: bool = False,
    model: str = DEFAULT_MODEL,
    imgsz: int | None = None,
    split: str = "train",
    count: int = 16,
    seed: int = 0,
    out: str = "runs/show.png",
) -> int:
    """Write what a network will see.

    Args:
        data: The dataset, see "crossstage data check --help".
        format: Its format, where it is not recognised.
        augment: Show what training makes of the images, with the default augmentation.
        model: The model whose input size and manner of resizing are taken.
        imgsz: Side of the input in pixels; by default the model's.
        split: Part of the dataset.
        count: How many images.
        seed: Chooses the images and what happens to them.
        out: The image file to write.
    """
    from crossstage.data.augment import Augmentation
    from crossstage.data.plots import seen_by_the_network
    from crossstage.files import whole_file
    from crossstage.inference.drawing import sheet

    if count < 1:
        raise ConfigError(f"count is {count}; expected at least 1")
    source = source_of(data, format)
    _, preprocessing = anchors_of(model, imgsz)
    tiles = seen_by_the_network(
        source.read(split, "skip"), preprocessing, Augmentation() if augment else None, count, seed=seed
    )
    with whole_file(Path(out)) as temporary:
        sheet(tiles).save(temporary)
    console().print(f"{out}: {len(tiles)} images", highlight=False, markup=False, soft_wrap=True)
    return 0
