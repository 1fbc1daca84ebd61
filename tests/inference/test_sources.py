"""What Python and people hand over as a source: found, passed over and told, or refused with its type."""

import numpy as np
import pytest
import torch
from PIL import Image

from crossstage.errors import DataError
from crossstage.inference.predictor import Predictor
from crossstage.inference.run import predict_to_files, print_summary
from crossstage.inference.sources import Source, SourceImage, Unreadable, passed_over_text
from tests.inference.test_output import FixedBox


@pytest.mark.parametrize(
    "what",
    [
        torch.rand(3, 8, 8),
        torch.rand(()),
        b"bytes",
        bytearray(b"x"),
        {"a": 1},
        1.5,
        None,
        True,
        object(),
        [[1.5]],
        [True],
    ],
    ids=lambda what: type(what).__name__,
)
def test_other_types_are_refused_by_their_name(what):
    with pytest.raises(DataError, match=r"source of type \w+; expected a path, glob"):
        list(Source(what))


@pytest.mark.parametrize(
    "entries", [[torch.rand(3, 8, 8)], (x for x in [torch.rand(3, 8, 8)])], ids=["list", "generator"]
)
def test_an_entry_of_another_type_is_refused_too(entries):
    with pytest.raises(DataError, match="source of type Tensor"):
        list(Source(entries))


def test_path_like_things_are_paths(tmp_path):
    class Like:
        def __fspath__(self):
            return str(tmp_path / "a.png")

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert len(list(Source(Like()))) == len(list(Source([Like()]))) == 1


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "B.JPG", "JPEG")
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    for name in ("x.doc", "y.DOC", "z.heif", ".hidden.png", "._a.png", "Thumbs.db", "none"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_what_a_folder_holds_besides_is_counted(folder):
    source = Source(folder)
    assert source.total == 2 and source.passed_over["hidden"] == 3 and source.passed_over[".doc"] == 2
    assert passed_over_text(source.passed_over).startswith("passed over: 3 hidden, 2 .doc")


def test_globs_count_what_they_pass_over(folder):
    source = Source(str(folder / "*"))
    assert source.total == 2 and source.passed_over[".doc"] == 2


def test_a_run_tells_in_one_line_what_was_passed_over(folder, capsys):
    from crossstage.cli.console import console

    summary = predict_to_files(Predictor(FixedBox()), folder, progress=False)
    print_summary(summary, console())
    lines = [line for line in capsys.readouterr().out.splitlines() if "passed over" in line]
    assert len(lines) == 1 and "2 .doc" in lines[0]


def test_a_folder_without_images_says_what_is_there(tmp_path):
    (tmp_path / "a.doc").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no image or video in it \(passed over: 1 \.doc\)"):
        Source(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_windows_are_read(encoding, tmp_path):
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "sub" / "ä.png")
    (tmp_path / "list.txt").write_bytes("# comment\r\nsub\\ä.png\r\n\r\n".encode(encoding))
    (entry,) = Source(tmp_path / "list.txt")
    assert isinstance(entry, SourceImage)


def test_names_of_strangers_are_harmless_in_reasons_and_on_the_terminal(tmp_path, capsys):
    from crossstage.cli.console import console

    name = "a\x1b[31m\nerror: forged [red].png"
    (tmp_path / name).write_bytes(b"no image")
    Image.new("RGB", (64, 48)).save(tmp_path / f"b{name}")
    summary = predict_to_files(Predictor(FixedBox()), tmp_path, progress=False)
    assert isinstance(summary.unreadable[0], Unreadable) and "\x1b" not in summary.unreadable[0].reason
    print_summary(summary, console())
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and r"\x1b[31m\nerror: forged [red].png" in printed
    assert not [line for line in printed.splitlines() if line.startswith("error:")]


def test_a_grey_network_sees_grey():
    from crossstage.structures import Preprocessing

    pixels = torch.tensor([1.0, 0.5, 0.25]).view(3, 1, 1).expand(3, 2, 2)
    grey = Preprocessing((2, 2), colour_order="grey")
    assert grey.channels == 1
    assert torch.allclose(grey.normalise(pixels), torch.full((1, 2, 2), 0.299 + 0.587 / 2 + 0.114 / 4))
    assert grey.normalise(pixels[None]).shape == (1, 1, 2, 2)
    assert Preprocessing.from_dict(grey.to_dict()) == grey
    scaled = Preprocessing((2, 2), colour_order="grey", mean=(0.5, 9.0, 9.0), std=(2.0, 9.0, 9.0))
    assert torch.allclose(scaled.normalise(torch.ones(1, 3, 2, 2)), torch.full((1, 1, 2, 2), 0.25))


def test_arrays_are_taken_from_lists():
    assert len(list(Source([np.zeros((8, 8, 3), np.uint8)] * 2))) == 2


def test_pixels_that_nobody_asked_for_are_not_kept_until_results_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("crossstage.inference.pipeline.MOST_KEPT", 64 * 48)
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    for whole, shape in ((False, (27, 36)), (True, (480, 640))):
        (found,) = Predictor(FixedBox()).stream(Source(tmp_path), whole=whole)
        assert not isinstance(found, Unreadable)
        assert found.image.pixels.shape[:2] == shape and found.image.size == (480, 640)
        assert found.detections.metadata["width"] == 640
