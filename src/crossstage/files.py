"""Files that appear under their name when they are complete.

Every file of the package is written by :func:`whole_file`, :func:`whole_text` or :func:`whole_folder`: beside its
place, under a hidden name, and renamed when it is complete. A symbolic link stays, and what it leads to is replaced.
Devices, pipes and open descriptors (``/dev/stdout``) are written to; folders, sockets and disks are refused.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from crossstage.errors import CrossStageError, DataError
from crossstage.scratch import scratch_beside

PATIENCE = 10.0  # seconds that the reader of a named pipe may take to come
_MAX_LINKS = 40  # as Linux follows
_UNFIT = {stat.S_IFDIR: "folder", stat.S_IFSOCK: "socket", stat.S_IFBLK: "block device"}


@contextmanager
def whole_file(
    path: Path, *, error: type[CrossStageError] = DataError, parents: bool = True, durable: bool = False
) -> Iterator[Path]:
    """Yield a path to write to that becomes ``path`` at the end; nothing is left behind if writing fails.

    Files that are written beside the yielded path arrive beside ``path``, all of them or none. An earlier file's
    permissions are kept. What is written for a device or a pipe is copied into it at the end; where nobody reads a pipe
    any more, Python's ``BrokenPipeError`` says so, and programs that write into pipes end without a word.

    Args:
        path: The file; the yielded path has the same name.
        error: The type of the error that is raised if the file cannot be written.
        parents: Make the folders that lead to the file if they are missing.
        durable: Wait until the content is on the disk before the earlier file is given up.

    Raises:
        CrossStageError: Of the given type: the file cannot be written, or ``path`` is a folder, socket or disk.
    """
    with _reported(path, error):
        place = _destination(path, error)
        if isinstance(place, int) or _is_stream(place, error):
            with tempfile.TemporaryDirectory(prefix="crossstage-") as folder:
                temporary = Path(folder) / path.name
                yield temporary
                if others := _others(temporary):
                    raise error(f"{path}: one stream cannot take {others[0].name}, too; expected a file's name")
                with temporary.open("rb") as source, _open_stream(place, "wb") as target:
                    shutil.copyfileobj(source, target)
            return
        with _folders_for(place, make=parents), scratch_beside(place) as folder, ExitStack() as elsewhere:
            temporary = folder / path.name
            yield temporary
            new = [(other, _regular(path.with_name(other.name), error)) for other in _others(temporary)]
            new = [(_moved_near(file, target, elsewhere), target) for file, target in new]
            _put_in_place([*new, (temporary, place)], durable=durable)


@contextmanager
def whole_text(path: Path, *, error: type[CrossStageError] = DataError) -> Iterator[IO[str]]:
    """Yield a text file, UTF-8, that appears at the end; a device or a pipe gets every line when it is written.

    Args:
        path: The file.
        error: The type of the error that is raised if the file cannot be written.

    Raises:
        CrossStageError: Of the given type: the file cannot be written, or ``path`` is a folder, socket or disk.
    """
    with _reported(path, error):
        place = _destination(path, error)
        if isinstance(place, int) or _is_stream(place, error):
            with _open_stream(place, "w", buffering=1, encoding="utf-8", errors="replace") as stream:
                yield stream
            return
    with (
        whole_file(path, error=error) as temporary,
        temporary.open("w", encoding="utf-8", errors="replace") as file,
    ):
        yield file


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill that becomes ``path`` at the end; nothing is left behind if that fails.

    An earlier folder of that name is replaced, and its permissions kept, if it holds no other files than the new one.

    Args:
        path: The folder; the yielded path has the same name.

    Raises:
        DataError: The folder cannot be written, or something else is in its place.
    """
    with _reported(path, DataError):
        place = _destination(path, DataError)
        if isinstance(place, int) or (place.exists() and not place.is_dir()):
            raise DataError(f"{path}: is a file; expected a folder, or a name that is free")
        with _folders_for(place), scratch_beside(place) as scratch:
            temporary = scratch / (path.name or place.name)
            temporary.mkdir()
            yield temporary
            if not place.exists():
                temporary.rename(place)
                return
            if others := {file.name for file in place.iterdir()} - {file.name for file in temporary.iterdir()}:
                raise DataError(f"{path}: holds {', '.join(sorted(others)[:3])} already; expected a new folder")
            earlier = place.rename(Path(tempfile.mkdtemp(dir=scratch), "earlier"))
            try:
                temporary.rename(place)
            except BaseException:
                earlier.rename(place)
                raise
            _take_permissions(place, earlier)


def settled_folder(home: Path, fill: Callable[[Path], None], name: Callable[[Path], str]) -> Path:
    """Fill a folder, then give it a name that depends on its content.

    Of several processes that make the same folder at once the first one's is kept.

    Args:
        home: Where the folder goes; made if it is missing.
        fill: Fills an empty folder.
        name: Returns the name of a folder that is filled.

    Returns:
        The folder.

    Raises:
        OSError: The folder cannot be written.
    """
    home.mkdir(parents=True, exist_ok=True)
    with scratch_beside(home / "new") as scratch:
        made = scratch / "new"
        made.mkdir()
        fill(made)
        place = home / name(made)
        try:
            made.rename(place)
        except OSError:
            if not place.is_dir():  # or another process was as fast
                raise
    return place


