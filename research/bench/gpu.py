"""Our networks on a GPU beside timm's same ones and the roofline, and the CSP stage's joints beside a Triton kernel.

    python -m research.bench.gpu run --out docs/tables/gpu.json [--seconds N]
    python -m research.bench.gpu report docs/tables/gpu.json > docs/tables/gpu.md

Every network compiles in a process of its own, all at once; when all are ready they are measured one after the other.
What is not measured when the time is over is reported so.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from crossstage.files import write_text
from research.bench.gpu_networks import MANY, ROWS, TRAINED, NetworkTime, work_network
from research.bench.gpu_stages import BATCH, pieces_of, work_of, work_stages
from research.bench.roofline import Ceilings, bound_ms, measure_ceilings
from research.bench.timing import machine
from research.bench.workers import Failure, Link, Worker, end, heard, start

COMPILING = 0.52  # share of the time after which nothing new is compiled
READY = 0.64  # and after which those who are not ready wait until the others are measured
STAGED = (("cspresnet50", 256), ("cspdarknet53", 256), ("csppeleenet", 224))
GAP = 1.2  # times the roofline, beyond which a kernel is worth having


def work_ceilings(link: Link) -> None:
    """A process that measures the device on request."""
    link.send("ready")
    link.recv()
    link.send({"ceilings": asdict(measure_ceilings())})
    link.send("done")
    link.recv()


class Session:
    """The processes and what they have sent so far."""

    def __init__(self, out: Path, seconds: float) -> None:
        self.out, self.began = out, monotonic()
        self.deadline = self.began + seconds - 4
        self.results: dict[str, Any] = {
            "machine": machine(), "date": date.today().isoformat(), "rows": [], "pieces": [], "parity": {},
            "failures": {},
        }  # fmt: skip

    def tell(self, text: str) -> None:
        """Print progress."""
        print(f"{monotonic() - self.began:6.1f} s  {text}", flush=True)

    def note(self, worker: Worker, message: Any) -> None:
        """Keep a message and write all."""
        if isinstance(message, Failure):
            self.results["failures"][worker.name] = message.why
            self.tell(f"{worker.name} failed: {message.why}")
        elif "failed" in message:
            self.results["failures"][message["failed"]] = message["why"]
            self.tell(f"{message['failed']} failed: {message['why']}")
        elif "ceilings" in message:
            self.results["ceilings"] = message["ceilings"]
        elif "disagreement" in message:
            self.results["parity"][message["row"]] = message["disagreement"]
        else:
            self.results["pieces" if "piece" in message else "rows"].append(message)
        write_text(self.out, json.dumps(self.results, indent=1) + "\n")

    def await_all(self, workers: Iterable[Worker], word: str, until: float) -> list[Worker]:
        """Listen until all have said the word; returns those that did."""
        waiting, said = list(workers), []
        for worker, message in heard(waiting, until):
            if message == word:
                said.append(worker)
            else:
                self.note(worker, message)
            if message == word or isinstance(message, Failure):
                waiting.remove(worker)
            if not waiting:
                break
        return said

    def measure(self, workers: Iterable[Worker], what: str) -> None:
        """Let one after the other measure."""
        for worker in workers:
            if monotonic() > self.deadline or worker.failure:
                continue
            worker.tell(what)
            self.await_all([worker], "done", self.deadline)
            self.tell(f"{worker.name}: {what} measured")


def run(out: Path, seconds: float) -> dict[str, Any]:
    """Compile side by side, measure one by one, within the time."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # there are as many processes as processors
    session = Session(out, seconds)
    until = session.began + COMPILING * seconds
    ceilings = start("ceilings", work_ceilings)
    sides = [(row, side) for row in ROWS for side in ("ours", "timm") if side == "ours" or row.peer]
    networks = [start(f"{row.name}, {side}", work_network, row, side, until) for row, side in sides]
    stages = [start(f"{name}, stages", work_stages, name, size, until) for name, size in STAGED]
    workers = [ceilings, *networks, *stages]
    try:
        ready = session.await_all(workers, "ready", session.began + READY * seconds)
        session.tell(f"{len(ready)} of {len(workers)} are ready")
        session.measure((worker for worker in workers if worker in ready), "forward")
        late = [worker for worker in workers if worker not in ready]
        late = session.await_all(late, "ready", min(session.deadline, monotonic() + 10)) if late else []
        session.measure(late, "forward")
        session.measure((worker for worker in networks if worker in ready or worker in late), "training")
    finally:
        end(workers)
    session.results["seconds"] = monotonic() - session.began
    write_text(out, json.dumps(session.results, indent=1) + "\n")
    return session.results


