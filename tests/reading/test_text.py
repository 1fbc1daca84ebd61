"""Texts of any tool: encodings, line ends, bounds; and text of strangers, shown."""

import os

import numpy as np
import pytest

from crossstage.errors import ConfigError, DataError
from crossstage.reading.text import read_lines, read_text, shown, visible

WANTED = {"expected": "a name in each line", "max_bytes": 1000}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_with_their_marks_and_all_line_ends_are_read(encoding, end, tmp_path):
    (tmp_path / "a.txt").write_bytes(end.join(["Größe", "猫", "", "x y"]).encode(encoding))
    assert read_lines(tmp_path / "a.txt", **WANTED) == ["Größe", "猫", "", "x y"]


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xfe\xff", "utf-16-be"), (b"\x00\x00\xfe\xff", "utf-32-be")])
def test_big_endian_marks_are_heeded(mark, encoding, tmp_path):
    (tmp_path / "a.txt").write_bytes(mark + "añb".encode(encoding))
    assert read_text(tmp_path / "a.txt", **WANTED) == "añb"


def test_unicodes_other_line_ends_stay_in_their_line(tmp_path):
    (tmp_path / "a.txt").write_text("a\u2028b\x0bc\x85d\n", "utf-8")
    assert read_lines(tmp_path / "a.txt", **WANTED) == ["a\u2028b\x0bc\x85d"]


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "a.txt").touch()
    assert read_lines(tmp_path / "a.txt", **WANTED) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ok\r\nGr\xf6\xdfe", r"a\.txt:2: byte 7 \(0xf6\) is no UTF-8; expected a name"),
        (b"\xef\xbb\xbfa\n\xff", r"a\.txt:2: byte 6 \(0xff\)"),
        (b"\xff\xfea\0b", r"a\.txt:1: byte 5 .* is no UTF-16"),
        (b"ok\nzw\0ei", r"a\.txt:2: binary data"),
        (b"x" * 1001, r"longer than 1,000 bytes"),
    ],
)
def test_what_is_no_text_is_told_by_line_and_byte(content, message, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_lines(tmp_path / "a.txt", ConfigError, **WANTED)


def test_what_is_no_file_is_refused_without_being_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("pipe", "is a device, pipe or socket"),
        (".", "is a folder"),
        ("no", "No such file"),
        ("n" * 5000, "name too long"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            read_text(tmp_path / name, **WANTED)
        assert len(str(caught.value)) < 500


def test_what_a_terminal_would_obey_is_made_visible():
    name = "a\x1b[31m\nerror: b\u202ec\udcff\x9b\u2066"
    assert visible(name) == r"a\x1b[31m\nerror: b\u202ec\udcff\x9b\u2066"
    assert visible("Größe 猫 [red] \\") == "Größe 猫 [red] \\"


def test_values_are_shown_cut_whatever_they_are():
    class Angry:
        def __repr__(self):
            raise RuntimeError("no")

    circle: list = []
    circle.append(circle)
    nested: list = ["x"]
    for _ in range(30):
        nested = [nested] * 10
    for value in (circle, nested, Angry(), "é" * 10_000, 10**5000, np.zeros(9), {i: i for i in range(99)}, b"a" * 999):
        assert 0 < len(shown(value)) <= 82
    assert (shown("ab\n"), shown(3), shown([1, "b"])) == (r"'ab\n'", "3", "[1, 'b']")
