"""A report as one HTML page that carries all it needs: style, data, and plotly's script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from crossstage.analysis.html.figures import HEADLINES, MEASURED, TABLE, TIME, Figure
from crossstage.analysis.layer import BYTES, Layer
from crossstage.analysis.printing import kind_of
from crossstage.analysis.profile import Profile
from crossstage.analysis.saving import COLOURS, OTHERS
from crossstage.errors import ConfigError, not_installed
from crossstage.files import write_text
from crossstage.version import __version__

MEASURED_ROOF = (
    "How fast each layer ran, against the operations it has for each byte; the roof is what this machine does at best."
)
PLANNED_ROOF = "How fast each layer can run on a machine of these best rates, by the operations it has for each byte."


def write_report(profiles: Sequence[Profile], path: str | Path) -> None:
    """Write a page that compares networks: charts of every layer, bottlenecks, roofline, tables.

    It opens from disk in any browser and asks the network for nothing.

    Args:
        profiles: The networks' profiles, at least one; differences are shown against the first.
        path: The ``.html`` file to write.

    Raises:
        ConfigError: There are no profiles, or plotly is not installed.
        DataError: The file cannot be written.
    """
    write_text(Path(path), render(profiles))


def render(profiles: Sequence[Profile]) -> str:
    """Return the page of :func:`write_report` as text.

    Raises:
        ConfigError: There are no profiles, or plotly is not installed.
    """
    if not profiles:
        raise ConfigError("a report of no networks; expected at least one")
    room = files("crossstage.analysis.html")
    style, script = (room.joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    return Template(room.joinpath("page.html").read_text("utf-8")).substitute(
        title=escape(" and ".join(dict.fromkeys(profile.name for profile in profiles))),
        about=escape(_about(profiles)),
        style=style,
        plotly=_plotly(),
        script=script,
        data=_as_data({"profiles": [_data(profile) for profile in profiles], "colours": COLOURS, "others": OTHERS}),
        roofline=MEASURED_ROOF if profiles[0].roof else PLANNED_ROOF,
        tiles="\n".join(_tile(figure, profiles) for figure in (*HEADLINES, *((TIME,) if profiles[0].roof else ()))),
        bottlenecks="\n".join(map(_bottleneck, profiles)),
        table=_table(profiles),
    )


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise not_installed("plotly", "report") from None
    return get_plotlyjs().replace("</script", r"<\/script")


def _as_data(content: Any) -> str:
    """Return JSON that no text in it can break out of."""
    return json.dumps(content).replace("<", r"\u003c")


def _about(profiles: Sequence[Profile]) -> str:
    sizes = dict.fromkeys(_size(profile) for profile in profiles)
    roof = profiles[0].roof
    measured = f", measured on {roof.machine}" if roof else ""
    return f"Input {', '.join(sizes)}{measured}. CrossStage {__version__}, {date.today().isoformat()}."


def _size(profile: Profile) -> str:
    return " × ".join(map(str, profile.input_shape))


def _tile(figure: Figure, profiles: Sequence[Profile]) -> str:
    """Return a figure of all networks as bars."""
    values = [figure.of(profile) or 0.0 for profile in profiles]
    most = max(values) or 1.0
    bars = "\n".join(
        f'<div class="bar"><span class="name" title="{escape(profile.name)}">{escape(profile.name)}</span>'
        f'<span class="track"><span class="fill series-{index}" style="width:{value / most * 100:.2f}%"></span></span>'
        f'<span class="value">{figure.text(profile)}{_change(value, values[0]) if index else ""}</span></div>'
        for index, (profile, value) in enumerate(zip(profiles, values, strict=True))
    )
    return f'<div class="tile"><h3>{escape(figure.title)} <small>{escape(figure.unit)}</small></h3>\n{bars}</div>'


def _bottleneck(profile: Profile) -> str:
    found = profile.bottleneck
    if not found.layers:
        return ""
    return (
        f'<p class="detail"><b>{escape(profile.name)}</b>: <span class="layer">{escape(found.layers[0].name)}</span> '
        f"holds {found.share:.1%} of all operations, {found.max_over_mean:.1f} times the mean layer.</p>"
    )


def _change(value: float, first: float) -> str:
    if not first:
        return ""
    text = f"{(value / first - 1) * 100:+.1f} %".replace("-", "−")
    return f' <span class="change">{text}</span>'


def _table(profiles: Sequence[Profile]) -> str:
    groups = {**TABLE, **({"time": MEASURED} if profiles[0].roof else {})}
    head = "".join(
        f'<th class="number"><span class="dot series-{index}"></span>{escape(profile.name)}<br>'
        f"<small>{_size(profile)}</small></th>"
        for index, profile in enumerate(profiles)
    )
    lines = [f'<table id="totals"><thead><tr><th></th>{head}</tr></thead>']
    for group, figures in groups.items():
        lines.append(f'<tbody><tr class="group"><th colspan="{len(profiles) + 1}">{escape(group)}</th></tr>')
        lines += [_line(figure, profiles) for figure in figures]
        lines.append("</tbody>")
    return "\n".join([*lines, "</table>"])


def _line(figure: Figure, profiles: Sequence[Profile]) -> str:
    first = figure.of(profiles[0])
    cells = "".join(
        f'<td class="number">{figure.text(profile)}'
        f"{_change(figure.of(profile) or 0.0, first or 0.0) if index else ''}</td>"
        for index, profile in enumerate(profiles)
    )
    return f"<tr><th>{escape(figure.title)} <small>{escape(figure.unit)}</small></th>{cells}</tr>"


def _data(profile: Profile) -> dict[str, Any]:
    """Return what the page's script draws: a network's layers, in the units of the charts."""
    return {
        "name": profile.name,
        "roof": {"flops": profile.roof.flops / 1e9, "bytes": profile.roof.bytes / 1e9} if profile.roof else None,
        "layers": [_layer(profile, layer) for layer in profile.layers],
    }


def _layer(profile: Profile, layer: Layer) -> dict[str, Any]:
    found = {
        "name": layer.name,
        "what": kind_of(layer),
        "kind": layer.kind,
        "output": "×".join(map(str, layer.output_shape[1:])),
        "parameters": layer.parameters / 1e6,
        "bflops": layer.flops / 1e9,
        "share": layer.flops / max(profile.flops, 1) * 100,
        "access": layer.memory_access / 1e6,
        "moved": layer.moved * BYTES["fp32"] / 1e6,
        "held": layer.live * BYTES["fp32"] / 1e6,
        "intensity": layer.intensity(),
    }
    if profile.roof and layer.seconds:
        found |= {
            "ms": layer.seconds * 1e3,
            "rate": layer.flops / layer.seconds / 1e9,
            "bandwidth": layer.moved * BYTES["fp32"] / layer.seconds / 1e9,
            "of_roof": (profile.roof.share(layer) or 0) * 100,
        }
    return found
