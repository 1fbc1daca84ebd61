"""What the pages show passes a type checker, and the names that it knows are those of the tables."""

import subprocess
import sys
from typing import get_args

import pytest

from crossstage.models.registry import REGISTRY
from crossstage.weights.names import ClassifierName, DetectorName
from crossstage.weights.published import PRETRAINED
from research.pages.names import named
from tests.docs.pages import ROOT, blocks

READ = ("README.md", "docs/index.md")
USE = """
from pathlib import Path
import crossstage
options = crossstage.TrainOptions(model="csppeleenet", data=Path("images"), augment={"mosaic": 1.0})
reveal_type(crossstage.load("cspdarknet53_tiny_yolo"))  # Detector
reveal_type(crossstage.create_model("csppeleenet", num_classes=4))  # Classifier
reveal_type(crossstage.create_model("yolox_nano", num_classes=4, norm="none"))  # Detector
reveal_type(crossstage.create_model("csppeleenet", out_indices=(1, 2)))  # StagedBackbone
reveal_type(crossstage.create_model("my" + "name"))  # Detector | Classifier
"""


def test_names_are_those_of_the_tables():
    """``python -m research.pages.names > src/crossstage/weights/names.py`` writes them again."""
    assert list(get_args(DetectorName)) == named("detect") and list(get_args(ClassifierName)) == named("classify")
    assert {*get_args(DetectorName), *get_args(ClassifierName)} == {*REGISTRY, *PRETRAINED}


@pytest.mark.slow
def test_what_the_pages_show_has_types(tmp_path):
    for page in READ:
        code = "\n".join(block.text for block in blocks(ROOT / page) if block.language == "python")
        (tmp_path / f"{page.replace('/', '_')[:-3]}.py").write_text(code)
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT / "src"}"]}}')
    command = [sys.executable, "-m", "pyright", "-p", str(tmp_path), "--pythonpath", sys.executable]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert checked.returncode == 0, checked.stdout
    found = [line.split(" is ")[1].strip('"') for line in checked.stdout.splitlines() if "Type of" in line]
    assert found == [line.split("# ")[1] for line in USE.splitlines() if "# " in line]
