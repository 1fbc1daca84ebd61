"""Table 5 of the CSPNet paper on this processor: OpenCV's DNN module and our fastest runtime, relative to YOLOv3-tiny.

    python -m research.bench.table5 [--rounds N]    # writes docs/claims/speed.md and docs/claims/speed.json

All rows take turns, one image at a time. Weights are random, as speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date

import torch
from rich.console import Console

from crossstage import create_model
from crossstage.deploy.backends import runtime_names
from crossstage.deploy.benchmark.peers import DARKNET, PINNED, opencv_darknet, own_cores
from crossstage.deploy.benchmark.timing import in_turns
from crossstage.deploy.cache import versions
from crossstage.deploy.open import open_model
from crossstage.errors import CrossStageError
from crossstage.files import write_text
from crossstage.machine import cores
from crossstage.models.detector import Detector
from research.bench.timing import machine
from research.places import CLAIMS

BASE = "yolov3_tiny"


@dataclass(frozen=True)
class PublishedRate:
    """A row of the paper's table 5.

    Attributes:
        model: As the paper calls it.
        ours: Our detector; None where there is none.
        size: Side of the input in pixels.
        published: Images a second of OpenCV's DNN module on an i9-9900K; None if not given.
        why: Why a row is not run.
    """

    model: str
    ours: str | None
    size: int
    published: int | None
    why: str = ""


FOREIGN = "not a network of this package; its published rate is from another processor"
CLAIMS_5 = (
    PublishedRate("YOLOv3-tiny", BASE, 416, 54),
    PublishedRate("YOLOv3-tiny-PRN", "yolov3_tiny_prn", 416, 71),
    PublishedRate("CSPPeleeNet Ref.-EFM(SAM)", "csppeleenet_ref_efm_sam", 320, None),
    PublishedRate("CSPDenseNet Ref.-EFM(SAM)", "cspdensenet_ref_efm_sam", 320, None),
    PublishedRate("CSPPeleeNet Ref.-PRN(3l)", "csppeleenet_ref_prn3l", 320, 52),
    PublishedRate("CSPPeleeNet Ref.-PRN", "csppeleenet_ref_prn", 320, 75),
    PublishedRate("CSPDenseNet Ref.-PRN", "cspdensenet_ref_prn", 320, 95),
    PublishedRate("CSPDenseNetb Ref.-PRN", "cspdensenetb_ref_prn", 320, 102),
    PublishedRate("SNet146-ThunderNet", None, 320, None, FOREIGN),
    PublishedRate("SNet49-ThunderNet", None, 320, None, FOREIGN),
)
ENGINES = runtime_names()


@dataclass
class RateRow:
    """What was measured of a claim.

    Attributes:
        claim: The claim.
        milliseconds: Of each timed pass, by what ran it.
        why: What did not run, and why.
    """

    claim: PublishedRate
    milliseconds: dict[str, list[float]]
    why: str = ""

    @property
    def fastest(self) -> str:
        """Our fastest runtime; empty where none was timed."""
        timed = [engine for engine in ENGINES if engine in self.milliseconds]
        return min(timed, key=lambda engine: statistics.median(self.milliseconds[engine]), default="")

    def rate(self, way: str) -> float | None:
        """Images a second."""
        times = self.milliseconds.get(way)
        return 1e3 / statistics.median(times) if times else None


@torch.inference_mode()
def measure(rounds: int) -> list[RateRow]:
    """Open every network in every way, then time all in turns."""
    rows = [RateRow(claim, {}, why=claim.why) for claim in CLAIMS_5]
    runs: dict[tuple[int, str], Callable[[], object]] = {}
    for number, row in enumerate(rows):
        if row.claim.ours is None:
            continue
        for way, run in _ways(row).items():
            images = torch.rand(1, 3, row.claim.size, row.claim.size)
            runs[number, way] = lambda run=run, images=images: run(images)
    times = in_turns({f"{number} {way}": run for (number, way), run in runs.items()}, rounds, burst=3, pause=0.02)
    for number, way in runs:
        rows[number].milliseconds[way] = times[f"{number} {way}"]
    return rows


def _ways(row: RateRow) -> dict[str, Callable[[torch.Tensor], object]]:
    claim, threads = row.claim, cores()
    assert claim.ours
    torch.manual_seed(0)  # the files of an earlier run serve again
    model = create_model(claim.ours)
    assert isinstance(model, Detector)
    ways: dict[str, Callable[[torch.Tensor], object]] = {}
    refused = []
    for engine in ENGINES:
        try:
            opened = open_model(model.eval(), runtime=engine, device="cpu", imgsz=claim.size, threads=threads)
        except CrossStageError as error:
            refused.append(f"{engine}: {_without_paths(error)}")
            continue
        assert opened.detector
        ways[engine] = opened.detector
    images = torch.rand(1, 3, claim.size, claim.size)
    try:
        run = opencv_darknet(model, claim.size, threads)
        run(images)
    except Exception as error:  # OpenCV's has no base of its own
        refused.append(f"OpenCV cannot run Darknet's files of it: {str(error).strip().splitlines()[0]}")
    else:
        ways |= {DARKNET: run, PINNED: own_cores(run, claim.size, threads)}
    row.why = "; ".join(refused)
    return ways


def _without_paths(error: CrossStageError) -> str:
    """A message with the last part of each path alone, which is that of a cache."""
    return re.sub(r"\S*/(\S)", r"\1", str(error))


def markdown(rows: list[RateRow]) -> str:
    """The page."""
    lines = [
        "# Table 5: how fast detectors are on a processor",
        "",
        "Images a second, one at a time, and the rate over YOLOv3-tiny's. The paper measured OpenCV's DNN module on",
        "an i9-9900K. Here the same networks run from Darknet's files in OpenCV: as it comes, and with each of its",
        "threads bound to a core, as this system's scheduler may put both on one; see",
        "[performance.md](../tables/performance.md). The last columns are the fastest installed runtime in float32.",
        "",
        "    python -m research.bench.table5",
        "",
        f"{machine()}, OpenCV {versions().get('opencv-python-headless', '')}; {date.today()}",
        "",
        "| model | size | published | x | OpenCV | x | OpenCV, bound | x | fastest | x | runtime |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    base = rows[0]
    for row in rows:
        published = row.claim.published
        assert base.claim.published
        cells = [f"{published} | {published / base.claim.published:.2f}" if published else "– | –"]
        for way, unit_way in ((DARKNET, DARKNET), (PINNED, PINNED), (row.fastest, base.fastest)):
            rate, unit = row.rate(way), base.rate(unit_way)
            cells.append(f"{rate:.1f} | {rate / unit:.2f}" if rate and unit else "– | –")
        lines.append(f"| {row.claim.model} | {row.claim.size} | {' | '.join(cells)} | {row.fastest} |")
    lines += ["", *(f"- {row.claim.model}: {row.why}." for row in rows if row.why)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(cores())
    with Console(stderr=True).status("table 5"):
        rows = measure(rounds)
    write_text(CLAIMS / "speed.md", markdown(rows))
    content = {"machine": machine(), "date": str(date.today()), "versions": versions()}
    write_text(CLAIMS / "speed.json", json.dumps(content | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
