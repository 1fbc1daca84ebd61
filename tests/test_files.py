"""Files arrive whole or not at all, at the end of every link, and never in the place of what is no file."""

import json
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossstage.errors import CrossStageError, DataError, TrainingError, WeightsError
from crossstage.files import (
    settled_folder,
    whole_file,
    whole_folder,
    whole_text,
    write_text,
)
from crossstage.scratch import remove_leftovers

as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def by_path(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


def by_line(path: Path, text: str) -> None:
    with whole_text(path) as file:
        for line in text.splitlines(keepends=True):
            file.write(line)


WRITERS = pytest.mark.parametrize("write", [by_path, by_line, write_text])


def tree(folder: Path) -> dict[str, str]:
    """Every entry of a folder: a file's text, a link's target, or what else it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = path.read_text() if stat.S_ISREG(mode) else oct(stat.S_IFMT(mode))
    return found


def device(path: Path, minor: int) -> Path:
    """A node of its own for one of the system's devices: 3 swallows everything, 7 is a full disk."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        path.open("wb").close()
    except PermissionError:
        pytest.skip("this user may not make devices")
    return path


@contextmanager
def limited_to(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# Whole or not at all


@WRITERS
def test_a_file_and_its_folders_appear(write, tmp_path):
    write(tmp_path / "deep" / "down" / "a.txt", "über\n")
    assert tree(tmp_path / "deep" / "down") == {"a.txt": "über\n"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, OSError(28, "No space left on device")])
@pytest.mark.parametrize("whole", [whole_file, whole_text, whole_folder])
@pytest.mark.parametrize("earlier", [True, False])
def test_what_goes_wrong_while_writing_leaves_everything_as_it_was(whole, error, earlier, tmp_path):
    path = tmp_path / ("there" if earlier else "new/folders") / "a"
    if earlier:
        path.parent.mkdir()
        path.mkdir() if whole is whole_folder else path.write_text("before")
    before = tree(tmp_path)
    with pytest.raises(DataError if isinstance(error, OSError) else error), whole(path) as place:
        if isinstance(place, Path):
            (place / "x" if place.is_dir() else place).write_text("half")
            (place.parent / "beside").write_text("half")
        else:
            place.write("half")
        raise error
    assert tree(tmp_path) == before


@WRITERS
def test_a_full_disk_keeps_the_earlier_file(write, tmp_path):
    (tmp_path / "a.txt").write_text("before")
    with limited_to(100), pytest.raises(DataError, match=r"a\.txt: cannot be written: File too large"):
        write(tmp_path / "a.txt", "line\n" * 100)
    assert tree(tmp_path) == {"a.txt": "before"}


@WRITERS
def test_a_reader_sees_the_earlier_file_until_the_new_one_is_complete(write, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with path.open() as open_before, whole_text(path) as file:
        file.write("after")
        file.flush()
        assert path.read_text() == "before"
    write(path, "later")
    assert path.read_text() == "later"
    assert open_before.closed


@as_user
@WRITERS
def test_a_read_only_folder_is_an_error(write, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match="cannot be written: Permission denied"):
        write(tmp_path / "a.txt", "new")


@WRITERS
def test_a_file_in_the_place_of_a_folder_is_an_error(write, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(DataError, match=r"a\.txt: cannot be written"):
        write(tmp_path / "file" / "a.txt", "new")
    assert tree(tmp_path) == {"file": "kept"}


def test_missing_folders_are_an_error_where_they_are_not_to_be_made(tmp_path):
    with (
        pytest.raises(WeightsError, match=r"nowhere/a: cannot be written: No such file"),
        whole_file(tmp_path / "nowhere" / "a", error=WeightsError, parents=False),
    ):
        pytest.fail("refused before anything is written")
    assert tree(tmp_path) == {}


# Names, permissions


@pytest.mark.parametrize("name", ["n" * 251 + ".txt", "ü" * 125 + ".txt", "a b [1]*?.txt", ".hidden", "\udcff.txt"])
@pytest.mark.parametrize("whole", [whole_file, whole_text, whole_folder])
def test_every_name_that_the_system_takes_is_taken(whole, name, tmp_path):
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system refuses the name")
    (tmp_path / name).unlink()
    with whole(tmp_path / name) as place:
        if whole is whole_file:
            place.touch()
    assert os.listdir(tmp_path) == [name]  # noqa: PTH208 (the very bytes)


def test_a_name_that_is_too_long_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be written: File name too long"):
        write_text(tmp_path / ("n" * 256), "")
    assert tree(tmp_path) == {}


@WRITERS
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_that_the_user_gives_to_new_files(write, mask, tmp_path):
    before = os.umask(mask)
    try:
        write(tmp_path / "a.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_an_earlier_file_or_folder_keeps_its_permissions(mode, tmp_path):
    (tmp_path / "a.txt").touch(mode)
    (tmp_path / "a.txt").chmod(mode)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(mode | 0o700)
    write_text(tmp_path / "a.txt", "new")
    with whole_folder(tmp_path / "folder"):
        pass
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == mode | 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_leaves_a_file_to_its_owner(tmp_path):
    (tmp_path / "a.txt").touch()
    os.chown(tmp_path / "a.txt", 1234, 2345)
    write_text(tmp_path / "a.txt", "new")
    found = (tmp_path / "a.txt").stat()
    assert (found.st_uid, found.st_gid, found.st_size) == (1234, 2345, 3)


# Links


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.sampled_from(["one", "two/three", ".", "two"]), st.booleans()), max_size=6),
    exists=st.booleans(),
    folder=st.booleans(),
)
def test_a_chain_of_links_of_any_kind_stays_and_its_end_is_replaced(lengths, exists, folder):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        (root / "two" / "three").mkdir(parents=True)
        (root / "one").mkdir()
        end = root / "two" / "end"
        if exists:
            end.mkdir() if folder else end.write_text("before")
        links, target = [], end
        for number, (where, relative) in enumerate(lengths):
            link = root / where / f"link{number}"
            link.symlink_to(os.path.relpath(target, link.parent) if relative else target)
            links, target = [*links, link], link
        before = [link.readlink() for link in links]
        if folder:
            with whole_folder(target) as place:
                (place / "inside").write_text("after")
        else:
            write_text(target, "after")
        assert [link.readlink() for link in links] == before
        assert not end.is_symlink()
        assert (end / "inside" if folder else end).read_text() == "after"
        assert len(list(root.rglob("*"))) == 3 + len(links) + 1 + folder


@WRITERS
def test_a_link_into_a_folder_that_is_missing_makes_it(write, tmp_path):
    (tmp_path / "link").symlink_to("missing/folder/a.txt")
    write(tmp_path / "link", "new")
    assert (tmp_path / "missing" / "folder" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("whole", [whole_file, whole_text, whole_folder])
def test_links_in_a_circle_are_an_error(whole, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "self").symlink_to("self")
    before = tree(tmp_path)
    for path in ("a", "self", "a/below", "self/below/deep"):
        with pytest.raises(DataError, match="cannot be written"), whole(tmp_path / path):
            pytest.fail("refused before anything is written")
    assert tree(tmp_path) == before


# What is no file


@WRITERS
def test_a_folder_is_refused(write, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    for name in ("folder", "link", "folder/.", "folder/.."):
        with pytest.raises(DataError, match="is a folder; expected a file"):
            write(tmp_path / name, "new")
    assert set(tree(tmp_path)) == {"folder", "link"}


@WRITERS
def test_a_socket_is_refused(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("here")
        with pytest.raises(DataError, match="is a socket; expected a file"):
            write(tmp_path / "here", "new")
        assert stat.S_ISSOCK((tmp_path / "here").stat().st_mode)


def test_the_error_is_the_callers(tmp_path):
    with pytest.raises(WeightsError, match="is a folder"), whole_file(tmp_path, error=WeightsError):
        pass
    with pytest.raises(TrainingError, match="is a folder"), whole_text(tmp_path, error=TrainingError):
        pass


@WRITERS
def test_a_device_is_written_to_and_stays(write, tmp_path):
    path = device(tmp_path / "device", 3)
    (tmp_path / "link").symlink_to("device")
    write(path, "swallowed")
    write(tmp_path / "link", "swallowed")
    assert stat.S_ISCHR(path.lstat().st_mode) and (tmp_path / "link").is_symlink()
    assert set(tree(tmp_path)) == {"device", "link"}


@WRITERS
def test_a_device_that_is_full_is_an_error_and_stays(write, tmp_path):
    path = device(tmp_path / "full", 7)
    with pytest.raises(DataError, match="full: cannot be written: No space left on device"):
        write(path, "too much")
    assert stat.S_ISCHR(path.lstat().st_mode) and set(tree(tmp_path)) == {"full"}


def test_a_disk_is_refused(tmp_path):
    try:
        os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    except PermissionError:
        pytest.skip("this user may not make devices")
    with pytest.raises(DataError, match="is a block device; expected a file"):
        write_text(tmp_path / "disk", "new")


@WRITERS
def test_a_pipe_gets_the_text_and_stays(write, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_text()))
    reader.start()
    write(tmp_path / "pipe", "one\ntwo\n")
    reader.join(10)
    assert found == ["one\ntwo\n"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and set(tree(tmp_path)) == {"pipe"}


def test_a_pipe_gets_every_line_when_it_is_written():
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, whole_text(Path(f"/dev/fd/{writing}")) as file:
        for line in ("first\n", "second\n"):
            file.write(line)
            assert reader.readline() == line
    os.close(writing)


def test_an_open_file_is_continued_where_it_stands(tmp_path):
    """As ``>> log`` and ``2>&1`` want it: nothing that was written to the same descriptor is lost."""
    with (tmp_path / "log").open("a") as log:
        log.write("before\n")
        log.flush()
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{log.fileno()}")
        for path in (tmp_path / "stdout", Path(f"/dev/fd/{log.fileno()}")):
            write_text(path, "ours\n")
            by_path(path, "spooled\n")
        log.write("after\n")
    assert (tmp_path / "log").read_text() == "before\n" + "ours\nspooled\n" * 2 + "after\n"


def test_a_descriptor_that_is_closed_or_read_from_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("kept")
    with (tmp_path / "a.txt").open() as file, pytest.raises(DataError, match="Bad file descriptor"):
        write_text(Path(f"/dev/fd/{file.fileno()}"), "new")
    with pytest.raises(DataError, match="Bad file descriptor"):
        write_text(Path("/dev/fd/987654"), "new")
    assert tree(tmp_path) == {"a.txt": "kept"}


STREAM = """
import itertools, sys
from pathlib import Path
from crossstage.files import whole_text
try:
    with whole_text(Path(sys.argv[1])) as file:
        for number in itertools.count():
            file.write(f"{number}\\n")
except BrokenPipeError:
    sys.exit(141)
"""


def test_a_reader_may_leave_a_stream_that_never_ends():
    command = '"$0" -c "$1" /dev/stdout | head -n 3; echo ${PIPESTATUS[0]}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, STREAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "0\n1\n2\n141\n"
    assert done.stderr == ""


def test_a_process_substitution_reads_what_is_written(tmp_path):
    program = "import sys; from pathlib import Path; from crossstage.files import *; write_text(Path(sys.argv[1]), 'x')"
    command = f'"$0" -c "$1" >(tr x y > {tmp_path}/out); wait $!'
    subprocess.run(["bash", "-c", command, sys.executable, program], check=True, timeout=60)
    assert (tmp_path / "out").read_text() == "y"


# Files that belong together


def write_three(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        for suffix in (".cfg", ".weights", ".names"):
            temporary.with_suffix(suffix).write_text(text)


def test_files_that_belong_together_arrive_together(tmp_path):
    write_three(tmp_path / "net.cfg", "new")
    assert tree(tmp_path) == dict.fromkeys(("net.cfg", "net.names", "net.weights"), "new")


@pytest.mark.parametrize("blocked", ["net.cfg", "net.names", "net.weights"])
def test_if_one_of_them_cannot_arrive_none_does(blocked, tmp_path):
    write_three(tmp_path / "net.cfg", "before")
    (tmp_path / blocked).unlink()
    (tmp_path / blocked).mkdir()
    before = tree(tmp_path)
    with pytest.raises(DataError, match="is a folder"):
        write_three(tmp_path / "net.cfg", "after")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("survives", [0, 1, 2])
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("earlier", [("net.cfg", "net.names", "net.weights"), ("net.cfg", "net.weights"), ()])
def test_if_one_cannot_be_renamed_the_others_return(survives, links, earlier, tmp_path, monkeypatch):
    for name in earlier:
        (tmp_path / name).write_text(f"before {name}")
    before, replace, left = tree(tmp_path), Path.replace, [survives]

    def fails_later(self: Path, target: Path) -> Any:
        if self.parent.parent == tmp_path and target.parent == tmp_path:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(5, "Input/output error")
        return replace(self, target)

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", fails_later)
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    with pytest.raises(DataError, match="Input/output error"):
        write_three(tmp_path / "net.cfg", "after")
    assert tree(tmp_path) == before


def test_each_of_them_follows_its_own_link(tmp_path):
    for folder in ("store", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "net.cfg").symlink_to("store/v1.cfg")
    (tmp_path / "net.weights").symlink_to("other/v1.weights")
    write_three(tmp_path / "net.cfg", "new")
    assert {name: text for name, text in tree(tmp_path).items() if text == "new"} == dict.fromkeys(
        ("store/v1.cfg", "other/v1.weights", "net.names"), "new"
    )
    assert (tmp_path / "net.cfg").is_symlink() and (tmp_path / "net.weights").is_symlink()
    assert len(tree(tmp_path)) == 7


def test_a_stream_takes_one_file(tmp_path):
    os.mkfifo(tmp_path / "net.names")
    with pytest.raises(DataError, match=r"net\.names: cannot be written: is a device or pipe"):
        write_three(tmp_path / "net.cfg", "new")
    with pytest.raises(DataError, match=r"one stream cannot take net\.cfg, too"):
        write_three(tmp_path / "net.names", "new")
    assert set(tree(tmp_path)) == {"net.names"}


# Folders


def fill(place: Path, names: str) -> None:
    for name in names:
        (place / name).write_text("new")


@settings(max_examples=30, deadline=None)
@given(st.none() | st.sets(st.sampled_from("abc")), st.sets(st.sampled_from("abc")))
def test_a_folder_replaces_one_that_holds_nothing_else(earlier, new):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "folder"
        if earlier is not None:
            path.mkdir()
            for file in earlier:
                (path / file).write_text("before")
        before = tree(Path(name))
        if earlier and earlier - new:
            with pytest.raises(DataError, match="already; expected a new folder"), whole_folder(path) as place:
                fill(place, new)
            assert tree(Path(name)) == before
        else:
            with whole_folder(path) as place:
                fill(place, new)
            assert tree(path) == dict.fromkeys(sorted(new), "new")
            assert os.listdir(name) == ["folder"]  # noqa: PTH208


def test_a_file_or_device_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "file", tmp_path / "pipe", Path("/dev/stdout")):
        with pytest.raises(DataError, match="is a file; expected a folder"), whole_folder(path):
            pytest.fail("refused before anything is written")
    assert set(tree(tmp_path)) == {"file", "pipe"}


def test_the_earlier_folder_returns_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("before")
    rename = Path.rename

    def fails(self: Path, target: Path) -> Any:
        if target == tmp_path / "folder" and self.name == "folder":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(DataError, match="Input/output error"), whole_folder(tmp_path / "folder") as place:
        fill(place, "a")
    assert tree(tmp_path) == {"folder": oct(stat.S_IFDIR), "folder/a": "before"}


def test_a_folder_named_by_its_content_is_made_once(tmp_path):
    def named(folder: Path) -> str:
        return "-".join(sorted(path.name for path in folder.iterdir()))

    first = settled_folder(tmp_path / "home", lambda place: fill(place, "ab"), named)
    assert (first, tree(first)) == (tmp_path / "home" / "a-b", {"a": "new", "b": "new"})
    (first / "a").write_text("of the first")
    assert settled_folder(tmp_path / "home", lambda place: fill(place, "ab"), named) == first
    assert tree(first) == {"a": "of the first", "b": "new"}


# Every writer of the package


def save_model(path: Path) -> None:
    from crossstage.models.spec import ModelSpec
    from crossstage.weights.model_file import write_model

    write_model(path, {"x": torch.arange(3.0)}, ModelSpec("csppeleenet", 3, ("a", "b", "c")))


def save_weights(path: Path) -> None:
    from crossstage.darknet.weights import Slot, WeightsHeader, save_slots

    save_slots(path, [Slot("layer", (torch.arange(3.0),))], WeightsHeader())


def save_checkpoint(path: Path) -> None:
    from crossstage.training.checkpoint import WholeFiles

    WholeFiles().save_checkpoint({"epoch": 1, "tensor": torch.arange(3.0)}, path)


def save_figure(path: Path) -> None:
    from matplotlib.figure import Figure

    from crossstage.evaluation.plots import save

    save(Figure(figsize=(1, 1)), path)


PACKAGE_WRITERS = pytest.mark.parametrize(
    ("save", "name", "error"),
    [
        (save_model, "a.safetensors", WeightsError),
        (save_weights, "a.weights", WeightsError),
        (save_checkpoint, "a.ckpt", TrainingError),
        (save_figure, "a.png", DataError),
    ],
)


@PACKAGE_WRITERS
def test_every_writer_follows_links_and_keeps_pipes(
    save: Callable[[Path], None], name: str, error: type[CrossStageError], tmp_path: Path
):
    save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).rename(tmp_path / "target")
    (tmp_path / name).symlink_to("target")
    (tmp_path / "target").write_text("before")
    save(tmp_path / name)
    assert (tmp_path / name).is_symlink() and (tmp_path / "target").read_bytes() == whole

    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    found = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / name).read_bytes()))
    reader.start()
    save(tmp_path / name)
    reader.join(10)
    assert found == [whole] and stat.S_ISFIFO((tmp_path / name).stat().st_mode)

    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    with pytest.raises(error, match="is a folder; expected a file"):
        save(tmp_path / name)
    (tmp_path / name).rmdir()
    assert set(tree_of_bytes(tmp_path)) == {"target"}


