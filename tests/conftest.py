"""Fixtures that several test files use."""

import tarfile
from pathlib import Path

import pytest
import torch

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
    """256 real COCO pictures with annotations."""
    folder = tmp_path_factory.mktemp("coco256")
    with tarfile.open(shared / "data" / "coco256" / "coco256.tar") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
