"""Every reader of files, as a record: what sound input is, and how it is read.

A record's ``make`` writes sound input below a folder and returns the files that are harmed, one at a time, and ``read``
reads the folder as a user of the package would.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import features

from research.soak import inputs
from research.soak.inputs import CFG, HEADER, image_bytes, put, put_images

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


# Images


_IMAGES: dict[str, tuple[str, str, dict[str, Any]]] = {  # format, mode and options of the encoder
    "grey.png": ("PNG", "L", {}),
    "palette.png": ("PNG", "P", {}),
    "alpha.png": ("PNG", "RGBA", {}),
    "deep.png": ("PNG", "I;16", {}),
    "a.png": ("PNG", "RGB", {}),
    "a.jpg": ("JPEG", "RGB", {}),
    "steps.jpg": ("JPEG", "RGB", {"progressive": True}),
    "cmyk.jpg": ("JPEG", "CMYK", {}),
    "turned.jpg": ("JPEG", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
    "a.bmp": ("BMP", "RGB", {}),
    "a.gif": ("GIF", "P", {}),
    "a.tif": ("TIFF", "RGB", {}),
    "deep.tif": ("TIFF", "I;16", {}),
    "lzw.tif": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "a.ppm": ("PPM", "RGB", {}),
    "a.tga": ("TGA", "RGB", {}),
    "a.webp": ("WEBP", "RGB", {}),
    "a.jp2": ("JPEG2000", "RGB", {}),
    **({"a.avif": ("AVIF", "RGB", {})} if features.check("avif") else {}),
}


@cache
def _image_files() -> dict[str, bytes]:
    return {name: image_bytes(form, mode, **options) for name, (form, mode, options) in _IMAGES.items()}


def _all_images(folder: Path) -> list[Path]:
    return [put(folder / name, content) for name, content in _image_files().items()]


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
    put_images(folder)
    return [put(folder / "list.txt", "0.png\n1.png\n# none\n")]


# Networks


def _cfg(folder: Path) -> list[Path]:
    return [put(folder / "net.cfg", CFG)]


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
    return [put(folder / "a.names", "cat\ndog\nbird\n")]


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
    return [put(folder / "a.json", _split_model()[0])]


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
    file = put(folder / "harmed.safetensors", len(new).to_bytes(8, "little") + new + content[8 + length :])
    return crossstage.load(file)


def _model_file(folder: Path) -> list[Path]:
    return [put(folder / "a.safetensors", _model_bytes())]


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
    return [put(folder / "a.yaml", text)]


def _load_recipe(_: Path, harmed: Path) -> object:
    from crossstage.training.recipe_files import load_recipe

    return load_recipe(harmed)


def _record(folder: Path) -> list[Path]:
    return [put(folder / "a.json", {"runtime": "torch", "milliseconds": {"torch": 1.0, "openvino": 2.5}})]


def _read_record(_: Path, harmed: Path) -> object:
    from crossstage.deploy.choose import _recall

    return _recall(harmed)


def _onnx(header: str) -> bytes:
    """Return a graph that hands its input through, with a header."""
    import onnx

    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 32, 32]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph)
    onnx.helper.set_model_props(model, {"crossstage": header})
    return model.SerializeToString()


def _exported(folder: Path) -> list[Path]:
    return [put(folder / "a.json", HEADER)]


def _read_exported(folder: Path, harmed: Path) -> object:
    from crossstage.deploy.reading import read_header

    text = harmed.read_bytes().decode("utf-8", "replace")
    return read_header(put(folder / "harmed.onnx", _onnx(text)))


def _exported_file(folder: Path) -> list[Path]:
    return [put(folder / "a.onnx", _onnx(json.dumps(HEADER)))]


def _read_exported_file(_: Path, harmed: Path) -> object:
    from crossstage.deploy.reading import read_header

    return read_header(harmed)


READERS = {
    reader.name: reader
    for reader in (
        Reader("coco", inputs.coco, _check),
        Reader("voc", inputs.voc, _check),
        Reader("yolo", inputs.yolo, _check),
        Reader("yolo lists", inputs.yolo_lists, _check),
        Reader("obj.data", inputs.darknet_data, _check),
        Reader("csv", inputs.csv, _check),
        Reader("labelme", inputs.labelme, _check),
        Reader("cvat", inputs.cvat, _check),
        Reader("label studio", inputs.label_studio, _check),
        Reader("class folders", inputs.folders, _check, megabytes=1700),
        Reader("masks", inputs.masks, _check, megabytes=1700),
        Reader("parquet", inputs.parquet, _check, megabytes=1700),
        Reader("data.yaml", lambda folder: inputs.yolo(folder)[-1:], _check_file),
        Reader("images", _all_images, _load_image, megabytes=1700, share=2),
        Reader("video", _video, _frames, megabytes=800, share=0.2),
        Reader("list of images", _listed_images, _frames),
        Reader("cfg", _cfg, _describe, megabytes=800),
        Reader("weights", _weights, _load_weights),
        Reader("names", _names, _read_names),
        Reader("model header", _model, _load_model),
        Reader("model file", _model_file, _load_file, megabytes=500, share=0.1),
        Reader("state", _state, _load_state),
        Reader("checkpoint", _state, _checkpoint),
        Reader("recipe", _recipe, _load_recipe),
        Reader("runtime record", _record, _read_record),
        Reader("exported header", _exported, _read_exported),
        Reader("exported file", _exported_file, _read_exported_file),
    )
}