HEAD = """\
# On a GPU

Written by `python -m research.bench.gpu report`, from what `python -m research.bench.gpu run` measured:
{machine}, {date}.

bfloat16, channels last. A matrix product of 8192 x 8192 runs at {tflops:.0f} TFLOP/s here, a copy at {tbytes:.2f} TB/s,
bytes read and written. The *roofline* of a network is the sum over its convolutions, linear layers and poolings of the
longer of two times: operations at that rate, and inputs, weights and outputs, each moved once, at that bandwidth.
Norms, activations, sums and concatenations count as done on the way, for nothing. *Share* is the roofline's time over
the measured one.

*timm* is timm's network of the same structure; ours then has its weights, and their logits agree. *Compiled* is
`torch.compile`; ours is fused first (`crossstage.fuse`). One image is measured with mode "reduce-overhead". Medians,
between events on the device. One process measures at a time, but those that were not ready after {ready:.0%} of the
time went on compiling beside it. What was measured then may be too slow.
"""


def value(
    results: dict[str, Any], row: NetworkTime, side: str, form: str, batch: int, training: bool = False
) -> float | None:
    """Measured milliseconds, or None."""
    wanted = {"row": row.name, "side": side, "form": form, "batch": batch, "training": training}
    found = (entry.get("ms") for entry in results["rows"] if wanted.items() <= entry.items())
    return next((ms for ms in found if ms is not None), None)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, the first column left-aligned."""
    head = f"| {' | '.join(columns)} |\n|---{'|---:' * (len(columns) - 1)}|"
    return "\n".join([head, *(f"| {' | '.join(row)} |" for row in rows)])


def shown(number: float | None, digits: int = 0, unit: str = "") -> str:
    """A number, or a dash."""
    return "–" if number is None else f"{number:,.{digits}f}{unit}"


def network_row(results: dict[str, Any], row: NetworkTime, batch: int, ceilings: Ceilings) -> list[str]:
    """Images a second (milliseconds for one image) in all forms, and ours against the rest."""
    times = [
        value(results, row, side, form, batch)
        for side, form in (
            ("ours", "eager"),
            ("ours", "fused"),
            ("ours", "compiled"),
            ("timm", "eager"),
            ("timm", "compiled"),
        )
    ]
    rates = [shown(ms, 2) if batch == 1 else shown(None if ms is None else batch / ms * 1e3) for ms in times]
    ours, peer = times[2], times[4]
    ratio = None if ours is None or peer is None else peer / ours
    share = None if ours is None else 100 * row.bound_ms(batch, ceilings) / ours
    return [f"`{row.name}` {row.size}", *rates, shown(ratio, 2), shown(share, 0, " %")]


def piece_rows(results: dict[str, Any], ceilings: Ceilings) -> tuple[list[list[str]], list[str]]:
    """A line for each piece, and the pieces whose gap the kernel closes."""
    measured = {entry["piece"]: entry for entry in results["pieces"]}
    rows, closed = [], []
    for name, size in STAGED:
        for piece in pieces_of(name, size):
            if piece.label not in measured:
                rows.append([piece.label, *["–"] * 6, results["failures"].get(piece.label, "not measured")])
                continue
            entry, bound = measured[piece.label], bound_ms(work_of(piece), ceilings)
            ms = entry["ms"]
            best = min(ms["eager"], ms["compiled"])
            gap, kernel = best / bound, ms["kernel"] / bound
            wins = gap > GAP and kernel <= GAP and entry["error"] < 1e-2
            closed += [piece.label] if wins else []
            word = "closes the gap" if wins else "gap remains" if min(gap, kernel) > GAP else "no gap"
            figures = [shown(1e3 * bound), *(shown(1e3 * ms[form]) for form in ("eager", "compiled", "kernel"))]
            rows.append([piece.label, *figures, f"{gap:.2f} / {kernel:.2f}", f"{entry['error']:.1e}", word])
    return rows, closed


def report(results: dict[str, Any]) -> None:
    """Print the page."""
    ceilings = Ceilings(**results["ceilings"])
    described = {"tflops": ceilings.flops / 1e12, "tbytes": ceilings.bandwidth / 1e12, "ready": READY}
    print(HEAD.format(**results | described))
    forms = (
        "ours eager",
        "ours fused",
        "ours compiled",
        "timm eager",
        "timm compiled",
        "ours over timm, compiled",
        "share",
    )
    for batch, title in ((MANY, f"images/s, batch {MANY}"), (1, "milliseconds, one image")):
        print(f"## Forward pass: {title}\n")
        print(table(["network", *forms], [network_row(results, row, batch, ceilings) for row in ROWS]) + "\n")
    print(f"## Training step: images/s, batch {TRAINED}, autocast, SGD\n")
    rows = []
    for row in ROWS[:-1]:
        times = [value(results, row, s, f, TRAINED, True) for s in ("ours", "timm") for f in ("eager", "compiled")]
        rows.append([f"`{row.name}` {row.size}", *(shown(None if t is None else TRAINED / t * 1e3) for t in times)])
    print(table(["network", "ours eager", "ours compiled", "timm eager", "timm compiled"], rows) + "\n")
    agreed = ", ".join(f"{name} {error:.1e}" for name, error in results["parity"].items())
    print(f"Logits of ours and timm's, norm of the difference over the norm, float32: {agreed or 'not measured'}.\n")
    print_pieces(results, ceilings)
    missing = {**unready(results), **results["failures"]}
    for entry in results["rows"]:
        if entry.get("failure"):
            kind = "training step" if entry["training"] else "forward pass"
            missing[f"{entry['row']}, {entry['side']}, {entry['form']}, {kind}, batch {entry['batch']}"] = entry[
                "failure"
            ]
    if missing:
        described = "\n".join(f"- {name}: {why}" for name, why in missing.items())
        print(f"\n## Not measured\n\n{described}")


def unready(results: dict[str, Any]) -> dict[str, str]:
    """Networks of which nothing was measured, and why."""
    known = {(entry["row"], entry["side"]) for entry in results["rows"]}
    sides = [(row.name, side) for row in ROWS for side in ("ours", "timm") if side == "ours" or row.peer]
    return {
        f"{name}, {side}": "was still compiling when the time was over"
        for name, side in sides
        if (name, side) not in known
    }


def print_pieces(results: dict[str, Any], ceilings: Ceilings) -> None:
    """The part of the page on stages and dense blocks."""
    rows, closed = piece_rows(results, ceilings)
    columns = (
        "piece",
        "roofline, µs",
        "eager",
        "compiled",
        "kernel",
        "torch's best / kernel, x roofline",
        "kernel's error",
        "",
    )
    print(
        f"## Split, transition, concatenation\n\nBatch {BATCH}; launches are not counted (replayed graphs); norms are "
        "folded in. *Joints* are split, T, concatenation and U of a stage, *dense reads* the first 1x1 convolutions of "
        "a dense block's layers. The roofline moves each convolution's maps once and no concatenation. The kernel is "
        "research/bench/gpu_kernels.py's; its error is against float32, the norm of the difference over the norm.\n"
    )
    print(table(columns, rows))
    kept = f"closes a gap of more than {GAP - 1:.0%} in {len(closed)} of {len(rows)} pieces"
    print(f"\nThe kernel {kept}{': ' * bool(closed)}{'; '.join(closed)}.")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run", help="measure, and write results")
    running.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    running.add_argument("--seconds", type=float, default=900.0, help="for everything")
    reporting = verbs.add_parser("report", help="print a page on results")
    reporting.add_argument("results", type=Path)
    chosen = parser.parse_args(argv)
    if chosen.verb == "report":
        report(json.loads(chosen.results.read_text()))
    elif torch.cuda.is_available():
        results = run(chosen.out, chosen.seconds)
        print(f"{len(results['rows'])} rows, {len(results['pieces'])} pieces, {len(results['failures'])} failures")
    else:
        parser.error("no GPU that torch can use")


if __name__ == "__main__":
    main()
