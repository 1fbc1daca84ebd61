"""The page of a server, used in a real browser as people use it."""

import os
import re
import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import Error, Page, sync_playwright

from crossstage.deploy.open import Opened
from crossstage.models.classifier import Classifier
from crossstage.serving.served import Served
from crossstage.structures import Preprocessing
from crossstage.weights.loading import create_model
from tests.serving.doubles import Halves, image, running, served

pytestmark = pytest.mark.slow

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
PIXEL = "([x, y]) => [...document.getElementById('canvas').getContext('2d').getImageData(x, y, 1, 1).data]"


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        try:
            opened = play.chromium.launch(executable_path=found, args=[*ARGUMENTS, *CAMERA])
        except Error as error:
            pytest.skip(f"there is no browser: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def port():
    backbone = create_model("cspdarknet_x_nano", num_classes=7).backbone
    letters = Classifier(backbone, 7, preprocessing=Preprocessing((32, 32)), class_names=tuple("abcdefg")).eval()
    hostile = Halves()
    hostile.class_names = ("<img src=x onerror=alert(1)>", "right")
    models = served(), served("masked", Halves(masks=True)), served("<b>hostile", hostile)
    with running(*models, Served("letters", Opened("torch", classifier=letters))) as taken:
        yield taken


@contextmanager
def at(browser, port: int, **settings):
    """Open the page; at the end it has complained of nothing and has asked nobody else."""
    page: Page = browser.new_context(viewport={"width": 1200, "height": 900}, **settings).new_page()
    told, asked = [], []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_function("() => document.getElementById('model').options.length > 0")
    page.asked = asked
    yield page
    assert [text for text in told if not re.search("400 .Bad Request|Canvas2D", text)] == []
    outside = [url for url in asked if not url.startswith((f"http://127.0.0.1:{port}/", "data:", "blob:"))]
    assert outside == []
    page.context.close()


def choose(page: Page, content: bytes, name: str = "photo.png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})


def state(page: Page, text: str) -> None:
    page.wait_for_function("text => document.getElementById('state').textContent.startsWith(text)", arg=text)


def slide(page: Page, name: str, value: float) -> None:
    page.evaluate(
        "([id, value]) => { const one = document.getElementById(id); one.value = value; "
        "one.dispatchEvent(new Event('input')); }",
        [name, value],
    )


def questions(page: Page) -> list[str]:
    return [url for url in page.asked if "/v1/predict" in url]


def test_an_image_is_chosen_and_boxes_are_drawn(browser, port):
    with at(browser, port) as page:
        choose(page, image(0.9, 0.6, (400, 800)))
        state(page, "2 objects: 1 left, 1 right")
        assert page.evaluate(PIXEL, [200, 200])[:3] == [230] * 3  # the image itself
        assert page.evaluate(PIXEL, [0, 200])[:3] != [230] * 3  # the box around it
        rows = page.locator("#objects tr").all_inner_texts()
        assert [row.split() for row in rows] == [["left", "0.90"], ["right", "0.60"]]
        assert page.get_attribute("#canvas", "aria-label") == "2 objects: 1 left, 1 right"
        latency = page.inner_text("#latency")
        assert all(stage in latency for stage in ("preprocess", "run", "total", "round trip"))


def test_the_confidence_acts_at_once_and_asks_nobody(browser, port):
    with at(browser, port) as page:
        choose(page, image(0.9, 0.2))
        state(page, "1 object: 1 left")
        slide(page, "conf", 0.1)
        state(page, "2 objects")
        slide(page, "conf", 0.95)
        state(page, "No object found")
        assert len(questions(page)) == 1
        assert "conf=0.95" in page.inner_text("#command")
        slide(page, "iou", 0.7)
        page.wait_for_function("() => document.getElementById('command').textContent.includes('iou=0.7')")
        page.wait_for_timeout(400)
        assert len(questions(page)) == 2 and "iou=0.7" in questions(page)[1]


def test_models_are_switched(browser, port):
    with at(browser, port) as page:
        choose(page, image(0.9, 0.1, (400, 800)))
        state(page, "1 object: 1 left")
        plain = page.evaluate(PIXEL, [200, 200])
        page.select_option("#model", "masked")
        page.wait_for_function("() => document.getElementById('about').textContent.startsWith('masked')")
        state(page, "1 object: 1 left")
        page.wait_for_function(f"before => ({PIXEL})([200, 200])[1] !== before[1]", arg=plain)
        right = page.evaluate(PIXEL, [600, 200])
        assert right[0] == right[1] == right[2]  # no mask there
        page.select_option("#model", "letters")
        page.wait_for_function("() => document.querySelectorAll('#objects tr').length === 5")
        assert not page.is_visible("#sliders")


def test_hostile_names_are_text(browser, port):
    with at(browser, port) as page:
        page.select_option("#model", "<b>hostile")
        choose(page, image(0.9, 0.1))
        state(page, "1 object: 1 <img src=x")
        assert page.locator("#objects img, #about b").count() == 0


def test_what_is_no_image_is_told(browser, port):
    with at(browser, port) as page:
        choose(page, b"no image")
        state(page, "the bytes: not an image")
        assert page.evaluate("document.getElementById('state').classList.contains('bad')")
        choose(page, image(0.9, 0.1))
        state(page, "1 object")


def test_an_image_is_dropped_and_pasted(browser, port):
    with at(browser, port) as page:
        for kind, member in (("drop", "dataTransfer"), ("paste", "clipboardData")):
            page.evaluate(
                """([kind, member, bytes]) => {
                  const data = new DataTransfer();
                  data.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
                  const event = new Event(kind, { bubbles: true, cancelable: true });
                  event[member] = data;
                  document.getElementById("drop").dispatchEvent(event);
                }""",
                [kind, member, list(image(0.9, 0.1) if kind == "drop" else image(0.1, 0.9))],
            )
            state(page, "1 object: 1 left" if kind == "drop" else "1 object: 1 right")


def test_the_camera_is_filmed_and_let_go(browser, port):
    with at(browser, port, permissions=["camera"]) as page:
        page.click("#camera")
        page.wait_for_function(
            "() => !document.getElementById('canvas').hidden && document.querySelector('#latency tr')"
        )
        for _ in range(100):
            if len(questions(page)) >= 3:
                break
            page.wait_for_timeout(50)
        assert len(questions(page)) >= 3
        assert page.inner_text("#camera") == "Stop the camera"
        page.click("#camera")
        assert page.inner_text("#camera") == "Use the camera"
        page.wait_for_timeout(300)
        count = len(questions(page))
        page.wait_for_timeout(300)
        assert len(questions(page)) == count


def test_light_and_dark(browser, port):
    shades = []
    for scheme in ("light", "dark"):
        with at(browser, port, color_scheme=scheme) as page:
            shades.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.click("#theme")
            shades.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert shades[0] == shades[3] != shades[1] == shades[2]


def test_keys_reach_everything_and_it_has_a_name(browser, port):
    with at(browser, port) as page:
        reached = []
        for _ in range(12):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('href')"))
        assert {"theme", "model", "runtime", "file", "camera", "conf", "iou", "docs"} <= set(reached)
        for name in ("model", "runtime", "file", "conf", "iou"):
            assert page.evaluate("id => document.getElementById(id).labels.length", name) == 1
        page.focus("#conf")
        before = float(page.input_value("#conf"))
        page.keyboard.press("ArrowRight")
        assert float(page.input_value("#conf")) > before


def test_the_interface_is_told_on_a_page_of_its_own(browser, port):
    with at(browser, port) as page:
        page.click("text=docs")
        page.wait_for_selector("text=POST /v1/predict/batch")
