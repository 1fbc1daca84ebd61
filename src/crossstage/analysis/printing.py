"""Profiles as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossstage.analysis.layer import BYTES, Layer, LayerKind
from crossstage.analysis.profile import Profile
from crossstage.analysis.roof import Roof

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_profile(profile: Profile, console: Console, *, layers: bool = False) -> None:
    """Print totals and the largest layers.

    Args:
        profile: The profile to print.
        console: The console to print to.
        layers: Whether to print every layer, not the largest alone.
    """
    from rich.text import Text

    size = " x ".join(map(str, profile.input_shape))
    console.print(Text.assemble((profile.name, "bold"), f", input {size}"), soft_wrap=True)
    console.print(_totals(profile))
    console.print()
    if layers:
        shown, title = profile.layers, "all operations, in order"
    elif profile.roof:
        shown, title = profile.slowest, "the slowest operations"
    else:
        shown, title = profile.bottleneck.layers, "the largest layers"
    console.print(_layers(profile, shown, title))


def described(profile: Profile) -> dict[str, str]:
    """Return the totals of a profile as text, by their titles."""
    found, peak = profile.bottleneck, profile.peak_layer

    def by_precision(value: dict[str, int]) -> str:
        return ", ".join(f"{name} {megabytes(count)}" for name, count in value.items())

    intensities = ", ".join(f"{name} {profile.arithmetic_intensity(name):.1f}" for name in BYTES)
    rows = {
        "parameters": f"{profile.parameters:,}, of which {profile.weights:,} in kernels",
        "multiply-adds": f"{profile.macs / 1e9:.3f} G",
        "BFLOPs": f"{profile.bflops:.3f}; with pooling, as Darknet counts: {profile.darknet_bflops:.3f}",
        "activations": f"{profile.activations / 1e6:.2f} M values that convolutions and linear layers write",
        "memory access": f"{profile.memory_access / 1e6:.2f} M values; "
        f"at least {profile.memory_access_bound / 1e6:.2f} M for as many operations",
        "CIO": f"{profile.cio / 1e6:.2f} M values; with pooling {profile.cio_with_pooling / 1e6:.2f} M",
        "DRAM traffic": by_precision({name: profile.dram_bytes(name) for name in BYTES}),
        "  unfolded": by_precision({name: profile.dram_bytes(name, folded=False) for name in BYTES}),
        "peak of maps": by_precision({name: profile.peak_activation_bytes(name) for name in BYTES})
        + f", in {where(peak)}",
        "FLOPs per byte": intensities,
    }
    if found.layers:
        rows["bottleneck"] = (
            f"{where(found.layers[0])}: {found.share:.1%} of all operations, {found.max_over_mean:.1f} times the mean"
        )
    if profile.roof and profile.seconds:
        roof = profile.roof
        rows["time"] = f"{profile.seconds * 1e3:.2f} ms in all operations, {rate(profile.flops / profile.seconds)}"
        rows["machine"] = f"{roof.machine}: at best {rate(roof.flops)} and {bandwidth(roof.bytes)} in fp32"
    return rows


def where(layer: Layer) -> str:
    """Return a layer's name and kind."""
    return f"{layer.name or 'the model itself'} ({kind_of(layer)})"


def megabytes(count: int) -> str:
    """Return a number of bytes as text, in megabytes."""
    return f"{count / 1e6:,.1f} MB"


def rate(flops: float) -> str:
    """Return a rate in operations a second as text."""
    return f"{flops / 1e9:,.1f} GFLOP/s"


def bandwidth(count: float) -> str:
    """Return a rate in bytes a second as text."""
    return f"{count / 1e9:,.1f} GB/s"


def _totals(profile: Profile) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for key, value in described(profile).items():
        table.add_row(key, value)
    return table


def _layers(profile: Profile, layers: tuple[Layer, ...], title: str) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    counted = ("output", "BFLOPs", "share", "MB", "FLOP/B")
    timed = ("BFLOPs", "ms", "GFLOP/s", "GB/s", "of roof", "bound")
    for position, column in enumerate(("layer", "what", *(timed if profile.roof else counted))):
        table.add_column(column, justify="left" if position < 2 else "right", overflow="fold", no_wrap=position > 0)
    for layer in layers:
        cells = _timed(profile.roof, layer) if profile.roof else _counted(profile, layer)
        table.add_row(Text(layer.name), kind_of(layer), *cells)
    return table


def _counted(profile: Profile, layer: Layer) -> list[str]:
    return [
        "x".join(map(str, layer.output_shape[1:])),
        f"{layer.flops / 1e9:.3f}",
        f"{layer.flops / max(profile.flops, 1):.1%}",
        f"{layer.moved * BYTES['fp32'] / 1e6:.2f}",
        f"{layer.intensity():.1f}",
    ]


def _timed(roof: Roof, layer: Layer) -> list[str]:
    return [
        f"{layer.flops / 1e9:.3f}",
        f"{(layer.seconds or 0) * 1e3:.3f}",
        f"{(layer.rate or 0) / 1e9:.1f}",
        f"{(layer.bandwidth or 0) / 1e9:.1f}",
        f"{roof.share(layer) or 0:.0%}",
        roof.bound(layer),
    ]


SHORT: dict[LayerKind, str] = {"convolution": "conv", "upsampling": "upsample", "concatenation": "concat"}


def kind_of(layer: Layer) -> str:
    """Return a layer's kind in short, such as "conv 3x3 g32" for a convolution in 32 groups, or its operator."""
    if layer.kind in ("other", "elementwise", "activation"):
        return layer.operator.strip("_")
    window = " " + "x".join(map(str, layer.kernel)) if layer.kernel else ""
    return SHORT.get(layer.kind, layer.kind) + window + (f" g{layer.groups}" if layer.groups > 1 else "")
