"""What the site has beside the pages of docs: pages of the API from the docstrings, and the files that pages link to.

Hooks of MkDocs, see ``mkdocs.yml``. Pages that stand in no part of the navigation (results, claims, tables) are listed
below their own headings from the folders they lie in.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files  # pyright: ignore[reportMissingImports]

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "crossstage"
OUTSIDE = "files"  # where the site keeps files that pages link to and that are no pages
FOLDERS = {"Claims": "claims", "Results": "results", "Tables": "tables"}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """List the folders of pages that grow by themselves, and the rooms of the package."""
    docs = Path(config.docs_dir)
    for title, folder in FOLDERS.items():
        pages = sorted(path.relative_to(docs).as_posix() for path in (docs / folder).glob("*.md"))
        config.nav.append({title: pages})
    reference = next(entry["Reference"] for entry in config.nav if "Reference" in entry)
    reference.extend({room: f"api/{room}.md"} for room in _rooms())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the API and what pages link to."""
    rooms = _rooms()
    table = "\n".join(f"| [{room}]({room}.md) | {_summary(modules[0])} |" for room, modules in rooms.items())
    index = f"# The package, room by room\n\nEvery page is written from the docstrings.\n\n| | |\n|---|---|\n{table}\n"
    files.append(File.generated(config, "api/index.md", content=index))
    for room, modules in rooms.items():
        entries = "\n\n".join(f"::: {_dotted(path)}" for path in modules)
        files.append(File.generated(config, f"api/{room}.md", content=f"# {room}\n\n{entries}\n"))
    linked = {
        target for page in files.documentation_pages() if (text := _text(page)) for target in _outside(text, page)
    }
    for target in sorted(linked):
        if (ROOT / target).is_file():
            files.append(File.generated(config, f"{OUTSIDE}/{target}.txt", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links that leave the docs to the site's copies, and those to a folder of the package to its pages."""

    def led(found: re.Match[str]) -> str:
        text, link, anchor = found[1], found[2], found[3] or ""
        target = _target(link, page.file)
        if target is None:
            return found[0]
        if target.startswith("docs/"):  # a folder of raw results, which a site cannot list
            return text
        up = posixpath.dirname(page.file.src_uri) or "."
        to = f"{OUTSIDE}/{target}.txt" if (ROOT / target).is_file() else f"api/index.md{anchor}"
        return f"[{text}]({posixpath.relpath(to, up)})"

    return _LINK.sub(led, markdown)


def _rooms() -> dict[str, list[Path]]:
    """Return the modules of each room of the package, in the order of its files."""
    rooms: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts) or parts[0] in ("cli", "version"):
            continue
        room = parts[0] if len(parts) > 1 else "crossstage"
        rooms.setdefault(room, []).append(path)
    return {room: sorted(paths, key=lambda path: (path.name != "__init__.py", path)) for room, paths in rooms.items()}


def _dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _summary(path: Path) -> str:
    found = re.match(r'r?"""(.+?)(?:\n\n|""")', path.read_text(), re.DOTALL)
    return " ".join(found[1].split()).replace("``", "`") if found else ""


def _text(page: File) -> str:
    return Path(page.abs_src_path).read_text("utf-8") if page.abs_src_path else ""


def _outside(text: str, page: File) -> Iterator[str]:
    for found in _LINK.finditer(text):
        if target := _target(found[2], page):
            yield target


def _target(link: str, page: File) -> str | None:
    """Return what a link leads to that the site has not, below the repository; None for pages and other places."""
    if "://" in link or link.startswith(("mailto:", "/")):
        return None
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.src_uri), link))
    inside = target.startswith("docs/") and not (ROOT / target).is_dir()
    return None if inside or target.startswith("..") else target
