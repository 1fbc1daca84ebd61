"""Small faults put into our own code, one at a time: does a test notice?

A mutant is one change to a syntax tree: a comparison, an operator, a constant, a condition, or a call that is left out.
What is not changed: annotations, messages of errors, and constants of the module, limits for which one more or less is
as good. Tests run on a copy of the repository: those that import the file, and if they notice nothing those of its room
and those that name what it defines. A mutant that none notices is printed with its line, so that a test can be written
for it.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONG_NAME = 10  # letters; shorter ones stand everywhere
SECONDS = 300  # that tests may take with a mutant, which may be a loop without end
FILES = ("ops/*.py", "data/formats/*.py", "data/masks.py", "reading/*.py")
_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In},
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr},
}


@dataclass(frozen=True)
class Mutant:
    """A change.

    Attributes:
        file: The file, from the package's folder.
        line: The line that is changed.
        what: The code before and after.
        place: Its number among the changes of the file.
    """

    file: str
    line: int
    what: str
    place: int


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return all mutants of a file."""
    tree, found = ast.parse(source), []
    for place, (node, change) in enumerate(list(_changes(tree))):
        before, kept = ast.unparse(node), dict(vars(node))
        change()
        after = ast.unparse(ast.fix_missing_locations(node))
        vars(node).update(kept)
        if before != after:
            found.append(Mutant(file, node.lineno, f"{before[:70]}  ->  {after[:70]}", place))
    return found


def changed_source(source: str, place: int) -> str:
    """Return a file with one of its changes."""
    tree = ast.parse(source)
    _, change = list(_changes(tree))[place]
    change()
    return ast.unparse(ast.fix_missing_locations(tree))


def _changes(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, Callable[[], None]]]:
    """Yield the places of a tree that are changed, and what changes them."""
    left_out = {id(inner) for node in ast.walk(tree) for outer in _left_out(node) for inner in ast.walk(outer)}
    for statement in tree.body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            left_out |= {id(inner) for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) not in left_out and isinstance(node, (ast.expr, ast.stmt)):
            yield from ((node, change) for change in _changes_of(node))


def _left_out(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the parts of a node that are left alone."""
    if isinstance(node, ast.Raise):
        yield node
    if isinstance(node, ast.JoinedStr):
        yield node
    for name in ("annotation", "returns", "decorator_list"):
        part = getattr(node, name, None)
        yield from part if isinstance(part, list) else [part] if part else []


def _changes_of(node: ast.AST) -> Iterator[Callable[[], None]]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and (other := _COMPARED.get(type(node.ops[0]))):
        yield lambda: setattr(node, "ops", [other()])
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and (swapped := _COMPUTED.get(type(node.op))):
        yield lambda: setattr(node, "op", swapped())
    elif isinstance(node, ast.BoolOp):
        yield lambda: setattr(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield lambda: setattr(node, "operand", ast.UnaryOp(ast.Not(), node.operand))
    elif isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        yield lambda: setattr(node, "value", not value if isinstance(value, bool) else value + 1)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)) and not isinstance(node.test, (ast.Compare, ast.BoolOp)):
        yield lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield lambda: setattr(node, "value", ast.Constant(None))


def tests_of(file: str, source: str) -> tuple[list[str], list[str]]:
    """Return the test files that import a file, or all of its room, and others that name what it defines."""
    path = Path(file)
    module = re.compile(rf"crossstage\.{'.'.join(path.with_suffix('').parts)}\b|import {path.stem}\b")
    defined = [node.name for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    names = re.compile("|".join(rf"\b{name}\b" for name in [*defined, path.stem] if len(name) > LONG_NAME) or "$^")
    texts = {test: test.read_text("utf-8") for test in sorted((ROOT / "tests").rglob("test_*.py"))}
    room = [test for test in texts if test.parent.name == path.parts[0]]
    near = [test for test in texts if module.search(texts[test])] or room
    far = [test for test in texts if test not in near and (test in room or names.search(texts[test]))]
    return [str(test.relative_to(ROOT)) for test in near], [str(test.relative_to(ROOT)) for test in far]


def is_killed(mutant: Mutant, tests: Sequence[str], copy: Path) -> bool:
    """Tell whether a test of a copy of the repository notices a mutant."""
    target = copy / "src" / "crossstage" / mutant.file
    sound = target.read_text("utf-8")
    target.write_text(changed_source(sound, mutant.place), "utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{copy / 'src'}:{copy}", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return True
    finally:
        target.write_text(sound, "utf-8")
    return done.returncode != 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants, print those that survive and the share that does not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", nargs="+", default=FILES, help="files of the package, by pattern")
    parser.add_argument("--count", type=int, default=150, help="mutants, drawn from all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    package = ROOT / "src" / "crossstage"
    files = sorted({path for pattern in given.files for path in package.glob(pattern)})
    sources = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in files}
    every = [mutant for file, source in sources.items() for mutant in mutants_of(file, source)]
    drawn = random.Random(given.seed).sample(every, min(given.count, len(every)))
    killed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("src", "tests", "research", "examples", "docs", "pyproject.toml", "README.md", "SECURITY.md"):
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
        for mutant in sorted(drawn, key=lambda one: (one.file, one.line)):
            dead = any(
                tests and is_killed(mutant, tests, copy) for tests in tests_of(mutant.file, sources[mutant.file])
            )
            killed += dead
            print(f"{'killed' if dead else 'alive'}: {mutant.file}:{mutant.line}", file=sys.stderr, flush=True)
            if not dead:
                print(f"{mutant.file}:{mutant.line}: {mutant.what}", flush=True)
    print(f"{killed} of {len(drawn)} killed, {killed / max(1, len(drawn)):.0%}; {len(every)} in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
