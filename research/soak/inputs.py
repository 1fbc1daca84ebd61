"""Sound input of every kind; datasets are functions that write one below a folder and return the files to harm."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 24  # pixels
CFG = """[net]
batch=1
width=32
height=32
channels=3
decay=0.0005
steps=400000,450000
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=8
groups=2
size=1
activation=mish
[shortcut]
from=-2
activation=linear
[maxpool]
size=2
stride=2
[route]
layers=-1
groups=1
[upsample]
stride=2
[route]
layers=-1
[convolutional]
filters=21
size=1
stride=1
pad=1
activation=linear
[yolo]
mask=0,1,2
anchors=10,14, 23,27, 37,58
classes=2
num=3
jitter=.3
ignore_thresh=.7
"""
HEADER: dict[str, Any] = {
    **{"batch": 1, "class_names": ["cat", "dog"], "format": 2, "name": "a", "nms": None, "outputs": "raw"},
    "head": {
        "channels": [256, 512],
        "num_classes": 2,
        "row": {
            "YoloConfig": {
                "levels": [
                    {"AnchorLevel": {"anchors": [[23, 27], [37, 58], [81, 82]], "scale_x_y": 1.05, "stride": 16}},
                    {"AnchorLevel": {"anchors": [[81, 82], [135, 169], [344, 319]], "scale_x_y": 1.05, "stride": 32}},
                ]
            }
        },
        "strides": [16, 32],
    },
    **{"preprocessing": {"resize": "stretch", "size": [32, 32]}, "size_divisor": 32, "task": "detect"},
}


def image_bytes(form: str = "PNG", mode: str = "RGB", side: int = SIDE, seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def put(path: Path, content: str | bytes | object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def put_images(folder: Path, count: int = 2) -> list[str]:
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        put(folder / name, image_bytes(seed=number))
    return names


def coco(folder: Path) -> list[Path]:
    names = put_images(folder / "images" / "val")
    square = [2, 2, 12, 2, 12, 12, 2, 12]
    shared = {"iscrowd": 0, "area": 100.0}
    boxes = [
        {"id": 1, "image_id": 0, "category_id": 3, "bbox": [2, 2, 10.0, 10], "segmentation": [square], **shared},
        {"id": 2, "image_id": 1, "category_id": 5, "bbox": [0, 0, 8, 8], **shared},
        {
            **{"id": 3, "image_id": 1, "category_id": 5, "bbox": [0, 0, 8, 8], "iscrowd": 1},
            "segmentation": {"counts": [0, 200, 376], "size": [SIDE, SIDE]},
        },
    ]
    images = [{"id": number, "file_name": name, "width": SIDE, "height": SIDE} for number, name in enumerate(names)]
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    return [put(folder / "annotations" / "instances_val.json", content)]


def voc(folder: Path) -> list[Path]:
    names = put_images(folder / "JPEGImages")
    files = []
    for name in names:
        stem = Path(name).stem
        text = (
            f"<annotation><folder>JPEGImages</folder><filename>{name}</filename><size><width>{SIDE}</width>"
            f"<height>{SIDE}</height><depth>3</depth></size><object><name>cat</name><pose>Left</pose><difficult>0"
            "</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>13.5</ymax></bndbox></object>"
            "</annotation>"
        )
        files.append(put(folder / "Annotations" / f"{stem}.xml", text))
    files.append(put(folder / "ImageSets" / "Main" / "train.txt", "0\n1\n"))
    return files


def yolo(folder: Path) -> list[Path]:
    put_images(folder / "images" / "train")
    put_images(folder / "images" / "val")
    lines = {"train": "0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.1 0.1\n", "val": "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"}
    labels = [put(folder / "labels" / split / "0.txt", text) for split, text in lines.items()]
    text = "# cats\npath: .\ntrain: images/train\nval: [images/val]\nnc: 2\nnames:\n  0: cat\n  1: 'dog'\n"
    return [*labels, put(folder / "data.yaml", text)]


def yolo_lists(folder: Path) -> list[Path]:
    put_images(folder / "images")
    labels = put(folder / "labels" / "0.txt", "0 0.5 0.5 0.25 0.25\n")
    lists = put(folder / "train.txt", "./images/0.png\nimages/1.png\n")
    put(folder / "data.yaml", "train: train.txt\nval: train.txt\nnames: [cat]\n")
    return [labels, lists, lists]


def darknet_data(folder: Path) -> list[Path]:
    put_images(folder / "obj_train_data")
    put(folder / "obj_train_data" / "0.txt", "0 0.5 0.5 0.25 0.25\n")
    names = put(folder / "obj.names", "cat\ndog\n")
    lists = put(folder / "train.txt", "data/obj_train_data/0.png\ndata/obj_train_data/1.png\n")
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    return [names, lists, put(folder / "obj.data", text)]


def csv(folder: Path) -> list[Path]:
    put_images(folder)
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    rows = f'0.png,{SIDE},{SIDE},cat,2,2,12,12\n"1.png",{SIDE},{SIDE},dog,0,0,8.5,8\n'
    return [put(folder / "_annotations.csv", head + rows)]


def labelme(folder: Path) -> list[Path]:
    names = put_images(folder)
    shapes = [
        {"label": "cat", "shape_type": "rectangle", "points": [[2, 2], [12.5, 12]], "flags": {}},
        {"label": "dog", "shape_type": "polygon", "points": [[2, 2], [12, 2], [7, 12]], "group_id": None},
    ]
    return [
        put(
            (folder / name).with_suffix(".json"),
            {
                **{"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None},
                **{"imageHeight": SIDE, "imageWidth": SIDE},
            },
        )
        for name in names
    ]


def cvat(folder: Path) -> list[Path]:
    put_images(folder / "images")
    text = (
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels><label><name>cat'
        f'</name></label></labels></task></meta><image id="0" name="0.png" width="{SIDE}" height="{SIDE}"><box '
        'label="cat" xtl="2.00" ytl="2" xbr="12" ybr="12" occluded="0"></box><polygon label="cat" '
        f'points="2,2;12,2;7,12"></polygon></image><image id="1" name="1.png" width="{SIDE}" height="{SIDE}"/>'
        "</annotations>"
    )
    return [put(folder / "annotations.xml", text)]


def label_studio(folder: Path) -> list[Path]:
    names = put_images(folder / "images")
    value = {"x": 10.0, "y": 10, "width": 50, "height": 40.5, "rotation": 0, "rectanglelabels": ["cat"]}
    result = {"type": "rectanglelabels", "original_width": SIDE, "original_height": SIDE, "value": value}
    tasks = [
        {"id": number, "data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": [result]}]}
        for number, name in enumerate(names)
    ]
    return [put(folder / "project.json", tasks)]


def folders(folder: Path) -> list[Path]:
    for split in ("train", "val"):
        for name in ("cats", "dogs"):
            put_images(folder / split / name)
    return [folder / "train" / "cats" / "0.png", folder / "val" / "dogs" / "1.png"]


def masks(folder: Path) -> list[Path]:
    made = []
    for number, name in enumerate(put_images(folder / "images" / "train")):
        mask = np.zeros((SIDE, SIDE), np.uint16)
        mask[2 : 8 + number, 2:9] = 1000 * (1 + number) + 1
        stream = io.BytesIO()
        Image.fromarray(mask).save(stream, "PNG")
        made.append(put(folder / "masks" / "train" / name, stream.getvalue()))
    return [*made, put(folder / "classes.txt", "background\ncat\ndog\n")]


def parquet(folder: Path) -> list[Path]:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(
        {
            "image": [{"bytes": image_bytes(seed=number), "path": f"{number}.png"} for number in range(4)],
            "label": [0, 1, 0, 1],
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "train-00000-of-00001.parquet"
    parquet.write_table(table, file)
    return [file]
