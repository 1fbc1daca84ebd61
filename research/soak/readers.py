"""Every reader of files, as a record: what sound input is, and how it is read.

A record's ``make`` writes sound input below a folder and returns the files that are harmed, one at a time, and ``read``
reads the folder as a user of the package would.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

SIDE = 24
Make = Callable[[Path], list[Path]]


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        name: What it is called.
        make: Writes sound input below a folder, and returns the files to harm.
        read: Reads what is below the folder; the file that was harmed comes with it.
        megabytes: Memory that reading may take beyond what the process had before.
        share: Its share of the inputs, where one is slower than others.
    """

    name: str
    make: Make
    read: Callable[[Path, Path], object]
    megabytes: int = 300
    share: float = 1.0


def _image(form: str = "PNG", mode: str = "RGB", side: int = SIDE, seed: int = 0, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def _put(path: Path, content: str | bytes | object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _images(folder: Path, count: int = 2) -> list[str]:
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        _put(folder / name, _image(seed=number))
    return names


# Datasets


def _check(folder: Path, harmed: Path) -> object:
    from crossstage.data.check import check_data
    from crossstage.data.find import find_data

    del harmed
    return check_data(find_data(folder))


def _check_file(_: Path, harmed: Path) -> object:
    from crossstage.data.check import check_data
    from crossstage.data.find import find_data

    return check_data(find_data(harmed))


def _coco(folder: Path) -> list[Path]:
    names = _images(folder / "images" / "val")
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
    return [_put(folder / "annotations" / "instances_val.json", content)]


def _voc(folder: Path) -> list[Path]:
    names = _images(folder / "JPEGImages")
    files = []
    for name in names:
        stem = Path(name).stem
        text = (
            f"<annotation><folder>JPEGImages</folder><filename>{name}</filename><size><width>{SIDE}</width>"
            f"<height>{SIDE}</height><depth>3</depth></size><object><name>cat</name><pose>Left</pose><difficult>0"
            "</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>13.5</ymax></bndbox></object>"
            "</annotation>"
        )
        files.append(_put(folder / "Annotations" / f"{stem}.xml", text))
    files.append(_put(folder / "ImageSets" / "Main" / "train.txt", "0\n1\n"))
    return files


def _yolo(folder: Path) -> list[Path]:
    _images(folder / "images" / "train")
    _images(folder / "images" / "val")
    lines = {"train": "0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.1 0.1\n", "val": "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n"}
    labels = [_put(folder / "labels" / split / "0.txt", text) for split, text in lines.items()]
    text = "# cats\npath: .\ntrain: images/train\nval: [images/val]\nnc: 2\nnames:\n  0: cat\n  1: 'dog'\n"
    return [*labels, _put(folder / "data.yaml", text)]


def _yolo_lists(folder: Path) -> list[Path]:
    _images(folder / "images")
    labels = _put(folder / "labels" / "0.txt", "0 0.5 0.5 0.25 0.25\n")
    lists = _put(folder / "train.txt", "./images/0.png\nimages/1.png\n")
    _put(folder / "data.yaml", "train: train.txt\nval: train.txt\nnames: [cat]\n")
    return [labels, lists, lists]


def _darknet_data(folder: Path) -> list[Path]:
    _images(folder / "obj_train_data")
    _put(folder / "obj_train_data" / "0.txt", "0 0.5 0.5 0.25 0.25\n")
    names = _put(folder / "obj.names", "cat\ndog\n")
    lists = _put(folder / "train.txt", "data/obj_train_data/0.png\ndata/obj_train_data/1.png\n")
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    return [names, lists, _put(folder / "obj.data", text)]


def _csv(folder: Path) -> list[Path]:
    _images(folder)
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    rows = f'0.png,{SIDE},{SIDE},cat,2,2,12,12\n"1.png",{SIDE},{SIDE},dog,0,0,8.5,8\n'
    return [_put(folder / "_annotations.csv", head + rows)]


def _labelme(folder: Path) -> list[Path]:
    names = _images(folder)
    shapes = [
        {"label": "cat", "shape_type": "rectangle", "points": [[2, 2], [12.5, 12]], "flags": {}},
        {"label": "dog", "shape_type": "polygon", "points": [[2, 2], [12, 2], [7, 12]], "group_id": None},
    ]
    return [
        _put(
            (folder / name).with_suffix(".json"),
            {
                **{"version": "5.2.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None},
                **{"imageHeight": SIDE, "imageWidth": SIDE},
            },
        )
        for name in names
    ]


def _cvat(folder: Path) -> list[Path]:
    _images(folder / "images")
    text = (
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels><label><name>cat'
        f'</name></label></labels></task></meta><image id="0" name="0.png" width="{SIDE}" height="{SIDE}"><box '
        'label="cat" xtl="2.00" ytl="2" xbr="12" ybr="12" occluded="0"></box><polygon label="cat" '
        f'points="2,2;12,2;7,12"></polygon></image><image id="1" name="1.png" width="{SIDE}" height="{SIDE}"/>'
        "</annotations>"
    )
    return [_put(folder / "annotations.xml", text)]


def _label_studio(folder: Path) -> list[Path]:
    names = _images(folder / "images")
    value = {"x": 10.0, "y": 10, "width": 50, "height": 40.5, "rotation": 0, "rectanglelabels": ["cat"]}
    result = {"type": "rectanglelabels", "original_width": SIDE, "original_height": SIDE, "value": value}
    tasks = [
        {"id": number, "data": {"image": f"/data/upload/1/{name}"}, "annotations": [{"result": [result]}]}
        for number, name in enumerate(names)
    ]
    return [_put(folder / "project.json", tasks)]


def _folders(folder: Path) -> list[Path]:
    for split in ("train", "val"):
        for name in ("cats", "dogs"):
            _images(folder / split / name)
    return [folder / "train" / "cats" / "0.png", folder / "val" / "dogs" / "1.png"]


def _masks(folder: Path) -> list[Path]:
    made = []
    for number, name in enumerate(_images(folder / "images" / "train")):
        mask = np.zeros((SIDE, SIDE), np.uint16)
        mask[2 : 8 + number, 2:9] = 1000 * (1 + number) + 1
        stream = io.BytesIO()
        Image.fromarray(mask).save(stream, "PNG")
        made.append(_put(folder / "masks" / "train" / name, stream.getvalue()))
    return [*made, _put(folder / "classes.txt", "background\ncat\ndog\n")]


def _parquet(folder: Path) -> list[Path]:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table(
        {
            "image": [{"bytes": _image(seed=number), "path": f"{number}.png"} for number in range(4)],
            "label": [0, 1, 0, 1],
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "train-00000-of-00001.parquet"
    parquet.write_table(table, file)
    return [file]


# Images


@cache
def _image_files() -> dict[str, bytes]:
    made = {
        **{"grey.png": _image(mode="L"), "palette.png": _image(mode="P"), "alpha.png": _image(mode="RGBA")},
        **{"deep.png": _image(mode="I;16"), "a.png": _image(), "a.jpg": _image("JPEG"), "a.bmp": _image("BMP")},
        **{"steps.jpg": _image("JPEG", progressive=True), "cmyk.jpg": _image("JPEG", "CMYK")},
        **{"a.gif": _image("GIF", "P"), "a.tif": _image("TIFF"), "deep.tif": _image("TIFF", "I;16")},
        **{"lzw.tif": _image("TIFF", compression="tiff_lzw"), "a.ppm": _image("PPM"), "a.tga": _image("TGA")},
        **{"a.webp": _image("WEBP"), "a.jp2": _image("JPEG2000")},
        **{"turned.jpg": _turned()},
    }
    if features.check("avif"):
        made["a.avif"] = _image("AVIF")
    return made


def _turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return _image("JPEG", exif=exif)


def _all_images(folder: Path) -> list[Path]:
    return [_put(folder / name, content) for name, content in _image_files().items()]


def _load_image(_: Path, harmed: Path) -> object:
    from crossstage.errors import DataError
    from crossstage.inference.images import image_size, load_image, load_reduced, verify_image

    said = verify_image(harmed)
    if said is not None and ("\n" in said or not said):
        raise AssertionError(f"verify_image gave {said!r}")
    for read in (image_size, lambda path: load_image(path, repair=True), lambda path: load_reduced(path, (8, 8))):
        try:
            read(harmed)
        except DataError:
            continue
    return load_image(harmed)


def _video(folder: Path) -> list[Path]:
    import av

    file = folder / "a.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 50 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return [file]


def _frames(_: Path, harmed: Path) -> object:
    from crossstage.inference.sources import Source

    return [type(entry) for entry, _ in zip(Source(harmed), range(200), strict=False)]


def _listed_images(folder: Path) -> list[Path]:
    _images(folder)
    return [_put(folder / "list.txt", "0.png\n1.png\n# none\n")]


# Networks


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
layers=-1,-3
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


def _cfg(folder: Path) -> list[Path]:
    return [_put(folder / "net.cfg", CFG.replace("layers=-1,-3\n", "layers=-1\n"))]


def _describe(_: Path, harmed: Path) -> object:
    from crossstage.darknet.loading import describe, load

    rows = describe(harmed)
    if sum(row.parameters for row in rows if hasattr(row, "parameters")) < 10**6:
        return load(harmed)
    return rows


def _weights(folder: Path) -> list[Path]:
    from crossstage.darknet.loading import load, save_weights

    (cfg,) = _cfg(folder)
    network = load(cfg)
    save_weights(network, folder / "net.weights")
    return [folder / "net.weights"]


def _load_weights(folder: Path, harmed: Path) -> object:
    from crossstage.darknet.loading import check_weights, load

    check_weights(folder / "net.cfg", harmed)
    return load(folder / "net.cfg", harmed)


def _names(folder: Path) -> list[Path]:
    return [_put(folder / "a.names", "cat\ndog\nbird\n")]


def _read_names(_: Path, harmed: Path) -> object:
    from crossstage.darknet.names import read_names

    return read_names(harmed)


@cache
def _model_bytes() -> bytes:
    import tempfile

    from crossstage.models.spec import ModelSpec
    from crossstage.nn import Partial
    from crossstage.weights.loading import create_model
    from crossstage.weights.model_file import write_model

    settings = {"widths": (8, 16), "depths": (1, 1), "partial": Partial(0.25), "act": "mish"}
    model = create_model("darknet53", 2, **settings)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.safetensors"
        write_model(file, model.state_dict(), ModelSpec("darknet53", 2, ("cat", "dog"), settings))
        return file.read_bytes()


def _model(folder: Path) -> list[Path]:
    return [_put(folder / "a.json", _split_model()[0])]


@cache
def _split_model() -> tuple[str, bytes]:
    content = _model_bytes()
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    head["__metadata__"] = {key: json.loads(value) for key, value in head["__metadata__"].items()}
    return json.dumps(head["__metadata__"]), content


def _load_model(folder: Path, harmed: Path) -> object:
    """Read a model whose header is the harmed JSON; its tensors stay sound."""
    import crossstage

    _, content = _split_model()
    length = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + length])
    text = harmed.read_text("utf-8", "replace")
    try:
        values = json.loads(text)
        parts = {str(key): json.dumps(value) for key, value in values.items()}
    except (ValueError, AttributeError, RecursionError):
        parts = {"crossstage": text}
    head["__metadata__"] = parts
    new = json.dumps(head).encode()
    file = _put(folder / "harmed.safetensors", len(new).to_bytes(8, "little") + new + content[8 + length :])
    return crossstage.load(file)


def _model_file(folder: Path) -> list[Path]:
    return [_put(folder / "a.safetensors", _model_bytes())]


def _load_file(_: Path, harmed: Path) -> object:
    import crossstage

    return crossstage.load(harmed)


# Runs and exported files


def _state(folder: Path) -> list[Path]:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "model": {"w": torch.zeros(4)},
        "progress": {"epoch": 1, "history": [{"loss": 1.0}]},
        "options": {"a": "b"},
    }
    torch.save(state, folder / "state.ckpt")
    return [folder / "state.ckpt"]


def _load_state(_: Path, harmed: Path) -> object:
    from crossstage.training.checkpoint import Progress, WholeFiles, of_this_run

    content = WholeFiles().load_checkpoint(harmed)
    with of_this_run(harmed):
        Progress().load_state_dict(content["progress"])
    return content


def _checkpoint(_: Path, harmed: Path) -> object:
    from crossstage.weights.checkpoints import read_checkpoint

    return read_checkpoint(harmed)


def _recipe(folder: Path) -> list[Path]:
    text = "epochs: 3\nbatch: 4\nlr: 0.01\noptimizer: sgd\nloss: {box: 1.5}\nimgsz: 64\nschedule: cosine\n"
    return [_put(folder / "a.yaml", text)]


def _load_recipe(_: Path, harmed: Path) -> object:
    from crossstage.training.recipe_files import load_recipe

    return load_recipe(harmed)


def _record(folder: Path) -> list[Path]:
    return [_put(folder / "a.json", {"runtime": "torch", "milliseconds": {"torch": 1.0, "openvino": 2.5}})]


def _read_record(_: Path, harmed: Path) -> object:
    from crossstage.deploy.choose import _recall

    return _recall(harmed)


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


def _onnx(header: str) -> bytes:
    """Return a graph that hands its input through, with a header."""
    import onnx

    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 32, 32]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, {"crossstage": header})
    return model.SerializeToString()