def tree_of_bytes(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


def test_what_a_killed_checkpoint_left_goes_with_the_next(tmp_path):
    program = (
        "import os; from pathlib import Path; from crossstage.files import whole_file\n"
        f"with whole_file(Path({str(tmp_path / 'state.ckpt')!r})) as place:\n    place.write_text('half'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    assert len(os.listdir(tmp_path)) == 1  # noqa: PTH208
    (tmp_path / "other.part").touch()
    remove_leftovers(tmp_path / "state.pt")
    assert len(os.listdir(tmp_path)) == 2  # noqa: PTH208
    save_checkpoint(tmp_path / "state.ckpt")
    assert sorted(tree_of_bytes(tmp_path)) == ["other.part", "state.ckpt"]


def test_the_command_line_writes_into_devices_and_through_links(tmp_path):
    """What ../shared/faults/26-json-replaces-device tells."""
    from crossstage.cli import main

    photo = Path(__file__).parents[1] / "examples" / "photos"
    photo = next(path for path in sorted(photo.iterdir()) if path.suffix == ".jpg")
    path = device(tmp_path / "null", 3)
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    for name in ("null", "link"):
        assert main(["predict", str(photo), "--json", str(tmp_path / name), "--imgsz", "64"]) == 0
    assert stat.S_ISCHR(path.lstat().st_mode) and (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "target").read_text())["source"] == str(photo)


def test_a_pipe_that_nobody_reads_is_refused_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("crossstage.files.PATIENCE", 0.1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no program has come to read the pipe"), whole_text(tmp_path / "pipe") as file:
        file.write("x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
