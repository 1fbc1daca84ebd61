"""Public names, verbs, formats, backends, necks and heads in lists: writes docs/reference.md.

    python -m research.pages.reference > docs/reference.md

Everything but the links to the guides is read from the package, so a new file in one of its rooms is a new row.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

import crossstage
from crossstage.cli import VERBS
from crossstage.cli.verb import Group
from crossstage.data.formats import FORMATS, format_names
from crossstage.deploy.backends import BACKENDS, formats, ordered, runtimes
from crossstage.deploy.backends.base import ALL_OPTIONS, FileFormat
from crossstage.models.heads import HEADS
from crossstage.models.necks import NECKS

GUIDES = {
    "predicting": ("Detector", "NMS", "fuse", "load", "open_model"),
    "networks": ("Partial", "create_detector", "create_model", "list_models", "model_info"),
    "training": ("TrainOptions", "train"),
    "costs": ("profile",),
    "partial": ("to_partial",),
    "darknet": ("darknet",),
}
VERB_GUIDES = {
    "predicting": ("predict", "track", "val", "benchmark"),
    "training": ("train", "pack"),
    "data": ("data",),
    "exporting": ("export",),
    "serving": ("serve",),
    "labelling": ("label",),
    "networks": ("models", "info"),
    "costs": ("profile", "report", "explore", "gradients"),
    "partial": ("convert",),
    "darknet": ("darknet",),
}
OPTIONS = ("dynamic", "half", "int8", "decode", "nms")

PAGE = """\
# Reference

This page is written by `python -m research.pages.reference`. `help(crossstage.load)` and the like show all of a name's
arguments, shapes, units and errors.

## Python

What `import crossstage` offers. What is not in this list is imported from the module that defines it.

{names}

## Command line

`crossstage VERB --help` lists the options of a verb. They may be spelled with hyphens or underscores; every verb takes
`--quiet`. Exit codes: 0 for success, 1 if something was skipped or faulty, 2 if a command could not be carried out, 130
after Ctrl-C, 143 after SIGTERM.

{verbs}

## Backends

The formats of `crossstage export`, see [exporting](guides/exporting.md):

{formats}

What runs models, the choices of `--runtime`:

{runtimes}

[Add a backend](how-to/add-a-backend.md).

## Dataset formats

The choices of `--format` of the `data` verbs and `train`, see [data](guides/data.md). A YAML file names parts of
any of them.

{data}

[Add a dataset format](how-to/add-a-dataset-format.md).

## Necks

See [networks](guides/networks.md#necks). Backbones are listed by `crossstage models`.

{necks}

## Heads

{heads}

[Add a head](how-to/add-a-head.md), [a backbone](how-to/add-a-backbone.md).
"""


def page() -> str:
    """Return the whole page."""
    return PAGE.format(
        names=_table(("name", "what it is", "guide"), map(_name, crossstage.__all__)),
        verbs=_table(("verb", "what it does", "guide"), _verbs()),
        formats=_table(("`--format`", "written", "run by", *(f"`--{option}`" for option in OPTIONS)), _formats()),
        runtimes=_table(("`--runtime`", "", "installed by", "reads", "computes in"), _runtimes()),
        data=_table(("`--format`", "for", "recognised by"), _data()),
        necks=_table(("name", "reads strides", "module"), _necks()),
        heads=_table(("name", "what it is"), _heads()),
    )


def _name(name: str) -> tuple[str, ...]:
    value = getattr(crossstage, name)
    summary = "The version of the package." if name == "__version__" else _summary(value)
    return f"`{name}`", summary, _guide(name, GUIDES)


def _verbs() -> Iterable[tuple[str, ...]]:
    for first, verb in VERBS.items():
        below = {f"{first} {word}": v for word, v in verb.verbs.items()} if isinstance(verb, Group) else {first: verb}
        for words, one in below.items():
            yield f"`{words}`", one.summary, _guide(first, VERB_GUIDES)


def _formats() -> Iterable[tuple[str, ...]]:
    for name, one in formats().items():
        assert set(OPTIONS) == ALL_OPTIONS
        run_by = [BACKENDS[runtime].label for runtime, run in runtimes().items() if one.graph_suffix in run.reads]
        marks = ("yes" if option in one.options else "–" for option in OPTIONS)
        yield f"`{name}`", _written(one), ", ".join(run_by) or "–", *marks


def _written(one: FileFormat) -> str:
    if one.graph:
        return f"folder `NAME{one.suffix}/`"
    return ", ".join(f"`NAME{suffix}`" for suffix in (one.suffix, *one.beside))


def _runtimes() -> Iterable[tuple[str, ...]]:
    for name, backend in ordered().items():
        if backend.runtime or backend.prepare:
            run = backend.runtime
            reads = ", ".join(f"`{suffix}`" for suffix in run.reads) if run else "models as they are"
            computes = list(run.precisions) if run else ["fp32", "bf16"]
            computes += ["int8"] if run and run.int8_format else []
            yield f"`{name}`", backend.label, f"`pip install {backend.install}`", reads, ", ".join(computes)


def _data() -> Iterable[tuple[str, ...]]:
    tasks = {"detect": "boxes", "classify": "one label an image"}
    for name in format_names():
        yield f"`{name}`", tasks[FORMATS[name].task], FORMATS[name].looked_for.replace("*", "\\*")


def _necks() -> Iterable[tuple[str, ...]]:
    for name, row in NECKS.items():
        file = row.__class__.__module__.replace(".", "/")
        yield f"`{name}`", ", ".join(map(str, row.reads)), f"[{file.split('/')[-1]}.py](../src/{file}.py)"


def _heads() -> Iterable[tuple[str, ...]]:
    for name, row in HEADS.items():
        yield f"`{name}`", _summary(inspect.getmodule(row.__class__))


def _summary(value: object) -> str:
    """Return the first sentence of a docstring, as Markdown."""
    first = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    plain = re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", first).replace("``", "`").replace("|", "\\|")
    return plain.split(". ")[0].rstrip(":.") + "."


def _guide(name: str, guides: dict[str, tuple[str, ...]]) -> str:
    return next((f"[{guide}](guides/{guide}.md)" for guide, names in guides.items() if name in names), "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(page(), end="")
