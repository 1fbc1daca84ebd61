"""The verbs that tell what a network costs: profile, report.

Their functions are not called as those of the package, which jsonargparse would load to see whether they are the same.
"""

from __future__ import annotations

from crossstage.cli.console import console


def profile_network(
    model: str,
    imgsz: int | None = None,
    batch: int = 1,
    layers: bool = False,
    measure: bool = False,
    device: str | None = None,
    write: list[str] | None = None,
) -> int:
    """Tell what a network costs: parameters, operations, memory traffic, peak memory, bottleneck.

    Args:
        model: A model in "crossstage models", a model file, a Darknet .cfg, timm:NAME, torchvision:NAME, or
            path/to/file.py:function, which is run and gives a torch module. Weights are not needed.
        imgsz: Side of the network's input in pixels; by default its own.
        batch: Images of a pass.
        layers: Print every operation, not the largest layers alone.
        measure: Time each operation on this machine, too, and place it under the machine's roofline.
        device: Where to measure, such as cpu or cuda:1; by default a GPU if there is one.
        write: Files to write.
    """
    from crossstage.analysis.printing import print_profile
    from crossstage.profiling import profile as count

    with console(stderr=True).status("measuring" if measure else "counting"):
        counted = count(model, imgsz, batch=batch, measure=measure, device=device)
    for file in write or ():
        counted.save(file)
    print_profile(counted, console(), layers=layers)
    return 0


def report(
    *,
    models: list[str],
    out: str = "report.html",
    imgsz: int | None = None,
    batch: int = 1,
    measure: bool = False,
    device: str | None = None,
) -> int:
    """Compare what networks cost on one page: charts of every layer, bottlenecks, roofline, tables.

    Args:
        models: As for profile; differences are told against the first.
        out: The page to write, which opens in any browser.
        imgsz: Side of the networks' input in pixels; by default each network's own.
        batch: Images of a pass.
        measure: Time each operation on this machine, too.
        device: Where to measure, such as cpu or cuda:1; by default a GPU if there is one.
    """
    from crossstage.analysis.html import write_report
    from crossstage.profiling import profile as count

    with console(stderr=True).status("measuring" if measure else "counting") as status:
        counted = []
        for name in models:
            status.update(name)
            counted.append(count(name, imgsz, batch=batch, measure=measure, device=device))
        write_report(counted, out)
    console().print(f"{out}: {', '.join(models)}", highlight=False, markup=False, soft_wrap=True)
    return 0
