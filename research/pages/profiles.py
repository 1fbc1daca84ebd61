"""What networks cost, plain and partial, and how to read it: writes docs/profile.md.

    python -m research.pages.profiles > docs/profile.md
    python -m research.pages.profiles --images docs/images

The second draws the page's images; it needs a browser for the report's.
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

READING = {
    "parameters": "All learned values. 'In kernels' leaves out norms and biases, as the tables of the CSPNet paper do.",
    "multiply-adds, BFLOPs": (
        "Of convolutions, linear layers and products of two maps; two operations for each multiply-add. "
        "Darknet, and so the paper, adds one for each value that a pooling window sees."
    ),
    "activations": (
        "Values that convolutions and linear layers write: a better guess at time on a GPU than operations are."
    ),
    "memory access": (
        "The VoVNet paper's cost: `hw(ci + co) + k² ci co / g` values for each convolution, its input taken "
        "at its own size if there is a stride. With as many multiply-adds B it is at least `2 sqrt(hwBg / k²) "
        "+ B / (hw)`, which is met at equal widths. The gap is what unequal widths cost."
    ),
    "CIO": (
        "HarDNet's measure: values that convolutions read and write. The CSPNet paper's figures (34.4M for "
        "ResNeXt-50, 32.6M for CSPResNeXt-50) are met with poolings."
    ),
    "DRAM traffic": (
        "Bytes if every operation reads its inputs and weights from memory once and writes its output. Norms "
        "and activation functions are folded into the layer beside them, as inference runtimes do; 'unfolded' "
        "has each as an operation of its own, as eager PyTorch does. A cache that keeps maps between "
        "operations saves some of it."
    ),
    "peak of maps": (
        "The most memory that maps take at once if each is freed after the last operation that reads it, in "
        "the order of eager PyTorch. What is overwritten in place or seen through views counts once; a "
        "concatenation holds its inputs and its output. Weights are not in it."
    ),
    "FLOPs per byte": "Operations over DRAM traffic. Far below a machine's own ratio, the network waits for memory.",
    "bottleneck": "The layer with the most operations, its share, and how many times the mean layer it has.",
}

PAGE = """\
# What a network costs

    crossstage profile MODEL [--imgsz 416] [--batch 8] [--layers] [--measure] [--write cost.json layers.csv chart.png]
    crossstage report MODEL MODEL ... -o report.html

MODEL is any of

- a model of `crossstage models`, with weights or without, `<backbone>_<neck>`, a model file, or a training's folder;
- a Darknet `.cfg`;
- `timm:NAME` or `torchvision:NAME`: that library's own network;
- `path/to/file.py:function`: a function or class of yours that takes no arguments and gives a `torch.nn.Module`. The
  file is run. What goes wrong in it is told with its line.

Weights are not needed, not fetched and not allocated: only shapes go through the network, on torch's meta device, so a
detector of 57 million parameters is counted in a fraction of a second. A network that looks at values, such as
torchvision's Faster R-CNN, is built for real and run once. In Python:

    cost = crossstage.profile("csppeleenet", 416)          # or a torch.nn.Module
    cost.bflops, cost.peak_activation_bytes("fp16"), cost.bottleneck.share
    cost.layers[0].macs                                    # and so on for every operation
    cost.save("chart.png")

This page is written by `python -m research.pages.profiles`, on {day}. All but its last section is counted, not measured.

## An example

    $ crossstage profile cspresnext50_panet_spp --imgsz 608

{example}

![Operations, traffic and held memory of each operation](images/profile.png)

The chart is what `--write chart.png` draws, of CSPResNeXt-50 at 256 pixels.

## How to read it

{reading}

`--layers` lists every operation; `--write` keeps all figures of each as JSON or CSV.

What these are held against (`tests/test_profile.py`): operations against `torch.utils.flop_counter` on nine networks
and against fvcore layer by layer; memory access and its bound against the formula and all widths of equal cost; CIO
against the dense block's formulas, `cm + (m² + m)d / 2` and `(cm + (m² + m)d) / 2` for a partial one, and the paper's
two figures; peak memory against a graph counted by hand, and against what torch allocates in a run that frees each map
after its last use.

## Plain and partial

{pairs}

Each pair at the same size. The last column is the largest layer over the mean layer. In every pair the partial network
has fewer operations and moves fewer bytes. CIO, which counts convolutions alone, rises for CSPResNet-10 and
CSPDarknet-53, whose transitions are convolutions that the plain networks lack. The peak falls where it lies in a stage,
and stays where it lies in the stem. A transition is often the largest layer, and stands out more among smaller ones.

## Time

`--measure` also times every operation, in float32 and with random weights: the median of up to twenty passes, each
operation waited for. "Of roof" is the least time that the machine's best rates allow, by its operations or by the
bytes it moves, over the time it took; above 100 %, what it read came from a cache. "Bound" tells which of the two
sets the limit. The best rates are measured beside it, in torch: a few large convolutions, and the copy of a large
tensor.

    $ crossstage profile csppeleenet --measure --device cpu

{timed}

{machine}, {threads} threads, {day}.

## Side by side

    crossstage report {drawn} -o report.html

writes one page of 5 MB that opens from disk in any browser and asks the network for nothing: bars of every operation
by any of the measures above, how much of the computing the largest layers hold, the roofline of a machine whose rates
you type in (with `--measure`, of this one, with the rates each layer reached), all totals beside the first network's,
and every operation in a table to filter and sort. It needs the extra: `pip install crossstage[report]`.

![A report of ResNeXt-50 and CSPResNeXt-50](images/report.png)
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
    told = PAGE.format(
        reading="\n".join(["| figure | what it is |", "|---|---|", *(f"| {k} | {v} |" for k, v in READING.items())]),
        day=date.today().isoformat(),
        example=printed(crossstage.profile("cspresnext50_panet_spp", 608)),
        pairs=pairs(),
        timed=printed(crossstage.profile("csppeleenet", measure=True, device="cpu")),
        machine=processor(),
        threads=torch.get_num_threads(),
        drawn=" ".join(DRAWN),
    )
    print(told, end="")


if __name__ == "__main__":
    main()
