"""Fixtures of the command line's tests."""

import json
import shutil
from pathlib import Path

import pytest

FEW = 10  # images on which a detector is measured in a second


@pytest.fixture(scope="session")
def few_coco(coco256: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first validation images of ``coco256`` with their annotations, in COCO's layout."""
    root = tmp_path_factory.mktemp("few_coco")
    content = json.loads((coco256 / "annotations" / "instances_val2017.json").read_text())
    content["images"] = content["images"][:FEW]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    (root / "images" / "val2017").mkdir(parents=True)
    for image in content["images"]:
        shutil.copy(coco256 / "images" / "val2017" / image["file_name"], root / "images" / "val2017")
    return root