def write_text(path: Path, text: str) -> None:
    """Write a whole text as UTF-8.

    Raises:
        DataError: The file cannot be written.
    """
    with whole_text(path) as file:
        file.write(text)


@contextmanager
def _reported(path: Path, error: type[CrossStageError]) -> Iterator[None]:
    """Turn what the system refuses into an error that names the file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as refused:
        raise error(f"{path}: cannot be written: {refused.strerror or refused}") from None


def _destination(path: Path, error: type[CrossStageError]) -> Path | int:
    """Follow symbolic links to the place of a file, or to the number of an open descriptor.

    ``/dev/stdout`` ends as ``/proc/self/fd/1``, whose own link must not be followed: the file that it names may be
    open for appending, or have no name any more.
    """
    descriptors = ("/dev/fd", os.path.realpath("/proc/self/fd"))
    place = path
    for _ in range(_MAX_LINKS):
        folder = os.path.realpath(place.parent)
        if folder in descriptors and place.name.isdecimal():
            return int(place.name)
        place = Path(folder, place.name)
        if not place.is_symlink():
            return place
        place = Path(folder, place.readlink())
    raise error(f"{path}: cannot be written: its symbolic links lead to no file")


def _is_stream(place: Path, error: type[CrossStageError]) -> bool:
    """Return whether a place is a character device or a pipe; refuse what is neither these, a file nor free."""
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        return False
    if what := _UNFIT.get(stat.S_IFMT(mode)):
        raise error(f"{place}: cannot be written: is a {what}; expected a file")
    return not stat.S_ISREG(mode)


def _regular(path: Path, error: type[CrossStageError]) -> Path:
    """Return the place of one of several files that belong together, none of which can be a stream."""
    place = _destination(path, error)
    if isinstance(place, int) or _is_stream(place, error):
        raise error(f"{path}: cannot be written: is a device or pipe; expected a file")
    return place


def _open_stream(place: Path | int, mode: str, **options: Any) -> IO[Any]:
    """Open a device or pipe; of a descriptor a copy, which shares its position and outlives nothing of ours."""
    if isinstance(place, int):
        return os.fdopen(os.dup(place), mode, **options)
    return os.fdopen(_open_pipe(place), mode, **options) if place.is_fifo() else place.open(mode, **options)


def _open_pipe(place: Path) -> int:
    """Open a named pipe for writing; without patience that would wait for ever where nobody reads it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            descriptor = os.open(place, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        else:
            os.set_blocking(descriptor, True)
            return descriptor
        if time.monotonic() > until:
            raise OSError(errno.ENXIO, f"no program has come to read the pipe in {PATIENCE:g} s")
        time.sleep(0.02)


@contextmanager
def _folders_for(place: Path, *, make: bool = True) -> Iterator[None]:
    """Make the folders that lead to a place, and remove them again if nothing comes of it."""
    missing = [folder for folder in place.parents if not folder.exists()] if make else []
    try:
        if make:
            place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def _others(temporary: Path) -> list[Path]:
    """Return what was written beside a file, in the order of the names."""
    return sorted(set(temporary.parent.iterdir()) - {temporary})


def _moved_near(file: Path, target: Path, stack: ExitStack) -> Path:
    """Return a file where renaming it to its target is possible: in the same folder, so on the same file system."""
    if file.parent.parent == target.parent:
        return file
    return Path(shutil.move(file, stack.enter_context(scratch_beside(target)) / file.name))


def _put_in_place(files: list[tuple[Path, Path]], *, durable: bool) -> None:
    """Rename files to their targets: all, or none if one of them cannot be renamed."""
    for file, target in files:
        if durable:
            _flush(file)
        _take_permissions(file, target)
    done: list[tuple[Path, Path | None]] = []
    try:
        for file, target in files:
            done.append((target, _linked(target, file) if len(files) > 1 else None))
            file.replace(target)
    except BaseException:
        for target, earlier in done[:-1]:
            with suppress(OSError):
                earlier.replace(target) if earlier else target.unlink()
        raise
    if durable:
        for folder in {target.parent for _, target in files}:
            with suppress(OSError):  # not every file system can
                _flush(folder)


def _linked(target: Path, file: Path) -> Path | None:
    """Return a second name for an earlier file, under which it outlives being replaced; None if there is none."""
    if not target.exists():
        return None
    earlier = Path(tempfile.mkdtemp(dir=file.parent), "earlier")
    try:
        earlier.hardlink_to(target)
    except OSError:  # not every file system can
        shutil.copy2(target, earlier)
    return earlier


def _take_permissions(new: Path, earlier: Path) -> None:
    """Give a new file or folder the owner, as far as that is allowed, and the permissions of an earlier one."""
    try:
        before, now = earlier.stat(), new.stat()
    except FileNotFoundError:
        return
    if (before.st_uid, before.st_gid) != (now.st_uid, now.st_gid):
        with suppress(OSError):
            os.chown(new, before.st_uid, before.st_gid)
    new.chmod(stat.S_IMODE(before.st_mode) & 0o777)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
