"""The house: which room may import which, that no two files import each other, that type names stand once."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import SLOW

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = "crossstage"

# Files at the bottom, which every room may import, and what they may import of each other.
GROUND = {
    "errors": set(),
    "version": set(),
    "machine": set(),
    "discovery": set(),
    "scratch": set(),
    "files": {"errors", "scratch"},
    "loopback": {"errors"},
    "reading": {"errors"},
    "structures": {"errors"},
}
# The rooms, and which others each may import. A room is a folder or file of the package, or a folder in one.
ARROWS = {
    "nn": set(),
    "ops": set(),
    "inference": {"ops"},
    "analysis": {"nn"},
    "models": {"nn", "ops"},
    "darknet": {"nn", "ops", "models"},
    "weights": {"nn", "ops", "inference", "analysis", "models", "darknet"},
    "profiling": {"analysis", "weights"},
    "timm": {"models"},
    "data": {"ops", "inference"},
    "evaluation": {"ops", "inference", "data"},
    "training": {"nn", "ops", "inference", "models", "weights", "data", "evaluation"},
    "tuning": {"profiling", "data", "evaluation", "training"},
    "deploy": {"nn", "ops", "inference", "analysis", "models", "darknet", "weights", "data", "evaluation"},
    "serving": {"ops", "inference", "deploy"},
    "viewing": {"inference", "data", "evaluation"},
    "csp": {"nn", "analysis"},
    "csp.explore": {"nn", "analysis", "models", "weights", "data", "evaluation", "training", "deploy"},
    "cli": {
        *("nn", "ops", "inference", "analysis", "models", "darknet", "weights", "profiling"),
        *("data", "evaluation", "training", "tuning", "deploy", "serving", "viewing", "csp", "csp.explore", "__init__"),
    },
    # Names of version 0.1.0, which lead to the rooms that hold them now.
    "zoo": {"weights"},
    "convert": {"csp"},
}
# Single imports that no arrow allows, each with its reason.
EXCEPTIONS = {
    ("models.detector", "inference.tiles"): "Detector.predict() goes the whole way from files to boxes",
    ("models.detector", "inference.class_names"): "for the classes that a person names",
    ("models.classifier", "inference.classify"): "Classifier.predict() does the same",
    ("csp.origin", "weights.ref"): "what a name means is parsed in one place, for a converted source, too",
    ("csp.origin", "weights.peers"): "the networks of other libraries by their names",
}
DOORS = {"__init__", "__main__"}  # the public surface, which loads anything when it is first used, and the command


@cache
def files() -> dict[str, Path]:
    """Return the package's files by their dotted names; a folder's name is that of its ``__init__``."""
    found = {}
    for file in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(files()[name].read_text("utf-8"))


def imported(name: str, known: Iterable[str]) -> Iterator[str]:
    """Yield the files that a file imports, in functions and for type checkers, too."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name}: imports are absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@cache
def graph() -> dict[str, set[str]]:
    """Return for each file which files of the package it imports."""
    known = files().keys()
    found = {name: {other for other in imported(name, known) if other.split(".")[0] == PACKAGE} for name in known}
    return {name: others - {name} for name, others in found.items()}


def room_of(name: str) -> str:
    parts = name.split(".")[1:] or ["__init__"]
    inner = ".".join(parts[:2])
    return inner if inner in ARROWS else parts[0]


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach each other (strongly connected components of several nodes)."""
    reached: dict[str, set[str]] = {}
    for start in arrows:
        seen: set[str] = set()
        waiting = [*arrows[start]]
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += arrows.get(node, ())
        reached[start] = seen
    groups = {
        tuple(sorted({start, *(node for node in seen if start in reached.get(node, ()))}))
        for start, seen in reached.items()
        if start in seen
    }
    return [list(group) for group in sorted(groups)]


def test_imports_are_of_files_that_are_there():
    assert [(name, other) for name, others in graph().items() for other in others - files().keys()] == []


def test_imports_follow_the_arrows():
    allowed = {**GROUND, **{room: GROUND.keys() | others for room, others in ARROWS.items()}}
    wrong, used = [], set()
    for name, others in graph().items():
        room = room_of(name)
        if room in DOORS:
            continue
        for other in others:
            pair = name.removeprefix(f"{PACKAGE}."), other.removeprefix(f"{PACKAGE}.")
            if pair in EXCEPTIONS:
                used.add(pair)
            elif room_of(other) not in allowed[room] | {room}:
                wrong.append(" -> ".join(pair))
    assert sorted(wrong) == []
    assert used == EXCEPTIONS.keys(), "an exception that no import needs any more"


def test_every_room_has_its_rule_and_every_rule_its_room():
    rooms = {room_of(name) for name in files()} - DOORS
    assert rooms == GROUND.keys() | ARROWS.keys()
    assert circles({**GROUND, **ARROWS}) == []


def test_no_files_import_each_other_in_a_circle():
    assert circles(graph()) == []


def test_a_file_in_a_folder_does_not_import_the_folders_own_surface():
    """The surface of a folder may load all of its files, by import or by gathering their tables."""
    wrong = [
        f"{name} imports {folder}"
        for name, others in graph().items()
        for folder in others
        if folder != PACKAGE and name.startswith(f"{folder}.")
    ]
    assert wrong == []


def test_circles_are_found():
    assert circles({"a": ["b"], "b": ["c"], "c": []}) == []
    assert circles({"a": ["b"], "b": ["c"], "c": ["b", "d"], "d": []}) == [["b", "c"]]
    assert circles({"a": ["a", "b"], "b": []}) == [["a"]]


def types_of(name: str) -> Iterator[str]:
    """Yield the public names of a file's classes and of its aliases of types."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for node in tree(name).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp, ast.Attribute, ast.Name)):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def test_each_type_has_a_name_of_its_own():
    found = defaultdict(list)
    for name in files():
        for kind in types_of(name):
            if kind[0].isupper() and not kind.isupper():  # private ones and constants begin otherwise
                found[kind].append(name)
    assert {kind: names for kind, names in found.items() if len(names) > 1} == {}


def test_importing_crossstage_loads_nothing_heavy():
    code = "import sys, crossstage; print(*sorted({'torch', 'torchvision', 'supervision', 'rich'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


SPARED = {"faster_coco_eval", "lightning", "matplotlib", "onnx", "openvino", "rich", "scipy", "supervision", "timm"}
USERS = {"training", "timm", "cli.whole", "csp.explore.printing"}


def test_what_some_need_is_imported_where_it_is_needed():
    """No other file imports at its top what takes long to import and what few of its users need."""
    wrong = []
    for name in files():
        inner = name.removeprefix(f"{PACKAGE}.")
        if inner in USERS or inner.split(".")[0] in USERS:
            continue
        for node in tree(name).body:
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{name}: {each}" for each in found if each.split(".")[0] in SPARED]
    assert wrong == []


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


def test_slow_tests_are_tests_that_there_are():
    lost = []
    for line in SLOW:
        file, _, name = line.partition("::")
        path = SOURCE.parent / file
        if not path.is_file() or f"def {name.partition('[')[0]}(" not in path.read_text():
            lost.append(line)
    assert not lost
