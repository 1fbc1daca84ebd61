"""The verbs that tell what a network costs: profile.

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
        batch: Pictures of a pass.
        layers: Print every operation, not the largest layers alone.
        measure: Time each operation on this machine, too, and place it under the machine's roofline.
        device: Where to measure, such as cpu or cuda:1; by default a GPU if there is one.
        write: Files to write.
    """
    from crossstage.analysis.printing import print_profile
    from crossstage.zoo import profile as count

    with console(stderr=True).status("measuring" if measure else "counting"):
        counted = count(model, imgsz, batch=batch, measure=measure, device=device)
    for file in write or ():
        counted.save(file)
    print_profile(counted, console(), layers=layers)
    return 0
