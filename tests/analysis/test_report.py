"""The page that compares networks, opened in a real browser."""

import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page, sync_playwright
from torch import nn

import crossstage
from crossstage.analysis import Profile, Roof, profile_module
from crossstage.analysis.html import render, write_report
from crossstage.cli import main
from crossstage.errors import ConfigError

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>$data"


@pytest.fixture(scope="module")
def profiles() -> list[Profile]:
    return [crossstage.profile(name, 128) for name in ("peleenet", "csppeleenet")]


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


class Opened:
    """A page, with all it asked for and complained of."""

    def __init__(self, browser, path: Path, **settings):
        self.page: Page = browser.new_context(viewport={"width": 1200, "height": 900}, **settings).new_page()
        self.told: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.told.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#roofline-chart .scatterlayer .point")

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()

    def clean(self) -> bool:
        return self.told == [] and [url.partition(":")[0] for url in self.asked] == ["file"]


@pytest.fixture
def opened(browser, profiles, tmp_path):
    write_report(profiles, tmp_path / "report.html")
    page = Opened(browser, tmp_path / "report.html")
    yield page
    assert page.clean(), (page.told, page.asked)
    page.page.context.close()


def test_charts_are_drawn_with_a_mark_for_every_layer(opened, profiles):
    computing = [len(profile.computing) for profile in profiles]
    assert opened.count("#layers-chart .bars .point") == sum(computing)
    assert opened.count("#roofline-chart .scatterlayer .point") == sum(computing)
    assert opened.count("#bottleneck-chart .scatterlayer .trace") == 2
    tallest = opened.page.evaluate(
        "Math.max(...[...document.querySelectorAll('#layers-chart .bars .point')].map(e => e.getBBox().height))"
    )
    assert tallest > 100


def test_choosing_a_measure_draws_it(opened, profiles):
    opened.page.click("button[data-metric=moved]")
    assert opened.count("#layers-chart .bars .point") == sum(len(profile.layers) for profile in profiles)
    shown = opened.page.evaluate(
        "document.getElementById('layers-chart').data.flatMap(t => t.y).reduce((a, b) => a + b)"
    )
    assert shown == pytest.approx(sum(profile.dram_bytes(folded=False) for profile in profiles) / 1e6)
    assert "MB, fp32" in opened.page.inner_text("#layers-chart")
    widths = opened.page.evaluate(
        "[...document.querySelectorAll('#layers-chart .subplot.xy .bars .point')].map(e => e.getBBox().width)"
    )
    assert len(widths) == len(profiles[0].layers)
    assert sum(widths) < opened.page.locator("#layers-chart").bounding_box()["width"]  # none hides another


def test_pointing_at_a_bar_tells_its_layer(opened, profiles):
    assert opened.page.inner_text("#detail").strip() == ""
    bar = opened.page.locator("#layers-chart .bars .point").first.bounding_box()
    opened.page.mouse.move(bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2)
    opened.page.wait_for_selector("#layers-chart .hoverlayer .hovertext")
    first = profiles[0].computing[0]
    told = opened.page.inner_text("#detail")
    assert told.startswith(
        f"peleenet: {first.name}, conv 3x3, output 32×64×64. operations {first.flops / 1e9:.3f} BFLOPs"
    )


def test_a_kind_is_hidden_by_its_entry_in_the_legend(opened, profiles):
    linear = sum(layer.kind == "linear" for profile in profiles for layer in profile.layers)
    everything = opened.count("#layers-chart .bars .point")
    opened.page.locator("#layers-chart .legendtoggle").last.click()
    opened.page.wait_for_function(
        "n => document.querySelectorAll('#layers-chart .bars .point').length === n", arg=everything - linear
    )
    assert linear == 2


def test_the_table_is_filtered_sorted_and_switched(opened, profiles):
    rows = "#operations tbody tr"
    assert opened.count(rows) == len(profiles[0].layers)
    opened.page.select_option("#model", "1")
    assert opened.count(rows) == len(profiles[1].layers)
    opened.page.fill("#filter", "concat")
    assert opened.count(rows) == sum(layer.kind == "concatenation" for layer in profiles[1].layers)
    opened.page.fill("#filter", "")
    opened.page.click("#operations th:has-text('BFLOPs')")
    largest = profiles[1].bottleneck.layers[0]
    assert opened.page.inner_text(f"{rows}:first-child td:first-child") == largest.name


