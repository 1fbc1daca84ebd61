"""The verbs that write datasets: data convert, split, merge and sample."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError

if TYPE_CHECKING:
    from crossstage.data.find import DataSource
    from crossstage.data.records import Dataset

TO = "The format that is written; by default the first dataset's own."


def _declare(parser: Parser, *, many: bool = False) -> None:
    parser.positional("source", "The dataset." if not many else "Datasets, and last the new folder.", many=many)
    if not many:
        parser.positional("target", "The folder for the new dataset; nothing may be in it.")
    parser.option("to", TO, choices=names.written_formats())
    parser.option("format", "The format that is read, where it is not recognised.", choices=names.data_formats())
    parser.flag("link", "Link images instead of copying them: no space is taken, and changes show in both.")


def _declare_merge(parser: Parser) -> None:
    _declare(parser, many=True)


def _declare_split(parser: Parser) -> None:
    _declare(parser)
    parser.option("val", "The share of the images for validation.", float, 0.2)
    parser.option("test", "The share of the images for the test.", float, 0.0)
    parser.option("seed", "Chooses the images.", int, 0)
    parser.option(
        "group_by",
        "A regular expression for image paths: images in which it finds the same text, or whose first group holds the "
        "same, stay in one part.",
    )


def _declare_sample(parser: Parser) -> None:
    _declare(parser)
    parser.option("images", "How many images.", int, required=True)
    parser.option("seed", "Chooses the images.", int, 0)


def _source(path: str, given: Namespace) -> DataSource:
    from crossstage.data.find import find_data

    return find_data(path, given.format)


def _parts(source: DataSource) -> dict[str, Dataset]:
    return {split: source.read(split) for split in source.parts}


def _write(parts: Mapping[str, Dataset], target: str, source: DataSource, given: Namespace) -> int:
    from crossstage.data.writing import losses, write_dataset

    format = given.to or source.format
    if format not in names.written_formats():
        raise ConfigError(f"format {format!r} cannot be written; expected --to {', '.join(names.written_formats())}")
    for lost in losses(parts, format):
        console(stderr=True).print(f"{format} cannot hold {lost}", markup=False, highlight=False, soft_wrap=True)
    write_dataset(parts, Path(target), format, link=given.link, progress=not given.quiet)
    counts = ", ".join(f"{split} {len(data)}" for split, data in parts.items())
    say(f"{target}: {format}; images: {counts}")
    return 0


def convert(given: Namespace) -> int:
    """Write a dataset in another format."""
    source = _source(given.source, given)
    return _write(_parts(source), given.target, source, given)


def split(given: Namespace) -> int:
    """Divide a dataset into parts."""
    from crossstage.data.records import joined
    from crossstage.data.splitting import split_data

    source = _source(given.source, given)
    shares = {"val": given.val, "test": given.test}
    whole = joined(list(_parts(source).values()))
    parts = split_data(whole, shares, seed=given.seed, group_by=given.group_by, progress=not given.quiet)
    return _write(parts, given.target, source, given)


def merge(given: Namespace) -> int:
    """Make one dataset of several."""
    from crossstage.data.merging import merge_data

    *paths, target = given.source
    if len(paths) < 2:
        raise ConfigError("expected two datasets or more, and last the new folder")
    sources = [_source(path, given) for path in paths]
    return _write(merge_data([_parts(source) for source in sources]), target, sources[0], given)


def sample(given: Namespace) -> int:
    """Write some images of a dataset, each part by its share."""
    from crossstage.data.splitting import sample_parts

    source = _source(given.source, given)
    parts = sample_parts(_parts(source), given.images, seed=given.seed)
    return _write(parts, given.target, source, given)


VERBS = {
    "convert": Verb("Write a dataset in another format.", _declare, convert),
    "split": Verb(
        "Divide a dataset into parts: classes by their shares, copies and groups on one side.", _declare_split, split
    ),
    "merge": Verb("Make one dataset of several; classes of one name are one class.", _declare_merge, merge),
    "sample": Verb("Write some images of a dataset, each class by its share.", _declare_sample, sample),
}
