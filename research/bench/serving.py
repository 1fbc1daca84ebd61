"""Images in a second through `crossstage serve`, against what `crossstage benchmark` counts for the same runtime.

    python -m research.bench.serving [MODEL [RUNTIME...]] [--rounds N] [--clients N] [--seconds S]

The benchmark's rate is that of passes alone, one image after the other with all threads, as `crossstage benchmark`
times them. The server's takes each image from the JPEG that a client sends to the JSON that it gets back, over HTTP on
this machine, whose cores the clients use as well. Both are measured in turns, since a machine that others use is fast
and slow in turns. Prints the medians and their ratio.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.table import Table

from crossstage.deploy.benchmark.running import file_for, open_way
from crossstage.deploy.benchmark.ways import ways
from crossstage.deploy.graph import sample
from crossstage.machine import cores
from crossstage.weights.loading import load_on
from research.places import EXAMPLES

SIZES = {"cspdarknet53_tiny_yolo.coco": 416}


@contextmanager
def served(model: str, runtime: str) -> Iterator[int]:
    """Serve a model from another process; yield the port."""
    command = [sys.executable, "-m", "crossstage", "serve", model, "--runtime", runtime, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r":(\d+)/", process.stdout.readline())
            assert found, "the server did not start"
            yield int(found.group(1))
        finally:
            process.terminate()


def asked(port: int, photos: list[bytes], clients: int, seconds: float) -> float:
    """Return images in a second that some clients get answered, each asking as soon as it is answered."""
    end = time.perf_counter() + seconds
    counts = [0] * clients

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for photo in itertools.cycle(photos[number % len(photos) :] + photos[: number % len(photos)]):
            connection.request("POST", "/v1/predict", photo, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            response.read()
            assert response.status == 200, response.status
            counts[number] += 1
            if time.perf_counter() > end:
                break
        connection.close()

    start = time.perf_counter()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def passes(run: Callable[[], object], seconds: float) -> float:
    """Return passes in a second by their median, as a benchmark counts them."""
    run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1 / statistics.median(times)


def compare(model: str, runtime: str, given: argparse.Namespace, photos: list[bytes]) -> tuple[float, float, float]:
    """Return the benchmark's and the server's images in a second, and the median of their ratios in the same turn."""
    loaded = load_on(model, "cpu")
    way = ways()[runtime]
    source = file_for(way, loaded, SIZES.get(model) or max(sample(loaded, None, 1).shape[2:]), ())
    run, images = open_way(way, source or loaded, cores()), sample(loaded, None, 1)
    pairs = []
    with served(model, runtime) as port, torch.inference_mode():
        asked(port, photos, given.clients, 1.0)
        for _ in range(given.rounds):
            alone = passes(lambda: run(images), given.seconds)
            pairs.append((alone, asked(port, photos, given.clients, given.seconds)))
    alone, through = (statistics.median(values) for values in zip(*pairs, strict=True))
    return alone, through, statistics.median(through / alone for alone, through in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="cspdarknet53_tiny_yolo.coco")
    parser.add_argument("runtimes", nargs="*", default=["torch", "onnxruntime", "openvino"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    photos = [file.read_bytes() for file in sorted((EXAMPLES / "photos").glob("*.jpg"))]
    table = Table("runtime", "benchmark, images/s", "serve, images/s", "ratio", box=None)
    for runtime in given.runtimes:
        alone, through, ratio = compare(given.model, runtime, given, photos)
        table.add_row(runtime, f"{alone:.1f}", f"{through:.1f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
