"""Weights that ship inside the package: which there are, where they come from, and their hashes.

The first entry of a model is what its name without a tag stands for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from crossstage.errors import WeightsError

FOLDER = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class Pretrained:
    """One file of weights.

    Attributes:
        name: Architecture and tag, ``<model>.<tag>``.
        sha256: Hash of the file in the package.
    """

    name: str
    sha256: str

    @property
    def model(self) -> str:
        """The architecture's name in the registry."""
        return self.name.split(".", 1)[0]

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return FOLDER / f"{self.name}.safetensors"

    def verified_path(self) -> Path:
        """The file's path, once its hash is checked.

        Raises:
            WeightsError: The file is missing or not the one that was released.
        """
        if not self.path.is_file():
            raise WeightsError(f"{self.path}: missing; is the installation of crossstage complete?")
        found = hashlib.sha256(self.path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise WeightsError(f"{self.path}: sha256 is {found}; expected {self.sha256}: the file is damaged")
        return self.path


PRETRAINED: dict[str, Pretrained] = {
    weights.name: weights
    for weights in (
        Pretrained(
            name="cspdarknet53_tiny_yolo.coco",
            sha256="f3eecf1c5445bd82ecef96170a04a750bf3f7217c029d649d5efa3fa097b589f",
        ),
        Pretrained(
            name="cspdarknet53_tiny_yolo.bccd",
            sha256="f5fe8e96834b7199c718a65d660bbd97e78578fd4424530cfbcc1061b06e7c41",
        ),
        Pretrained(
            name="csppeleenet_ref_efm_sam.bccd",
            sha256="4d9a33db61ca529d5512b6ffdde3d73d64bf15b89cfa818bb46b4e76bbd3bbf5",
        ),
    )
}
