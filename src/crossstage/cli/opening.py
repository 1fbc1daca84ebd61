"""Opening a model for a verb."""

from __future__ import annotations

from typing import Any

from crossstage.cli.console import console
from crossstage.deploy import Opened, open_model


def opened_and_told(model: str, **options: Any) -> Opened:
    """Open a model, which can take a minute when a runtime is used for the first time, and tell how it was chosen.

    Args:
        model: As for :func:`crossstage.open_model`.
        **options: As for it.
    """
    with console(stderr=True).status("opening the model"):
        opened = open_model(model, **options)
    if opened.told:
        console(stderr=True).print(opened.told, markup=False, highlight=False, soft_wrap=True)
    return opened
