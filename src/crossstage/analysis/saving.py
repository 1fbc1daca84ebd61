"""What a profile leaves on disk: JSON, a table of its layers as CSV, and a chart of them.

Nothing here knows profiles: functions take plain values and layers.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossstage.analysis.layer import BYTES, Layer, LayerKind
from crossstage.files import whole_file, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS: dict[str, str] = {
    "convolution": "#3b6fb6",
    "linear": "#7a4fa3",
    "matmul": "#b0529b",
    "concatenation": "#d1603d",
    "pooling": "#2f9e8f",
    "upsampling": "#8fb339",
    "elementwise": "#d9a441",
}
OTHERS = "#9aa3ad"
"""Colour of all other kinds of layers."""


def colour(kind: LayerKind) -> str:
    """Return the colour of a kind of layer, the same in every chart, as ``#rrggbb``."""
    return COLOURS.get(kind, OTHERS)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write values as indented JSON.

    Raises:
        DataError: The file cannot be written.
    """
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a table, one line for each row; the keys of the first row are the header.

    Raises:
        DataError: The file cannot be written.
    """
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def write_chart(layers: Sequence[Layer], title: str, path: Path) -> None:
    """Write :func:`chart` as a PNG image.

    Raises:
        DataError: The file cannot be written.
    """
    with whole_file(path) as temporary:
        chart(layers, title).savefig(temporary, format="png", dpi=120)


def _cell(value: Any) -> Any:
    """Write a shape as ``1x3x224x224``, several of them with spaces between; leave anything else as it is."""
    if not isinstance(value, tuple):
        return value
    return " ".join(map(_cell, value)) if value and isinstance(value[0], tuple) else "x".join(map(str, value))


def chart(layers: Sequence[Layer], title: str) -> Figure:
    """Draw operations, traffic and held memory of each layer as bars.

    Args:
        layers: The layers, in the order in which they run.
        title: The text above the chart.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    places = range(len(layers))
    colours = [colour(layer.kind) for layer in layers]
    axes[0].bar(places, [layer.flops / 1e9 for layer in layers], color=colours, width=1.0)
    axes[0].set_ylabel("BFLOPs")
    axes[1].bar(places, [layer.moved * BYTES["fp32"] / 1e6 for layer in layers], color=colours, width=1.0)
    axes[1].set_ylabel("MB moved, fp32")
    held = [layer.live * BYTES["fp32"] / 1e6 for layer in layers]
    axes[2].fill_between(places, held, step="mid", color="#3b6fb6", alpha=0.35)
    axes[2].set_ylabel("MB held, fp32")
    axes[2].set_xlabel("operation, in order")
    for place in axes:
        place.margins(x=0.005)
        place.set_ylim(bottom=0)
        place.spines[["top", "right"]].set_visible(False)
    shown = dict.fromkeys(layer.kind if layer.kind in COLOURS else "other" for layer in layers)
    handles = [Patch(color=COLOURS.get(kind, OTHERS), label=kind) for kind in shown]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize="small")
    axes[0].set_title(title, loc="left", parse_math=False)
    return figure
