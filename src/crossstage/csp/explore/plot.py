"""An exploration as an image: each trade-off with its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from crossstage.csp.explore.exploration import Exploration, Measure, Row
from crossstage.nn.partial import Fusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: dict[Fusion, str] = {"first": "#0072B2", "last": "#D55E00", "both": "#009E73", "none": "#CC79A7"}
MARKERS = "osD^vPXh<>p8"  # one for each gamma, in turns
PLAIN = {"marker": "*", "color": "black", "markersize": 15}
FRONT = "#8a8a8a"
ACROSS = 3  # panels beside each other


def plot(found: Exploration) -> Figure:
    """One panel for each trade-off: colour tells fusion, marker gamma, a hollow one that channels are sliced."""
    from matplotlib.figure import Figure

    pairs = found.trade_offs
    across = len(found.runtimes) if not found.trained and 1 < len(found.runtimes) <= ACROSS else min(ACROSS, len(pairs))
    down = ceil(len(pairs) / across)
    figure = Figure(figsize=(4.3 * across + 1.6, 4.1 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    gammas = sorted({row.partial.gamma for row in found.rows if row.partial})
    styles = {row.name: _style(row, gammas) for row in found.rows}
    for axes, (first, second) in zip(panels, pairs, strict=False):
        _panel(axes, found, first, second, styles)
    for axes in panels[len(pairs) :]:
        axes.set_axis_off()
    figure.legend(handles=_legend(found, gammas), loc="outside right upper", frameon=False, fontsize="small")
    title = f"{found.backbone} at {found.size} x {found.size}"
    told = f"trained on {found.training}; upper left is best" if found.trained else "lower left is best"
    figure.suptitle(f"{title}; {told}", fontsize="medium")
    return figure


def _panel(axes: Any, found: Exploration, first: Measure, second: Measure, styles: dict[str, dict[str, Any]]) -> None:
    front = found.front(first, second)
    points = {row.name: (first.of(row), second.of(row)) for row in front}
    axes.plot(*zip(*points.values(), strict=True), drawstyle="steps-post", color=FRONT, linewidth=1.2, zorder=1)
    for row in found.rows:
        x, y = first.of(row), second.of(row)
        if x is None or y is None:
            continue
        _whiskers(axes, row, (first, x), (second, y))
        axes.plot(x, y, linestyle="", zorder=3, **styles[row.name], alpha=1.0 if row.name in points else 0.45)
    axes.set(xlabel=first.title, ylabel=second.title)
    axes.margins(0.1)
    axes.locator_params(nbins=6)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _whiskers(axes: Any, row: Row, *placed: tuple[Measure, float]) -> None:
    """The quartiles of what was taken several times; they do not widen the axes, which a disturbed pass would do."""
    from matplotlib.lines import Line2D

    (first, x), (second, y) = placed
    xs = first.spread(row) if first.spread else (x, x)
    ys = second.spread(row) if second.spread else (y, y)
    for line in ((xs, (y, y)), ((x, x), ys)):
        axes.add_artist(Line2D(*line, color=FRONT, linewidth=0.8, alpha=0.6, zorder=2))


def _style(row: Row, gammas: Sequence[float]) -> dict[str, Any]:
    if row.partial is None:
        return PLAIN
    return {
        "marker": MARKERS[gammas.index(row.partial.gamma) % len(MARKERS)],
        "color": COLOURS[row.partial.fusion],
        "markerfacecolor": COLOURS[row.partial.fusion] if row.partial.split == "project" else "white",
        "markersize": 8,
    }


def _legend(found: Exploration, gammas: Sequence[float]) -> list[Any]:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle=style.pop("linestyle", ""), label=label, **style)

    partials = [row.partial for row in found.rows if row.partial]
    fusions: list[Fusion] = list(dict.fromkeys(partial.fusion for partial in partials))
    handles = [entry("plain", **{**PLAIN, "markersize": 11})]
    handles += [entry(f"fusion {name}", marker="o", color=COLOURS[name], markersize=8) for name in fusions]
    handles += [
        entry(f"γ = {gamma:g}", marker=MARKERS[index % len(MARKERS)], color="dimgrey", markersize=8)
        for index, gamma in enumerate(gammas)
    ]
    if any(partial.split == "slice" for partial in partials):
        handles.append(entry("split by slicing", marker="o", color="dimgrey", markerfacecolor="white", markersize=8))
    return [*handles, entry("Pareto front", linestyle="-", color=FRONT)]
