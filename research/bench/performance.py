"""The measured parts of docs/tables/performance.md: every runtime beside OpenCV, the pipeline, and what did not help.

    python -m research.bench.performance [--rounds N] [--calib DATA] [--only PART ...]

Replaces what stands between the marks of each part; prose around them stays. `docs/tables/performance.json` holds all
times.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable
from datetime import date
from typing import Any

from rich.console import Console

from crossstage.deploy.benchmark.benchmark import benchmark
from crossstage.deploy.benchmark.peers import DARKNET, PINNED
from crossstage.deploy.benchmark.printing import COLUMNS, by_network, cells, remarks
from crossstage.deploy.benchmark.results import Benchmark, BenchmarkRow
from crossstage.files import write_text
from crossstage.machine import cores, processor
from research.bench import attempts, pipeline
from research.places import TABLES

PAGE = TABLES / "performance.md"
TINY, LARGE = "cspdarknet53_tiny_yolo.coco", "cspresnext50_panet_spp"
LARGE_WAYS = ["torch-eager", "torch", "onnxruntime", "openvino", "openvino-bf16", "ncnn"]
OURS = ("torch fused", "ONNX Runtime", "OpenVINO", "ncnn", "OpenCV DNN")


def tables(tiny: Benchmark, large: Benchmark) -> str:
    """The verb's tables as Markdown."""
    lines = []
    for result in (tiny, large):
        for (model, size), rows in by_network(result):
            lines += [f"**{model}** at {size}", "", f"| {' | '.join(COLUMNS)} |", "|---|---" + "|--:" * 9 + "|"]
            lines += [f"| {' | '.join(_padded(cells(result, row)))} |" for row in rows]
            lines.append("")
        lines += [*(f"- {remark}" for remark in remarks(result)), ""]
    return "\n".join(lines)


def _padded(row: list[str]) -> list[str]:
    return row + [""] * (len(COLUMNS) - len(row))


def bars(tiny: Benchmark, large: Benchmark) -> str:
    """What was aimed at, and what was reached."""
    lines = ["| aim | at least | reached | OpenCV's threads bound |", "|---|--:|--:|--:|"]
    for shown, result, precision, bar in (
        ("float32, OpenCV DNN on Darknet's files = 1", tiny, "fp32", 1.8),
        ("bfloat16, the same", tiny, "bf16", 3.7),
        ("int8, the same", tiny, "int8", 5.0),
        (f"{LARGE}, float32, the same", large, "fp32", 2.0),
    ):
        best = _fastest(result, precision)
        reached = (f"{_row(result, peer).median / best.median:.2f}" for peer in (DARKNET, PINNED))
        lines.append(f"| {shown} ({best.runtime}) | {bar} | {' | '.join(reached)} |")
    eager, fused = _row(tiny, "torch eager"), _row(tiny, "torch fused")
    lines.append(f"| PyTorch, fused over eager | 1.35 | {eager.median / fused.median:.2f} | |")
    direct = max(_share(tiny, row, winograd=False) for row in _candidates(tiny, "fp32") if row.runtime in OURS[:3])
    whole = max(_share(tiny, row, winograd=True) for row in _candidates(tiny, "fp32"))
    lines.append(f"| share of the float32 peak of direct convolutions | 85% | {direct:.0%} | |")
    lines.append(f"| the same, of the peak of any algorithm | 85% | {whole:.0%} | |")
    return "\n".join(lines) + "\n"


def _row(result: Benchmark, runtime: str, precision: str = "fp32") -> BenchmarkRow:
    return next(row for row in result.rows if row.runtime == runtime and row.precision == precision)


def _candidates(result: Benchmark, precision: str) -> list[BenchmarkRow]:
    first = result.rows[0].model
    return [
        row
        for row in result.rows
        if row.model == first and row.precision == precision and row.runtime in OURS and row.milliseconds
    ]


def _fastest(result: Benchmark, precision: str) -> BenchmarkRow:
    return min(_candidates(result, precision), key=lambda row: row.median)


def _share(result: Benchmark, row: BenchmarkRow, *, winograd: bool) -> float:
    return result.share(row, winograd=winograd) or 0.0


def printed(function: Callable[..., None], *arguments: Any) -> str:
    """What a function prints, kept."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        function(*arguments)
    return text.getvalue()


def put(page: str, part: str, content: str) -> str:
    """A page with what stands between a part's marks replaced."""
    begin, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n{content.strip()}\n\n{end}{rest.split(end)[1]}"


def measured(rounds: int, calib: str | None) -> dict[str, str]:
    """The parts that one run of the benchmark gives, after all its times are saved."""
    with Console(stderr=True).status("benchmark") as status:
        tiny = benchmark([TINY], peers=True, rounds=rounds, calib=calib, progress=status.update)
        large = benchmark([LARGE], peers=True, runtimes=LARGE_WAYS, rounds=max(3, rounds // 4), progress=status.update)
    content = {"date": str(date.today()), "tiny": tiny.to_dict(), "large": large.to_dict()}
    write_text(PAGE.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    return {"runtimes": tables(tiny, large), "aims": bars(tiny, large)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calib", help="images to quantise by")
    parser.add_argument("--only", nargs="+", choices=("runtimes", "pipeline", "memory", "attempts"))
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, str]]] = {
        "runtimes": lambda: measured(arguments.rounds, arguments.calib),
        "pipeline": lambda: {"pipeline": printed(pipeline.speed, 30, 5)},
        "memory": lambda: {"memory": printed(pipeline.memory)},
        "attempts": lambda: {"attempts": printed(attempts.main)},
    }
    for name in arguments.only or parts:
        page = PAGE.read_text("utf-8")
        for part, content in parts[name]().items():
            stamp = f"{processor()}, {cores()} cores, {date.today()}"
            page = put(page, part, f"{stamp}\n\n{content}")
        write_text(PAGE, page)


if __name__ == "__main__":
    main()
