"""The networks of an exploration as an image: each trade-off with its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from crossstage.csp.explore.rows import ExplorationRow, Measure, TradeOff
from crossstage.nn.partial import Fusion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: dict[Fusion, str] = {"first": "#0072B2", "last": "#D55E00", "both": "#009E73", "none": "#CC79A7"}
MARKERS = "osD^vPXh<>p8"  # one for each gamma, in turns
PLAIN = {"marker": "*", "color": "black", "markersize": 15}
FRONT = "#8a8a8a"
ACROSS = 3  # panels beside each other


def plot(rows: Sequence[ExplorationRow], trade_offs: Sequence[TradeOff], *, across: int, title: str) -> Figure:
    """Draw one panel for each trade-off.

    A row's colour says its fusion, its marker its gamma, and a hollow marker that channels are sliced.

    Args:
        rows: The networks, the plain one among them.
        trade_offs: What the panels show; at least one.
        across: Number of panels beside each other.
        title: The text above all panels.
    """
    from matplotlib.figure import Figure

    down = ceil(len(trade_offs) / across)
    figure = Figure(figsize=(4.3 * across + 1.6, 4.1 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    gammas = sorted({row.partial.gamma for row in rows if row.partial})
    styles = {row.name: _style(row, gammas) for row in rows}
    for axes, trade_off in zip(panels, trade_offs, strict=False):
        _panel(axes, rows, trade_off, styles)
    for axes in panels[len(trade_offs) :]:
        axes.set_axis_off()
    figure.legend(handles=_legend(rows, gammas), loc="outside right upper", frameon=False, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def _panel(axes: Any, rows: Sequence[ExplorationRow], trade_off: TradeOff, styles: dict[str, dict[str, Any]]) -> None:
    first, second = trade_off.first, trade_off.second
    points = {row.name: (first.of(row), second.of(row)) for row in trade_off.front}
    axes.plot(*zip(*points.values(), strict=True), drawstyle="steps-post", color=FRONT, linewidth=1.2, zorder=1)
    for row in rows:
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


def _whiskers(axes: Any, row: ExplorationRow, *placed: tuple[Measure, float]) -> None:
    """Draw the quartiles of what was measured several times, without widening the axes as a disturbed pass would."""
    from matplotlib.lines import Line2D

    (first, x), (second, y) = placed
    xs = first.spread(row) if first.spread else (x, x)
    ys = second.spread(row) if second.spread else (y, y)
    for line in ((xs, (y, y)), ((x, x), ys)):
        axes.add_artist(Line2D(*line, color=FRONT, linewidth=0.8, alpha=0.6, zorder=2))


def _style(row: ExplorationRow, gammas: Sequence[float]) -> dict[str, Any]:
    if row.partial is None:
        return PLAIN
    return {
        "marker": MARKERS[gammas.index(row.partial.gamma) % len(MARKERS)],
        "color": COLOURS[row.partial.fusion],
        "markerfacecolor": COLOURS[row.partial.fusion] if row.partial.split == "project" else "white",
        "markersize": 8,
    }


def _legend(rows: Sequence[ExplorationRow], gammas: Sequence[float]) -> list[Any]:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linestyle=style.pop("linestyle", ""), label=label, **style)

    partials = [row.partial for row in rows if row.partial]
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
