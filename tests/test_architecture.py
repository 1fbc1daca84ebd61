"""The house: which package may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "crossstage"

# What each part may import of the others. Everything may import errors, files, machine and version.
ALLOWED = {
    "nn": set(),
    "inference": set(),
    "backbones": {"nn"},
    "necks": {"nn"},
    "heads": {"nn", "inference"},
    "analysis": {"nn"},
    "convert": {"nn", "analysis"},
    "darknet": {"nn"},
    "report": {"analysis"},
    "detectors": {"nn", "backbones", "necks", "heads", "inference"},
    "zoo": {"nn", "backbones", "necks", "heads", "inference", "detectors", "darknet", "analysis"},
    "claims": {"nn", "analysis", "zoo"},
    "timm": {"backbones", "zoo"},
    "data": {"nn", "inference"},
    "evaluation": {"data", "inference"},
    "training": {"nn", "heads", "detectors", "zoo", "data", "evaluation", "inference"},
    "runtimes": {"heads", "detectors", "inference"},
    "export": {"nn", "heads", "detectors", "darknet", "inference", "runtimes", "data"},
    "deploy": {"nn", "heads", "detectors", "inference", "runtimes", "export", "zoo", "analysis"},
    "explore": {"nn", "heads", "detectors", "zoo", "analysis", "data", "evaluation", "training", "export", "deploy"},
    "cli": {
        "analysis",
        "claims",
        "convert",
        "darknet",
        "data",
        "deploy",
        "detectors",
        "evaluation",
        "explore",
        "export",
        "heads",
        "inference",
        "nn",
        "report",
        "training",
        "zoo",
    },
}


def imported_parts(file: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert node.level == 0, f"{file}: imports are absolute"
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("crossstage.")}
    return parts - {"errors", "files", "machine", "version", "__version__"}


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part):
    files = [file for file in PACKAGE.rglob("*.py") if part_of(file) == part]
    assert files
    for file in files:
        assert imported_parts(file) - {part} <= ALLOWED[part], file


def test_every_part_has_its_rule():
    parts = {part_of(file) for file in PACKAGE.rglob("*.py")}
    assert parts - {"__init__", "__main__", "errors", "files", "machine", "version"} == set(ALLOWED)


def test_importing_crossstage_loads_nothing_heavy():
    code = "import sys, crossstage; print(*sorted({'torch', 'torchvision', 'supervision', 'rich'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_help_loads_no_torch():
    code = (
        "import sys\nfrom crossstage.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\nprint('torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "False"


def test_the_public_surface_is_what_it_says():
    import crossstage

    for name in crossstage.__all__:
        assert getattr(crossstage, name) is not None
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = crossstage.no_such_thing
