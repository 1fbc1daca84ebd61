"""Research knows the package, its rooms know each other in one direction, and no two files import each other."""

import ast
from pathlib import Path

import research

ROOT = Path(research.__file__).parent
KNOWS = {"claims": set(), "bench": {"claims"}, "studies": {"claims", "bench"}, "pages": {"claims", "bench", "studies"}}
FILES = {".".join(file.relative_to(ROOT.parent).with_suffix("").parts): file for file in ROOT.rglob("*.py")}


def imported(file: Path) -> set[str]:
    """Files of research that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & FILES.keys()


def test_rooms_know_each_other_in_one_direction():
    for name, file in FILES.items():
        room, *_ = name.split(".")[1:]
        others = {other.split(".")[1] for other in imported(file)} - {room, "places"}
        assert others <= KNOWS.get(room, set()), name


def test_no_files_import_each_other_in_a_circle():
    left = {name: imported(file) for name, file in FILES.items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left


def test_the_package_knows_nothing_of_research():
    package = ROOT.parent / "src" / "crossstage"
    assert not [
        file
        for file in package.rglob("*.py")
        if "import research" in (text := file.read_text()) or "from research" in text
    ]
