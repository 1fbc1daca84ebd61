"""The files of a folder: endings in any case, links once, hidden files left out and counted."""

import os
import time

import pytest

from crossstage.errors import DataError
from crossstage.reading.finding import beside, find_files


def made(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def names(found, folder):
    return [file.relative_to(folder).as_posix() for file in found.files]


def test_endings_are_compared_without_case_and_what_is_left_is_counted(tmp_path):
    made(tmp_path, "b.JPG", "a.jpg", "sub/c.Jpg", "sub/d.mts", "e.MTS", "readme", ".hidden.jpg", "._a.jpg", "Thumbs.db")
    made(tmp_path, "__MACOSX/a.jpg", "@eaDir/a.jpg", ".cache/x.jpg", "desktop.ini")
    found = find_files(tmp_path, (".jpg", ".png"))
    assert names(found, tmp_path) == ["a.jpg", "b.JPG", "sub/c.Jpg"]
    assert found.passed_over == {".mts": 2, "hidden": 7, "no ending": 1}
    assert names(find_files(tmp_path, (".jpg",), deep=False), tmp_path) == ["a.jpg", "b.JPG"]


def test_the_folder_itself_may_be_hidden(tmp_path):
    made(tmp_path / ".data", "a.jpg")
    assert len(find_files(tmp_path / ".data", (".jpg",)).files) == 1


def test_links_are_followed_and_each_real_folder_is_entered_once(tmp_path):
    made(tmp_path, "store/1.jpg", "store/deep/2.jpg", "set/own/3.jpg")
    for link, target in (("a", "../store"), ("b", "../store"), ("c", "own"), ("up", ".."), ("self", "."), ("x", "y")):
        (tmp_path / "set" / link).symlink_to(target)
    (tmp_path / "set" / "one.jpg").symlink_to("../store/1.jpg")
    (tmp_path / "store" / "round").symlink_to("../set")
    found = find_files(tmp_path / "set", (".jpg",))
    assert names(found, tmp_path / "set") == ["a/1.jpg", "a/deep/2.jpg", "one.jpg", "own/3.jpg"]
    assert found.passed_over == {"broken link": 1, "linked again": 5}


def test_what_is_no_file_is_counted(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    assert find_files(tmp_path, (".jpg",)).passed_over == {"no file": 1}


@pytest.mark.parametrize("name", ["nothing", "file", "n" * 300, "a\0b"])
def test_what_is_no_folder_is_refused(name, tmp_path):
    made(tmp_path, "file")
    with pytest.raises(DataError, match="expected a folder"):
        find_files(tmp_path / name, (".jpg",))


def test_the_order_is_that_of_sorted_paths(tmp_path):
    made(tmp_path, "b/1.jpg", "b-a/1.jpg", "b.jpg", "a/z/1.jpg", "a/2.jpg", "é.jpg")
    found = find_files(tmp_path, (".jpg",)).files
    assert list(found) == sorted(tmp_path.rglob("*.jpg"))


def test_a_file_beside_another_is_found_in_any_case(tmp_path):
    made(tmp_path, "a.JPG", "a.png", "b.c.Png", "no.txt")
    assert beside(tmp_path / "a", (".jpg", ".png")) == tmp_path / "a.JPG"
    assert beside(tmp_path / "a", (".png", ".jpg")) == tmp_path / "a.png"
    assert beside(tmp_path / "b.c", {".png"}) == tmp_path / "b.c.Png"
    assert beside(tmp_path / "no", (".png",)) is None
    assert beside(tmp_path / "missing" / "x", (".png",)) is None


def test_a_file_that_came_later_is_found_and_one_that_went_is_not(tmp_path):
    made(tmp_path, "a.jpg")
    time.sleep(0.25)
    assert beside(tmp_path / "b", (".jpg",)) is None
    made(tmp_path, "b.jpg")
    assert beside(tmp_path / "b", (".jpg",)) == tmp_path / "b.jpg"
    (tmp_path / "b.jpg").unlink()
    assert beside(tmp_path / "b", (".jpg",)) is None


def test_many_files_are_looked_up_in_time_that_does_not_grow_with_the_folder(tmp_path):
    made(tmp_path, *(f"{i}.JPG" for i in range(500)))
    time.sleep(0.25)
    start = time.process_time()
    assert all(beside(tmp_path / str(i), (".jpg", ".png", ".tif")) for i in range(500))
    assert time.process_time() - start < 1


def test_accents_of_one_character_and_of_two_are_the_same(tmp_path):
    two = "u\u0308"  # as macOS writes an umlaut
    made(tmp_path, f"{two}.jpg")
    assert beside(tmp_path / "\u00fc", (".jpg",)) == tmp_path / f"{two}.jpg"
