"""Datasets divided: into parts, with classes in equal shares images that belong together on one side; samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossstage.data.alike import equal_images, similar_images
from crossstage.data.looks import look_at
from crossstage.data.records import Dataset, DetectionData
from crossstage.errors import ConfigError, DataError


def split_data(
    data: Dataset,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    group_by: str | None = None,
    progress: bool = False,
) -> dict[str, Dataset]:
    """Divide a dataset so that each part has its share of the images and of each class.

    Images that are equal or nearly so, and those of a group, come into one part.

    Args:
        data: The dataset.
        shares: The share of each part other than "train", from 0 to 1; what remains is "train".
        seed: Chooses the images.
        group_by: A regular expression that is searched in each image's path: images in which it finds the same text,
            or whose first group holds the same, belong together.
        progress: Whether a progress bar is shown on stderr.

    Returns:
        The parts.

    Raises:
        ConfigError: A share is out of range, or the expression makes no sense or fits no image.
        DataError: There are too few images or groups.
    """
    if not all(0 <= share < 1 for share in shares.values()) or not 0 < sum(shares.values()) < 1:
        stated = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise ConfigError(f"shares are {stated}; expected each from 0 to 1, and together more than 0 and less than 1")
    wanted = {"train": 1 - sum(shares.values()), **{name: share for name, share in shares.items() if share}}
    groups = groups_of(data, group_by, progress=progress)
    parts = _assigned(_traits(data), groups, np.array(list(wanted.values())), seed)
    found = {name: np.flatnonzero(parts == at).tolist() for at, name in enumerate(wanted)}
    if empty := [name for name, images in found.items() if not images]:
        count = len(np.unique(groups))
        raise DataError(f"{data.path}: {len(data)} images in {count} groups leave {empty[0]} empty; expected more")
    return {name: data.take(images) for name, images in found.items()}


def sample_data(data: Dataset, count: int, *, seed: int = 0) -> Dataset:
    """Return some images of a dataset, in which each class has its share.

    Args:
        data: The dataset.
        count: How many images.
        seed: Chooses them.

    Raises:
        ConfigError: ``count`` is below 1.
    """
    if count < 1:
        raise ConfigError(f"images={count}; expected at least 1")
    if count >= len(data):
        return data
    share = count / len(data)
    limits = np.array([count, len(data) - count])
    parts = _assigned(_traits(data), np.arange(len(data)), np.array([share, 1 - share]), seed, limits)
    return data.take(np.flatnonzero(parts == 0).tolist())


def sample_parts(parts: Mapping[str, Dataset], count: int, *, seed: int = 0) -> dict[str, Dataset]:
    """Return so many images of a dataset, of each part its share; parts too small for one image are left out."""
    total = sum(map(len, parts.values()))
    bounds = np.cumsum([0, *(len(data) for data in parts.values())]) * min(count, total) / total
    counts = np.diff(np.round(bounds).astype(int)).tolist() if count > 0 else [count] * len(parts)
    pairs = zip(parts.items(), counts, strict=True)
    return {split: sample_data(data, own, seed=seed) for (split, data), own in pairs if own != 0}


def groups_of(data: Dataset, group_by: str | None = None, *, progress: bool = False) -> NDArray[np.int64]:
    """Return ``(images,)`` the number of the group of each image: those that belong together have the same."""
    images = [image.path for image in data.images] if isinstance(data, DetectionData) else list(data.images)
    names = [str(image) for image in images] if isinstance(data, DetectionData) else list(data.names)
    looks = look_at(images, names, "comparing images", progress=progress)
    pairs = [pair for group in equal_images(looks) for pair in pairwise(group)]
    pairs += similar_images(looks, np.arange(len(images)))
    if group_by is not None:
        pairs += _named_alike(names, group_by)
    leaders = list(range(len(images)))

    def leader(of: int) -> int:
        while leaders[of] != of:
            leaders[of] = leaders[leaders[of]]
            of = leaders[of]
        return of

    for first, second in pairs:
        low, high = sorted((leader(first), leader(second)))
        leaders[high] = low
    return np.array([leader(at) for at in range(len(images))], np.int64)


def _named_alike(names: Sequence[str], pattern: str) -> list[tuple[int, int]]:
    try:
        sought = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"group_by={pattern!r}: {error}; expected a regular expression") from None
    firsts: dict[str, int] = {}
    pairs = []
    for at, name in enumerate(names):
        if found := sought.search(Path(name).as_posix()):
            text = (found[1] if sought.groups else found[0]) or ""
            pairs.append((firsts.setdefault(text, at), at))
    if not firsts:
        raise ConfigError(f"group_by={pattern!r} fits no image, such as {names[0]}; expected a part of their paths")
    return pairs


def _traits(data: Dataset) -> NDArray[np.float64]:
    """Return ``(images, classes + 2)`` what is to be shared out: objects of each class, no object, the image itself."""
    traits = np.zeros((len(data), len(data.class_names) + 2))
    if isinstance(data, DetectionData):
        np.add.at(traits, (data.boxes.image_index, data.boxes.class_ids), 1)
        traits[:, -2] = ~traits[:, :-2].any(1)
    else:
        traits[np.arange(len(data)), data.labels] = 1
    traits[:, -1] = 1
    return traits


def _assigned(
    traits: NDArray[np.float64],
    groups: NDArray[np.int64],
    shares: NDArray[np.float64],
    seed: int,
    limits: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return ``(images,)`` the part of each image.

    Groups, those of the rarest classes first, go each where the squared distance of what the parts have from what they
    should have shrinks most.
    """
    numbers, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(numbers), traits.shape[1]))
    np.add.at(sums, group, traits)
    totals = sums.sum(0).clip(1)
    relative = sums / totals
    random = np.random.default_rng(seed)
    order = random.permutation(len(numbers))
    order = order[np.argsort(-relative[order].max(1), kind="stable")]
    lack = shares[:, None] * (sums.sum(0) / totals)
    room = np.full(len(shares), np.inf) if limits is None else limits.astype(float)
    found = np.zeros(len(numbers), np.int64)
    for at in order.tolist():
        gain = np.where(room > 0, lack @ relative[at], -np.inf)
        best = int(gain.argmax())
        found[at] = best
        lack[best] -= relative[at]
        room[best] -= sums[at, -1]
    return found[group]
