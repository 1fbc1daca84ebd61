"""The verb that gives a network its cross stage partial variant: convert."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from crossstage.cli.console import console


def convert(
    module: str,
    gamma: float = 0.5,
    fusion: Literal["first", "last", "both", "none"] = "both",
    split: Literal["project", "slice"] = "project",
    stages: list[str] | None = None,
    imgsz: int | None = None,
    out: str | None = None,
) -> int:
    """Give a plain network its cross stage partial variant, and write that as source.

    Args:
        module: The network: a name of "crossstage models", timm:NAME, torchvision:NAME, or path/to/file.py:function.
        gamma: Share of the channels that is carried past a stage's blocks. Larger is cheaper.
        fusion: Which transitions there are: first (after the parts are joined), last (before), both or none.
        split: Read each part with a convolution of its own, or slice the channels.
        stages: Names or numbers of the stages to convert.
        imgsz: Side of the images that costs are counted at, in pixels; by default the network's own.
        out: The Python file to write, which holds the network's edits and runs alone; by default none is written.
    """
    import torch

    from crossstage.csp import carry_out, make_plan, origin_of, write_source
    from crossstage.files import write_text
    from crossstage.nn import Partial
    from crossstage.weights.resolving import resolve

    found = resolve(module)
    channels, *size = found.input_shape
    example = torch.empty(1, channels, *([imgsz, imgsz] if imgsz else size), device="meta")
    chosen = None if stages is None else [int(name) if name.lstrip("-").isdigit() else name for name in stages]
    plan = make_plan(found.module, Partial(gamma, fusion, split), chosen, example)
    _, report = carry_out(found.module, plan)
    if out:
        title = f"{module} as a cross stage partial network: gamma {gamma}, fusion {fusion}, split {split}."
        write_text(Path(out), write_source(found.module, plan, report, origin_of(module, Path(out)), title))
    console().print(str(report), markup=False, highlight=False, soft_wrap=True)
    if out:
        console().print(f"written: {out}", markup=False, highlight=False, soft_wrap=True)
    return 0
