"""The documentation is true: its code runs, its commands parse, its links lead somewhere, its lists are complete."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossstage.cli import VERBS, parser_of
from crossstage.cli.verb import Group
from crossstage.data.formats import FORMATS
from crossstage.deploy.backends import BACKENDS
from crossstage.errors import ConfigError
from crossstage.models.backbones import BACKBONES
from crossstage.models.heads import HEADS
from examples.draw_shapes import draw
from research.pages import reference
from tests.docs.pages import ROOT, Block, anchors, blocks, links, pages

DOCS = ROOT / "docs"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
TEXTS = [ROOT / "README.md", DOCS / "index.md", *sorted((DOCS / "guides").glob("*.md"))]
TUTORIAL = DOCS / "tutorial.md"
TABLES: tuple[dict[str, Any], ...] = (HEADS, BACKBONES, FORMATS, BACKENDS)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: Path) -> Path:
    """A folder as a reader of the pages has it, with images; the current one."""
    shutil.copytree(drawn, tmp_path / "my_images")
    for name in ("examples", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "photos").symlink_to(ROOT / "examples" / "photos")
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder)
    return folder


@pytest.fixture
def tables() -> Iterator[None]:
    """Tables that a program adds to, which are as before afterwards."""
    before = [dict(table) for table in TABLES]
    yield
    for table, rows in zip(TABLES, before, strict=True):
        table.clear()
        table.update(rows)


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_links_lead_somewhere():
    lost = []
    for page in pages():
        for link in links(page):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
                lost.append(f"{_named(page)}: {link}")
    assert not lost, "\n".join(lost)


def test_every_page_is_reached_from_the_index():
    reached, rest = set(), [DOCS / "index.md"]
    while rest:
        page = rest.pop()
        reached.add(page)
        targets = ((page.parent / link.partition("#")[0]).resolve() for link in links(page))
        rest += [t for t in targets if t.suffix == ".md" and t.is_relative_to(DOCS) and t not in {*reached, *rest}]
    assert {page for page in pages() if page.is_relative_to(DOCS)} == reached


def test_commands_are_ones_that_there_are():
    makefile = (ROOT / "Makefile").read_text()
    wrong = [
        f"{block}: {' '.join(words)}: {fault}"
        for page in set(pages()) - set(HOW_TO)  # whose commands are run
        for block in blocks(page)
        if block.language in ("console", "bash")
        for words in block.commands()
        if (fault := _fault(words, makefile))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_reference_is_what_the_package_has():
    assert (DOCS / "reference.md").read_text() == reference.page()


def test_figures_of_the_readme_are_those_of_generated_pages():
    text = (ROOT / "README.md").read_text()
    measured = "".join(page.read_text() for page in (DOCS / "tables").glob("*.md"))
    figures = re.findall(r"(?<![\w./(])\d+\.\d+(?![\w./])", re.sub(r"\]\([^)]*\)", "", text))
    wanted = set(figures) - {"3.11", "2.0", "0.5"}  # versions of Python, licences and a γ
    assert len(wanted) >= 7
    assert not [figure for figure in wanted if not re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.])", measured)]


def _fault(words: list[str], makefile: str) -> str:
    """Return what is wrong with a command."""
    if words[0] == "make":
        return "" if all(f"\n{target}:" in makefile for target in words[1:]) else "no such target"
    if words[:2] == ["python", "-m"]:
        return "" if importlib.util.find_spec(words[2]) else "no such module"
    if words[0] != "crossstage":
        return ""
    verb = VERBS.get(words[1])
    rest = words[2:]
    if isinstance(verb, Group):
        verb, rest = verb.verbs.get(rest[0]), rest[1:]
    if verb is None:
        return "no such verb"
    try:
        parser_of("crossstage", verb).read(rest)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", TEXTS, ids=_named)
def test_its_code_runs(page: Path, desk: Path):
    shared = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python" and "no-run" not in block.notes:
            exec(block.compiled(), shared)


@pytest.mark.slow
def test_the_tutorial_can_be_followed(desk: Path):
    shutil.rmtree(desk / "my_images")
    _follow_apart(desk, TUTORIAL, "--epochs=1", "--imgsz=64")


@pytest.mark.slow
def test_files_in_their_rooms_are_all_that_the_how_to_pages_take(desk: Path):
    (desk / "src").unlink()
    shutil.copytree(ROOT / "src", desk / "src", copy_function=os.symlink)
    for page in HOW_TO:
        (file,) = [block for block in blocks(page) if "file" in block.notes]
        place = desk / file.notes["file"]
        assert not place.exists(), f"{file}: the tree has such a file already"
        assert f"`{file.notes['file']}`, complete:" in page.read_text(), f"{page}: does not say where the file goes"
        place.write_text(file.text)
    _follow_apart(desk, *HOW_TO)


def _follow_apart(desk: Path, *words: Path | str) -> None:
    """Follow pages in a process of its own, which loads what the desk's ``src`` holds."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.docs.follow", *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (desk / "src", ROOT)))},
        cwd=desk, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]


@pytest.mark.parametrize("page", HOW_TO, ids=_named)
def test_a_program_can_bring_it(page: Path, desk: Path, tables: None, monkeypatch: pytest.MonkeyPatch):
    found = blocks(page)
    (file,) = [block for block in found if "file" in block.notes]
    (program,) = [block for block in found if "program" in block.notes]
    own = desk / "own"
    own.mkdir()
    (own / program.notes["needs"]).write_text(file.text)
    (own / program.notes["program"]).write_text(program.text)
    monkeypatch.syspath_prepend(str(own))
    _prepare(found)
    try:
        runpy.run_path(str(own / program.notes["program"]), run_name="__main__")
    finally:
        sys.modules.pop(Path(program.notes["needs"]).stem, None)


def _prepare(found: list[Block]) -> None:
    """Make what the page makes before the program: the part of its code that needs no new file."""
    shared = {"__name__": "page"}
    for block in found:
        if "prepare" in block.notes:
            exec(block.compiled(), shared)
