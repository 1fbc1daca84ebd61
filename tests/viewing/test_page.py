"""The page of a dataset, used in a real browser as people use it."""

import os
import shutil

import pytest
from playwright.sync_api import Error, sync_playwright

from crossstage.data.find import find_data
from crossstage.viewing.gallery import Gallery
from crossstage.viewing.server import DataView
from tests.viewing.doubles import Told, draw_squares

pytestmark = pytest.mark.slow

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FINDINGS = [
    [(0, 0.9, (10, 10, 30, 30)), (1, 0.8, (100, 100, 150, 150))],
    [(0, 0.7, (20, 20, 140, 140)), (1, 0.6, (150, 150, 190, 190))],
    [],
    [],
]


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        try:
            opened = play.chromium.launch(executable_path=found, args=ARGUMENTS)
        except Error as error:
            pytest.skip(f"there is no browser: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_images_are_filtered_opened_and_walked_through(browser, tmp_path, scheme):
    gallery = Gallery(find_data(draw_squares(tmp_path)), Told(FINDINGS), model_name="<b>told")
    with DataView(0) as view:
        view.show(gallery)
        page = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme=scheme).new_page()
        told, asked = [], []
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(view.address)
        page.wait_for_selector(".tile")

        def numbers() -> list[str]:
            return page.eval_on_selector_all(".tile", "all => all.map(one => one.dataset.number)")

        def state(text: str) -> None:
            page.wait_for_function("text => document.getElementById('state').textContent.startsWith(text)", arg=text)

        assert numbers() == ["1", "2", "0", "3"]  # the worst first
        assert page.locator(".tile").first.inner_text().endswith("1 false\n1 wrong class")
        assert "<b>told" in page.inner_text("#about")
        page.select_option("#class", label="cat")
        page.select_option("#size", "small")
        state("1 to 1 of 1")
        assert numbers() == ["0"]
        page.select_option("#error", "missed")
        state("No such image")
        page.select_option("#size", "")
        state("1 to 1 of 1")
        assert numbers() == ["2"]
        page.select_option("#error", "")
        page.select_option("#class", "")
        state("1 to 4 of 4")

        page.focus(".tile")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open] figure >> nth=1")  # labels, and what was found beside them
        assert page.locator("#views figure:nth-child(1) svg rect").count() == 1
        assert page.locator("#views figure:nth-child(2) svg rect.guess").count() == 2
        page.wait_for_function("() => [...document.querySelectorAll('#views img')].every(one => one.naturalWidth)")
        assert page.locator("#views .mask").is_visible()
        page.keyboard.press("m")
        assert not page.locator("#views .mask").is_visible()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.getElementById('place').textContent === '2 of 4'")
        assert "cat, 40 x 40 px: missed" in page.inner_text("#facts")
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.activeElement.dataset.number === '2'")
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(shade.partition("(")[2].partition(",")[0]) > 128) == (scheme == "light")
        if os.environ.get("SHOT"):
            page.screenshot(path=f"{os.environ['SHOT']}-{scheme}.png")
            page.click(".tile")
            page.wait_for_timeout(500)
            page.screenshot(path=f"{os.environ['SHOT']}-{scheme}-open.png")
        assert told == []
        assert [url for url in asked if not url.startswith((view.address, "data:"))] == []
        page.context.close()
