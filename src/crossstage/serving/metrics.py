"""What a server counts, in the text format that Prometheus reads (version 0.0.4)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper ends of the histogram of durations."""

MetricLabels = tuple[tuple[str, str], ...]
"""Names and values that tell one count of a metric from another."""


class Metrics:
    """Counts of requests and images since the start; used from one thread, the event loop's."""

    def __init__(self) -> None:
        self._started = time.time()
        self._requests: Counter[MetricLabels] = Counter()
        self._durations = [0] * len(SECONDS)  # of those that took no longer, each
        self._seconds = 0.0
        self._images: Counter[MetricLabels] = Counter()
        self._stages: dict[MetricLabels, float] = {}

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered.

        Args:
            path: One of the server's own paths, or one word for all others, so that strangers add no lines.
            status: The HTTP status.
            seconds: How long it took.
        """
        self._requests[("path", path), ("status", str(status))] += 1
        self._seconds += seconds
        self._durations = [below + (seconds <= end) for below, end in zip(self._durations, SECONDS, strict=True)]

    def count_image(self, model: str, runtime: str, milliseconds: Mapping[str, float]) -> None:
        """Count an image that was run, and how long each stage took."""
        which = ("model", model), ("runtime", runtime)
        self._images[which] += 1
        for stage, value in milliseconds.items():
            key = (*which, ("stage", stage))
            self._stages[key] = self._stages.get(key, 0.0) + value / 1e3

    def text(self, *, waiting: int, ready: bool) -> str:
        """Return all counts.

        Args:
            waiting: Images whose requests are not answered yet.
            ready: Whether the models are open.
        """
        return "\n".join([*self._lines(waiting, ready), ""])

    def _lines(self, waiting: int, ready: bool) -> Iterator[str]:
        yield from _metric("ready", "gauge", "Whether the models are open.", {(): int(ready)})
        yield from _metric("start_time_seconds", "gauge", "When the server was started.", {(): self._started})
        yield from _metric("images_waiting", "gauge", "Images whose requests are not answered yet.", {(): waiting})
        yield from _metric("requests_total", "counter", "Requests that were answered.", self._requests)
        yield from self._histogram()
        yield from _metric("images_total", "counter", "Images that were run.", self._images)
        yield from _metric("stage_seconds_total", "counter", "Seconds that images spent in a stage.", self._stages)

    def _histogram(self) -> Iterator[str]:
        name, count = "crossstage_request_seconds", self._requests.total()
        yield f"# HELP {name} How long requests took."
        yield f"# TYPE {name} histogram"
        for end, below in zip(SECONDS, self._durations, strict=True):
            yield f'{name}_bucket{{le="{end}"}} {below}'
        yield f'{name}_bucket{{le="+Inf"}} {count}'
        yield f"{name}_sum {self._seconds:.6f}"
        yield f"{name}_count {count}"


def _metric(name: str, kind: str, help: str, values: Mapping[MetricLabels, float]) -> Iterator[str]:
    yield f"# HELP crossstage_{name} {help}"
    yield f"# TYPE crossstage_{name} {kind}"
    for labels, value in values.items():
        told = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        yield f"crossstage_{name}{f'{{{told}}}' if told else ''} {value:.6f}".removesuffix(".000000")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