def test_the_roof_is_the_readers_machine(opened, profiles):
    """At ten operations a nanosecond and endless bandwidth the least time is the operations' alone."""
    opened.page.fill("#gflops", "10")
    opened.page.fill("#gbytes", "1e12")
    least = profiles[0].bflops / 10 * 1e3
    assert opened.page.inner_text("#least").startswith(f"peleenet: at least {least:.2f} ms, 0 % of it for memory")


def test_light_and_dark(browser, profiles, tmp_path):
    write_report(profiles, tmp_path / "report.html")
    shades = []
    for scheme in ("light", "dark"):
        page = Opened(browser, tmp_path / "report.html", color_scheme=scheme)
        shades.append(page.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.page.click("#theme")
        shades.append(page.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert page.clean()
    assert shades[0] == shades[3] != shades[1] == shades[2]


def test_hostile_names_are_text(browser, tmp_path):
    model = nn.Sequential()
    model.add_module("<b onclick=alert(3)>&lt;", nn.Conv2d(3, 4, 1))
    found = profile_module(model, (1, 3, 8, 8), HOSTILE)
    write_report([found, found], tmp_path / "report.html")
    page = Opened(browser, tmp_path / "report.html")
    assert page.clean(), page.told
    assert page.page.inner_text("h1") == f"Cost of {HOSTILE}"
    assert page.count("img, b[onclick], #totals script") == 0
    assert page.page.inner_text("#operations tbody td") == "<b onclick=alert(3)>&lt;"
    assert HOSTILE in page.page.evaluate("document.getElementById('layers-chart').textContent")


def test_measured_networks_stand_under_the_measured_roof(browser, tmp_path):
    counted = profile_module(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)), (1, 3, 32, 32), "small")
    layers = tuple(replace(layer, seconds=1e-4 * (place + 1)) for place, layer in enumerate(counted.layers))
    found = replace(counted, layers=layers, roof=Roof("a machine", 1e12, 1e11))
    write_report([found], tmp_path / "report.html")
    page = Opened(browser, tmp_path / "report.html")
    assert (page.page.input_value("#gflops"), page.page.input_value("#gbytes")) == ("1000", "100")
    page.page.click("button[data-metric=ms]")
    shown = page.page.evaluate("document.getElementById('layers-chart').data.flatMap(t => t.y).reduce((a, b) => a + b)")
    assert shown == pytest.approx(0.6)  # milliseconds
    assert page.clean(), page.told


def test_the_totals_are_those_of_the_profiles(profiles):
    page = render(profiles)
    table = page[page.index('<table id="totals">') :]
    for profile in profiles:
        assert f"{profile.bflops:.3f}" in table
        assert f"{profile.memory_access / 1e6:.2f}" in table
        assert f"{profile.peak_activation_bytes() / 1e6:.2f}" in table
    change = (profiles[1].bflops / profiles[0].bflops - 1) * 100
    assert f"{change:+.1f} %".replace("-", "−") in table
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=", page)


def test_one_network_that_computes_nothing():
    page = render([profile_module(nn.ReLU(), (1, 3, 4, 4), "nothing")])
    assert "Cost of nothing" in page


def test_the_command_writes_the_page(tmp_path, capsys):
    out = tmp_path / "r.html"
    assert main(["report", "peleenet", "csppeleenet", "--imgsz", "64", "-o", str(out)]) == 0
    assert "r.html: peleenet, csppeleenet" in capsys.readouterr().out
    assert "Cost of peleenet and csppeleenet" in out.read_text()


def test_what_is_missing_is_told(monkeypatch, profiles, tmp_path):
    with pytest.raises(ConfigError, match="at least one"):
        render([])
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ConfigError, match=r"pip install 'crossstage\[report\]'"):
        write_report(profiles, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
