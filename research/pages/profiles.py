"""What networks cost, plain and partial: writes docs/tables/profile.md.

    python -m research.pages.profiles > docs/tables/profile.md
    python -m research.pages.profiles --images docs/images

The second draws the images of docs/guides/costs.md; it needs a browser for the report's.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from datetime import date
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console

import crossstage
from crossstage.analysis import Profile
from crossstage.analysis.html import write_report
from crossstage.analysis.printing import print_profile
from crossstage.machine import processor

PAIRS = (
    ("peleenet", "csppeleenet"),
    ("resnet10", "cspresnet10"),
    ("resnet50", "cspresnet50"),
    ("resnext50", "cspresnext50"),
    ("darknet53", "cspdarknet53"),
    ("mobilenetv2", "cspmobilenetv2"),
    ("densenet201_elastic", "cspdensenet201_elastic"),
)
DRAWN = ("resnext50", "cspresnext50")

PAGE = """\
# What networks cost

Written by `python -m research.pages.profiles` on {day}; [how to read it](../guides/costs.md#how-to-read-it). All
but the last section is counted, not measured.

## An example

    $ crossstage profile cspresnext50_panet_spp --imgsz 608

{example}

![Operations, traffic and held memory of each operation](../images/profile.png)

The chart is what `--write chart.png` draws, of CSPResNeXt-50 at 256 pixels.

## Plain and partial

{pairs}

Each pair at the same size. The last column is the largest layer over the mean layer. In every pair the partial network
has fewer operations and moves fewer bytes. CIO, which counts convolutions alone, rises for CSPResNet-10 and
CSPDarknet-53, whose transitions are convolutions that the plain networks lack. The peak falls where it lies in a stage,
and stays where it lies in the stem. A transition is often the largest layer, and stands out more among smaller ones.

## Time

    $ crossstage profile csppeleenet --measure --device cpu

{timed}

{machine}, {threads} threads, {day}.
"""


def printed(profile: Profile) -> str:
    """What the command prints, as a block of a page."""
    console = Console(file=StringIO(), width=110)
    print_profile(profile, console)
    assert isinstance(console.file, StringIO)
    return "\n".join(f"    {line}".rstrip() for line in console.file.getvalue().splitlines())


def pairs() -> str:
    """A table of networks and their partial forms, at the same size."""
    lines = [
        "| network | M weights | BFLOPs | | memory access, M | over its bound | CIO, M | DRAM traffic fp32, MB | | "
        "peak of maps fp32, MB | | max / mean |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for pair in PAIRS:
        plain = crossstage.profile(pair[0])
        partial = crossstage.profile(pair[1], plain.input_shape[2:])
        lines += [row(plain, plain), row(partial, plain)]
    return "\n".join(lines)


def row(profile: Profile, plain: Profile) -> str:
    """A line of the table."""

    def change(ours: float, theirs: float) -> str:
        return "" if profile is plain else f"{ours / theirs - 1:+.1%}"

    traffic, peak = profile.dram_bytes(), profile.peak_activation_bytes()
    cells = (
        f"`{profile.name}`",
        f"{profile.weights / 1e6:.2f}",
        f"{profile.bflops:.3f}",
        change(profile.bflops, plain.bflops),
        f"{profile.memory_access / 1e6:.2f}",
        f"{profile.memory_access / profile.memory_access_bound:.3f}",
        f"{profile.cio / 1e6:.2f}",
        f"{traffic / 1e6:.1f}",
        change(traffic, plain.dram_bytes()),
        f"{peak / 1e6:.2f}",
        change(peak, plain.peak_activation_bytes()),
        f"{profile.bottleneck.max_over_mean:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def draw(folder: Path) -> None:
    """The page's images: a chart, and a report in a browser."""
    from playwright.sync_api import sync_playwright

    profiles = [crossstage.profile(name) for name in DRAWN]
    profiles[1].save(folder / "profile.png")
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as play:
        page = Path(temporary) / "report.html"
        write_report(profiles, page)
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1180, "height": 1330})
        opened.goto(page.as_uri())
        opened.click("button[data-metric=moved]")
        opened.wait_for_selector("#roofline-chart .point")
        opened.screenshot(path=folder / "report.png")
        browser.close()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder to draw the images to, instead of printing the page")
    chosen = parser.parse_args(arguments)
    if chosen.images:
        draw(chosen.images)
        return
    text = PAGE.format(
        day=date.today().isoformat(),
        example=printed(crossstage.profile("cspresnext50_panet_spp", 608)),
        pairs=pairs(),
        timed=printed(crossstage.profile("csppeleenet", measure=True, device="cpu")),
        machine=processor(),
        threads=torch.get_num_threads(),
    )
    print(text, end="")


if __name__ == "__main__":
    main()
