"""The order of a dataset's images, shared out among processes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from crossstage.errors import DataError

Key = tuple[int, int]  # epoch and position in the dataset


class EpochOrder(Sampler[Key]):
    """Images in an order that depends on seed and epoch alone, shared out among processes.

    Each of ``world`` processes gets every ``world``-th image of a common shuffle; of the last images, those that
    would not fill a batch of every process are left for another epoch.

    Args:
        length: Images in the dataset.
        batch: Images in a step of one process.
        seed: With the epoch it decides the order.
        rank: Number of this process, from 0.
        world: Number of processes.

    Raises:
        DataError: There are fewer images than a step needs.
    """

    def __init__(self, length: int, batch: int, *, seed: int, rank: int = 0, world: int = 1) -> None:
        self.steps = length // (batch * world)
        if self.steps == 0:
            raise DataError(f"{length} images to train on; a step needs {batch * world}: lower the batch size")
        self.length, self.batch, self.seed, self.rank, self.world = length, batch, seed, rank, world
        self.epoch = 0
        self.first_step = 0  # to go on in the middle of an epoch

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.batch

    def __iter__(self) -> Iterator[Key]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator)[self.rank :: self.world]
        for index in order[self.first_step * self.batch : self.steps * self.batch].tolist():
            yield self.epoch, index


class ShareOrder(Sampler[int]):
    """Every ``world``-th image in order, as many for each process: the last of some are repeated.

    Args:
        length: Images in the dataset.
        rank: Number of this process, from 0.
        world: Number of processes.
    """

    def __init__(self, length: int, rank: int = 0, world: int = 1) -> None:
        self.length, self.rank, self.world = length, rank, world

    def __len__(self) -> int:
        return math.ceil(self.length / self.world)

    def __iter__(self) -> Iterator[int]:
        return (min(self.rank + step * self.world, self.length - 1) for step in range(len(self)))
