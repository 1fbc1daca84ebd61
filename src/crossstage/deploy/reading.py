"""Exported files on disk: which paths are some, which file of a folder holds the graph, and what its header says."""

from __future__ import annotations

from pathlib import Path

from crossstage.deploy.backends import BACKENDS, formats, ordered, runtimes
from crossstage.deploy.backends.base import Backend
from crossstage.deploy.header import ExportHeader
from crossstage.errors import WeightsError


def is_exported(path: str | Path) -> bool:
    """Return whether a path looks like an exported file, or a folder of one, that some runtime runs."""
    path = Path(path)
    return path.suffix in _runnable() or (path.is_dir() and bool(_graphs(path)))


def graph_file(path: Path) -> Path:
    """Return the file that holds the graph: the path itself, or the only such file in a folder.

    Raises:
        WeightsError: There is no such file, or more than one.
    """
    if path.is_dir():
        found = _graphs(path)
        if len(found) != 1:
            names = [BACKENDS[name].label for name, format in formats().items() if format.graph]
            suffixes = " and ".join(_runnable(folders=True))
            raise WeightsError(f"{path}: holds {len(found)} {suffixes} files; expected one, of {' or '.join(names)}")
        return found[0]
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    return path


def read_header(path: Path) -> ExportHeader:
    """Read the header of a file that holds a graph, without loading the graph or any library that could.

    Raises:
        WeightsError: The file cannot be read, is of another kind, or was not written by crossstage.
    """
    backend = _backend_of(path)
    assert backend.format and backend.format.read_header
    try:
        text = backend.format.read_header(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (EOFError, ValueError) as error:
        article = "an" if backend.label[:1].upper() in "AEIOU" else "a"
        raise WeightsError(f"{path}: not {article} {backend.label} file: {error}") from None
    if text is None:
        raise WeightsError(f"{path}: says nothing of classes and preprocessing; expected a file of `crossstage export`")
    return ExportHeader.from_json(text, path)


def _backend_of(path: Path) -> Backend:
    """Return the backend that writes files of a path's suffix and reads their headers."""
    known = {
        backend.format.graph_suffix: backend
        for backend in reversed(ordered().values())
        if backend.format and backend.format.read_header
    }
    if path.suffix not in known:
        raise WeightsError(f"{path}: no exported file; expected one of {', '.join(known)}")
    return known[path.suffix]


def _runnable(*, folders: bool = False) -> list[str]:
    """Return the suffixes of files with a header that some runtime reads, of all formats or of those in folders."""
    read = {suffix for runtime in runtimes().values() for suffix in runtime.reads}
    return [
        format.graph_suffix
        for format in formats().values()
        if format.read_header and format.graph_suffix in read and (format.graph or not folders)
    ]


def _graphs(folder: Path) -> list[Path]:
    suffixes = _runnable(folders=True)
    return sorted(file for file in folder.iterdir() if file.suffix in suffixes)