def _exported(folder: Path) -> list[Path]:
    return [_put(folder / "a.json", HEADER)]


def _read_exported(folder: Path, harmed: Path) -> object:
    from crossstage.deploy.reading import read_header

    text = harmed.read_bytes().decode("utf-8", "replace")
    return read_header(_put(folder / "harmed.onnx", _onnx(text)))


def _exported_file(folder: Path) -> list[Path]:
    return [_put(folder / "a.onnx", _onnx(json.dumps(HEADER)))]


def _read_exported_file(_: Path, harmed: Path) -> object:
    from crossstage.deploy.reading import read_header

    return read_header(harmed)


READERS = {
    reader.name: reader
    for reader in (
        Reader("coco", _coco, _check),
        Reader("voc", _voc, _check),
        Reader("yolo", _yolo, _check),
        Reader("yolo lists", _yolo_lists, _check),
        Reader("obj.data", _darknet_data, _check),
        Reader("csv", _csv, _check),
        Reader("labelme", _labelme, _check),
        Reader("cvat", _cvat, _check),
        Reader("label studio", _label_studio, _check),
        Reader("class folders", _folders, _check, megabytes=1700),
        Reader("masks", _masks, _check, megabytes=1700),
        Reader("parquet", _parquet, _check, megabytes=1700),
        Reader("data.yaml", lambda folder: _yolo(folder)[-1:], _check_file),
        Reader("images", _all_images, _load_image, megabytes=1700, share=2),
        Reader("video", _video, _frames, megabytes=800, share=0.2),
        Reader("list of images", _listed_images, _frames),
        Reader("cfg", _cfg, _describe, megabytes=800),
        Reader("weights", _weights, _load_weights),
        Reader("names", _names, _read_names),
        Reader("model header", _model, _load_model, share=0.1),
        Reader("model file", _model_file, _load_file, megabytes=500, share=0.1),
        Reader("state", _state, _load_state),
        Reader("checkpoint", _state, _checkpoint),
        Reader("recipe", _recipe, _load_recipe),
        Reader("runtime record", _record, _read_record),
        Reader("exported header", _exported, _read_exported),
        Reader("exported file", _exported_file, _read_exported_file),
    )
}
