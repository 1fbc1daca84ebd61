"""The names that options take, each from the table that owns them; none of these tables needs torch."""

from __future__ import annotations

from typing import get_args

from crossstage.cli.declared import PACKAGE, choices

DEFAULT_MODEL = "cspdarknet53_tiny_yolo.coco"


def runtimes() -> list[str]:
    """Return what may run a model, "auto" for the fastest among them."""
    from crossstage.deploy.backends import runtime_names

    return ["auto", *runtime_names()]


def export_formats() -> list[str]:
    """Return the formats that models are written in."""
    from crossstage.deploy.backends import formats

    return list(formats())


def precisions() -> tuple[str, ...]:
    """Return what runtimes compute in."""
    from crossstage.deploy.backends.base import Arithmetic

    return get_args(Arithmetic)


def data_formats() -> list[str]:
    """Return the formats of datasets."""
    from crossstage.data.formats import format_names

    return format_names()


def written_formats() -> list[str]:
    """Return the formats in which datasets are written."""
    from crossstage.data.formats import FORMATS

    return [name for name in data_formats() if FORMATS[name].write]


def label_formats() -> list[str]:
    """Return the formats in which boxes are written."""
    from crossstage.data.formats import FORMATS

    return [name for name in written_formats() if FORMATS[name].task == "detect"]


def nms_kinds() -> tuple[str, ...]:
    """Return the kinds of suppression."""
    return choices("crossstage.ops.nms", "NMSKind")


def trackers() -> tuple[str, ...]:
    """Return the ways of following objects."""
    return choices("crossstage.inference.tracking", "TrackerKind")


def on_bad_label() -> tuple[str, ...]:
    """Return what may be done about broken labels."""
    return choices("crossstage.data.faults", "OnBadLabel")


def fusions() -> tuple[str, ...]:
    """Return where a stage's parts may be fused."""
    return choices("crossstage.nn.partial", "Fusion")


def splits() -> tuple[str, ...]:
    """Return how a stage's parts may be taken."""
    return choices("crossstage.nn.partial", "SplitKind")


def recipes() -> list[str]:
    """Return the recipes of trainings in the package."""
    return sorted(file.stem for file in (PACKAGE / "training" / "recipes").glob("*.yaml"))


def benchmark_ways() -> list[str]:
    """Return the ways to run a network that are compared."""
    from crossstage.deploy.benchmark.ways import ways

    return list(ways())
