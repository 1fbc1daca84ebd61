"""Profiles as files: JSON, CSV, and a chart."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossstage.errors import ConfigError
from crossstage.files import whole_file, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crossstage.analysis.layer import Kind
    from crossstage.analysis.profile import Profile

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


def colour(kind: Kind) -> str:
    """The colour of a kind of layer in every chart."""
    return COLOURS.get(kind, OTHERS)


def save(profile: Profile, path: Path) -> None:
    """Write a profile, see :meth:`Profile.save`."""
    writers: dict[str, Callable[[Profile, Path], None]] = {".json": _json, ".csv": _csv, ".png": _png}
    if path.suffix not in writers:
        raise ConfigError(f"{path}: cannot write a profile as {path.suffix or 'this'}; expected {', '.join(writers)}")
    writers[path.suffix](profile, path)


def _json(profile: Profile, path: Path) -> None:
    write_text(path, json.dumps(profile.to_dict(), indent=1) + "\n")


def _csv(profile: Profile, path: Path) -> None:
    rows = profile.rows()
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    """Shapes as ``1x3x224x224``, several of them apart."""
    if not isinstance(value, tuple):
        return value
    return " ".join(map(_cell, value)) if value and isinstance(value[0], tuple) else "x".join(map(str, value))


def _png(profile: Profile, path: Path) -> None:
    with whole_file(path) as temporary:
        chart(profile).savefig(temporary, dpi=120)


def chart(profile: Profile) -> Figure:
    """Operations, traffic and held memory of each layer, in the order they run."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True)
    layers, places = profile.layers, range(len(profile.layers))
    colours = [colour(layer.kind) for layer in layers]
    axes[0].bar(places, [layer.flops / 1e9 for layer in layers], color=colours, width=1.0)
    axes[0].set_ylabel("BFLOPs")
    axes[1].bar(places, [layer.moved * 4 / 1e6 for layer in layers], color=colours, width=1.0)
    axes[1].set_ylabel("MB moved, fp32")
    axes[2].fill_between(places, [layer.live * 4 / 1e6 for layer in layers], step="mid", color="#3b6fb6", alpha=0.35)
    axes[2].set_ylabel("MB held, fp32")
    axes[2].set_xlabel("operation, in order")
    for place in axes:
        place.margins(x=0.005)
        place.set_ylim(bottom=0)
        place.spines[["top", "right"]].set_visible(False)
    shown = dict.fromkeys(layer.kind if layer.kind in COLOURS else "other" for layer in layers)
    handles = [Patch(color=COLOURS.get(kind, OTHERS), label=kind) for kind in shown]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, fontsize="small")
    size = " x ".join(map(str, profile.input_shape))
    axes[0].set_title(
        f"{profile.name}, input {size}: {profile.bflops:.3f} BFLOPs, {profile.weights / 1e6:.2f} M weights",
        loc="left",
        parse_math=False,
    )
    return figure
