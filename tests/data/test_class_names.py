"""Class names as people and attackers write them: read as text, shown as they are, and harmless."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from crossstage.cli import main
from crossstage.data.class_names import as_label, class_name, distinct, odd_names, read_class_names
from crossstage.data.find import find_data
from crossstage.data.plots import class_counts, plot_boxes, plot_classes
from crossstage.errors import DataError
from crossstage.evaluation.plots import confusion_title, plot_confusion, plot_precision_recall, save

NASTY = [
    "[/red]",
    "[b]x",
    r"$\frac$",
    "a$b",
    "_hidden",
    "\ud800",
    "\x1b[31mred",
    "two\nlines",
    "日本",
    "x" * 900,
    "{x}",
    "%s",
]


@pytest.fixture
def nasty(tmp_path) -> Path:
    """One box of each class of a COCO file, two of which have one name."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    names = [*NASTY, "twice", "twice", "Case", "case"]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 90, "height": 60}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": n, "bbox": [n, n, 30, 20], "iscrowd": 0} for n in range(len(names))
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    return tmp_path


def test_names_are_text_that_every_place_can_hold(nasty, tmp_path):
    data = find_data(nasty).read("train")
    assert data.class_names[:5] == tuple(NASTY[:5])
    assert data.class_names[5:9] == (r"\ud800", r"\x1b[31mred", r"two\nlines", "日本")
    json.dumps(data.class_names, ensure_ascii=False).encode()
    assert list(class_counts(data).items())[-4:] == [("twice", 1), ("twice (2)", 1), ("Case", 1), ("case", 1)]
    curves = {name: np.linspace(1, 0, 101) for name in distinct(data.class_names)[:12]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(plot_classes({"train": class_counts(data)}), tmp_path / "classes.png")
        matrix = np.eye(len(data.class_names) + 1, dtype=np.int64)
        save(plot_confusion(matrix, [*data.class_names, "nothing"], confusion_title()), tmp_path / "confusion.png")
        save(plot_precision_recall(curves), tmp_path / "curves.png")


def test_names_are_printed_and_reported_without_effect(nasty, capsys):
    assert main(["data", "check", str(nasty), "--json", str(nasty / "r.json")]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "classes 12, 13 are all called 'twice'; they stay apart" in told
    assert "classes 'Case', 'case' differ in the case of letters alone" in told
    assert r"\x1b[31mred" in told
    assert json.loads((nasty / "r.json").read_text())["parts"][0]["per_class"]["twice (2)"] == 1


@pytest.mark.slow
def test_statistics_of_any_names_are_drawn_and_printed(nasty, capsys):
    assert main(["data", "stats", str(nasty), "--imgsz", "64", "--out", str(nasty / "stats")]) == 0
    printed = capsys.readouterr().out
    assert "[/red]" in printed and r"$\frac$" in printed


@pytest.mark.parametrize("name", ["", "  ", None, 1.5, True, ["a"], "x" * 1001])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(DataError, match="expected a text of up to 1000 characters"):
        class_name(name)


def test_lists_of_names_have_no_gaps(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_bytes("cat\r\n dog \r\n\r\n".encode("utf-16"))
    assert read_class_names(file) == ("cat", "dog")
    file.write_text("cat\n\ndog\n")
    with pytest.raises(DataError, match=r"classes\.txt:2: name ''"):
        read_class_names(file)
    file.write_text("\n")
    with pytest.raises(DataError, match="empty; expected a class name"):
        read_class_names(file)


def test_labels_of_plots_are_no_formulas_and_not_left_out():
    assert as_label("a$b$") == r"a\$b\$"
    assert as_label("_x") == " _x"
    assert as_label("x" * 50) == "x" * 39 + "…"
    assert distinct(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]
    assert odd_names(["a", "b"]) == []


def test_a_confusion_matrix_says_what_it_counts():
    figure = plot_confusion(np.eye(2, dtype=np.int64), ["a", "nothing"], confusion_title())
    assert figure.axes[0].get_title() == "objects by class: detections of at least 0.25, IoU 0.5"


def test_box_sizes_have_a_whole_title_and_ticks_apart():
    sizes = np.random.default_rng(0).uniform(20, 60, (50, 2))
    title = "cspdarknet53_tiny_yolo.coco at 416: mean IoU 0.512, recall 0.498 and more words than have room"
    figure = plot_boxes(sizes, sizes[:3], title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    (axes,) = figure.axes
    box = axes.title.get_window_extent(renderer)
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    assert axes.get_title().replace("\n", " ") == title
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_text()]
        places = [tick.label1.get_window_extent(renderer) for tick in ticks]
        assert len(places) >= 2
        assert not any(one.overlaps(other) for n, one in enumerate(places) for other in places[:n])
        assert not any(label.get_text() for label in axis.get_minorticklabels())
