"""The page of a dataset: which images are handed out in which order, and what the server refuses."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.data.find import find_data
from crossstage.errors import ConfigError, DataError
from crossstage.viewing.gallery import Gallery, Wish
from crossstage.viewing.judging import judge
from crossstage.viewing.rendering import Renderings
from crossstage.viewing.server import DataView
from tests.viewing.doubles import SIDE, SQUARES, Brightest, Told, draw_squares

CAT, DOG = 0, 1
FINDINGS = [
    [
        (CAT, 0.9, (10, 10, 30, 30)),
        (DOG, 0.8, (100, 100, 150, 150)),
        (CAT, 0.2, (0, 0, 9, 9)),
    ],  # a: right, one too weak
    [(CAT, 0.7, (20, 20, 140, 140)), (DOG, 0.6, (150, 150, 190, 190))],  # b: a wrong class and one of nothing
    [],  # c: missed
    [],  # d: nothing there
]


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return draw_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="module")
def labels(squares):
    return Gallery(find_data(squares))


@pytest.fixture(scope="module")
def judged(squares):
    return Gallery(find_data(squares), Told(FINDINGS), model_name="told")


@pytest.fixture(scope="module")
def view(judged):
    with DataView(0) as view:
        view.show(judged)
        yield view


def ask(view, path: str, host: str | None = None, method: str = "GET"):
    connection = http.client.HTTPConnection("127.0.0.1", view.port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def content(view, path: str):
    status, _, body = ask(view, path)
    assert status == 200, body
    return json.loads(body)


def names(gallery: Gallery, **wish) -> str:
    return "".join(Path(gallery.told(number)["name"]).stem for number in gallery.chosen(Wish(**wish)).tolist())


def test_images_are_chosen_by_class_and_size_of_the_same_object(labels):
    assert names(labels) == "abcd"
    assert names(labels, class_id=CAT) == "ac" and names(labels, class_id=DOG) == "ab"
    assert names(labels, size="small") == "a"
    assert names(labels, size="medium") == "ac" and names(labels, size="large") == "b"
    assert names(labels, class_id=DOG, size="small") == ""  # a has a small object and a dog
    assert names(labels, order="objects") == "abcd"


def test_the_worst_images_come_first_and_errors_are_told_apart(judged):
    assert names(judged, order="worst") == "bcad"
    assert names(judged, error="missed") == "c"
    assert names(judged, error="false") == names(judged, error="wrong") == "b"
    assert names(judged, error="any", order="worst") == "bc"
    assert names(judged, class_id=CAT) == "abc"  # b, where one is found that is none
    told = judged.told(1)
    assert told["errors"] == {"missed": 0, "false": 1, "wrong": 1}
    assert [row[5] for row in told["boxes"]] == ["wrong"] and [row[5] for row in told["found"]] == ["wrong", "false"]
    assert [row[5] for row in judged.told(0)["found"]] == ["right", "right"]


def test_each_object_is_taken_once_and_a_crowd_counts_for_nothing():
    box = np.array([[0.0, 0, 10, 10]])
    twice = np.repeat(box, 2, 0)
    states, objects = judge(twice, np.zeros(2, int), np.array([0.3, 0.9]), box, np.zeros(1, int), np.zeros(1, bool))
    assert states.tolist() == ["false", "right"] and objects.tolist() == ["found"]
    states, objects = judge(box, np.zeros(1, int), np.ones(1), box, np.zeros(1, int), np.ones(1, bool))
    assert states.tolist() == ["ignored"] and objects.tolist() == ["crowd"]
    states, objects = judge(box, np.ones(1, int), np.ones(1), box + 6, np.zeros(1, int), np.zeros(1, bool))
    assert states.tolist() == ["false"] and objects.tolist() == ["missed"]


def test_faults_belong_to_their_images(tmp_path):
    for name in ("one", "two", "three"):
        for kind in ("images", "labels"):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "images" / "train" / f"{name}.png")
        (tmp_path / "labels" / "train" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "labels" / "train" / "two.txt").write_text("0 0.5 0.5 0.5 0.5\n0 0.5 x 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: images/train\nnames: [thing]\n")
    gallery = Gallery(find_data(tmp_path))
    assert names(gallery, fault="any") == "two" and names(gallery, order="faults")[:3] == "two"
    (kind,) = [number for number, kind in enumerate(gallery.about()["kinds"]) if kind["images"]]
    assert names(gallery, fault=str(kind)) == "two"
    (number,) = gallery.chosen(Wish(fault="any"))
    assert gallery.told(int(number))["faults"][0].startswith("line 2: ")


@pytest.mark.parametrize("wish", [{"size": "huge"}, {"part": "x"}, {"class_id": 2}, {"fault": "7"}, {"order": "x"}])
def test_unknown_words_are_refused(labels, wish):
    with pytest.raises(ConfigError):
        labels.chosen(Wish(**wish))


def test_an_image_that_cannot_be_read_stays_on_the_page(tmp_path):
    draw_squares(tmp_path)
    source = find_data(tmp_path)
    source.read(next(iter(source.parts)))
    (tmp_path / "images" / "c.png").write_bytes(b"no image")
    gallery = Gallery(source, Told([FINDINGS[0], FINDINGS[1], []]))
    assert names(gallery, order="worst")[0] == "b" and names(gallery, fault="any") == "c"
    with pytest.raises(DataError, match=r"c\.png"):
        Renderings(gallery).small(2)


def test_a_model_of_another_task_is_refused(colours, squares):
    with pytest.raises(ConfigError, match="labels without boxes"):
        Gallery(find_data(colours), Told([]), model_name="told")
    with pytest.raises(ConfigError, match="holds boxes"):
        Gallery(find_data(squares), object(), model_name="plain")


def test_images_of_classes_have_their_label(colours):
    gallery = Gallery(find_data(colours))
    assert len(gallery.chosen(Wish(part="val"))) == 21
    reds = gallery.chosen(Wish(part="val", class_id=gallery.class_names.index("red")))
    assert len(reds) == 7
    assert all(gallery.class_names[gallery.told(n)["label"]] == "red" for n in reds.tolist())
    assert Image.open(BytesIO(Renderings(gallery).small(int(reds[0])))).size == (48, 40)


def test_images_that_are_taken_for_another_class_come_first(colours):
    gallery = Gallery(find_data(colours), Brightest(), model_name="brightest")
    wrong = gallery.chosen(Wish(part="val", error="any", order="worst")).tolist()
    assert len(wrong) == 7 and gallery.chosen(Wish(part="val", order="worst"))[:7].tolist() == wrong
    told = gallery.told(wrong[0])
    assert gallery.class_names[told["label"]] == "blue" and gallery.class_names[told["guesses"][0][0]] == "green"
    assert told["errors"] == {"missed": 0, "false": 0, "wrong": 1}
    greens = Wish(part="val", class_id=gallery.class_names.index("green"))
    assert len(gallery.chosen(greens)) == 14  # what is green, and what is taken for it


def test_what_is_kept_is_bounded(labels):
    kept = Renderings(labels, kept=2000)
    for number in range(len(labels)):
        kept.whole(number)
        kept.small(number)
    assert 0 < kept.kept <= 2000


def test_masks_are_laid_where_the_objects_are(labels):
    mask = Image.open(BytesIO(Renderings(labels).masks(0, found=False))).convert("RGBA")
    assert mask.size == (SIDE, SIDE)
    assert [mask.getpixel(at)[3] > 0 for at in ((5, 5), (20, 20), (120, 120), (99, 99))] == [False, True, True, False]
    assert mask.getpixel((20, 20))[:3] != mask.getpixel((120, 120))[:3]
    with pytest.raises(DataError, match="no masks"):
        Renderings(labels).masks(3, found=False)


def test_the_server_answers_with_pages_images_and_numbers(view):
    for path, kind in (("/", "text/html"), ("/page.js", "text/javascript"), ("/page.css", "text/css")):
        status, headers, body = ask(view, path)
        assert (
            status == 200
            and headers["Content-Type"].startswith(kind)
            and b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        )
    assert content(view, "/about")["classes"] == ["cat", "dog"]
    found = content(view, "/images?order=worst&from=1&count=2")
    assert found["total"] == 4 and [image["number"] for image in found["images"]] == [2, 0]
    status, headers, body = ask(view, "/small/0")
    assert status == 200 and headers["Content-Type"] == "image/jpeg" and Image.open(BytesIO(body)).size == (SIDE, SIDE)
    assert ask(view, "/whole/0")[0] == ask(view, "/masks/0")[0] == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        *("/small/4", "/small/-1", "/small/1/", "/small/%2e%2e/x", "/small/99999999999", "/found/0"),
        *("/../labels.json", "/etc/passwd", "/labels.json", "/page.html", "//["),
    ],
)
def test_nothing_is_handed_out_by_path(view, path):
    status, _, body = ask(view, path)
    assert status == 404 and json.loads(body)["detail"]


@pytest.mark.parametrize("query", ["size=x", "class=-1", "class=x", "from=x", "count=1e3", "fault=%00", "a=1&" * 30])
def test_wrong_queries_are_told(view, query):
    status, _, body = ask(view, f"/images?{query}")
    assert status == 400 and json.loads(body)["detail"]


def test_the_server_answers_to_its_own_name_alone(view):
    assert ask(view, "/about", host=f"localhost:{view.port}")[0] == 200
    for host in (
        "evil.example",
        f"evil.example:{view.port}",
        f"127.0.0.1.evil.example:{view.port}",
        "[",
        "localhost@x",
    ):
        assert ask(view, "/about", host=host)[0] == 421
        assert ask(view, "/small/0", host=host)[0] == 421
    assert ask(view, "/about", method="POST")[0] == 501


def test_a_port_in_use_is_one_line(view):
    with pytest.raises(ConfigError, match=f"port {view.port} of 127.0.0.1 is in use"):
        DataView(view.port)
    with pytest.raises(ConfigError, match="from 0 to 65535"):
        DataView(70000)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_verb_prints_the_address_and_ends_well(squares, number):
    command = [sys.executable, "-m", "crossstage", "data", "view", str(squares), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as run:
        assert run.stdout and run.stderr
        line = run.stdout.readline()
        assert line.startswith("http://127.0.0.1:") and f"{len(SQUARES)} images" in line
        port = int(line.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), 5):  # held open, as browsers do
            run.send_signal(number)
            assert run.wait(10) == 0
        assert "Traceback" not in run.stderr.read()
