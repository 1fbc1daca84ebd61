"""The verb that looks at gradients."""

from __future__ import annotations

from pathlib import Path

from crossstage.cli.console import console
from crossstage.cli.console import table as make_table


def gradients(
    model: str, imgsz: int | None = None, json: str | None = None, data: str | None = None, save: str = "gradients.png"
) -> int:
    """Count the gradient paths to each layer of a network; compare the gradients within its stages.

    Args:
        model: A model, with or without weights; a model file or a training's folder; a Darknet .cfg; timm:NAME,
            torchvision:NAME; or path/to/file.py:function, which is run.
        imgsz: Side of the network's input in pixels; by default its own.
        json: File for the paths, with the exact counts.
        data: A classification dataset whose images show how alike the gradients are that reach the layers of each
            stage; for our own classifiers.
        save: Image for that, a heat map for each stage.
    """
    from decimal import Decimal
    from json import dumps

    from crossstage.analysis import gradient_similarity, plot_similarity
    from crossstage.cli.lookup import classifier_and_batch, gradient_paths_of
    from crossstage.files import whole_file, write_text

    rows = gradient_paths_of(model, imgsz)
    table = make_table("layer", "paths", "shortest", "longest", numbers=3)
    for row in rows:
        told = f"{row.paths:,}" if row.paths < 10**15 else f"{Decimal(row.paths):.3e}"
        table.add_row(row.layer, told, str(row.shortest), str(row.longest))
    out = console()
    out.print(table)
    if json:
        write_text(Path(json), dumps([vars(row) for row in rows], indent=1) + "\n")
    if data:
        network, batch = classifier_and_batch(model, data, imgsz)
        found = gradient_similarity(network, [batch])
        with whole_file(Path(save)) as temporary:
            plot_similarity(found).savefig(temporary, dpi=120)
        out.print(f"{save}: gradients of {len(batch[0])} images", markup=False, highlight=False, soft_wrap=True)
    return 0
