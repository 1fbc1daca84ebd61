"""Batches: datasets, the order of their images, and how they are put together."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from crossstage.data.augment import Augmentation, ClassificationTransform, DetectionTransform, seeded
from crossstage.data.cache import ImageCache
from crossstage.data.labelled import Labelled, LabelledPixels, labelled
from crossstage.data.records import ClassificationData, Dataset, DetectionData
from crossstage.errors import DataError
from crossstage.inference.images import Pixels, load_image
from crossstage.inference.preprocessing import prepare, stack
from crossstage.structures import Placement, Preprocessing, Targets

Key = tuple[int, int]  # epoch and position in the dataset


class Batch(NamedTuple):
    """What a training step sees.

    Attributes:
        images: ``(N, 3, H, W)`` float32 RGB in [0, 1], resized but not normalised.
        targets: The objects, or the labels ``(N,)`` int64.
        names: What to call the images in messages.
        epoch: The pass they belong to, counted from 0.
    """

    images: Tensor
    targets: Targets | Tensor
    names: list[str]
    epoch: int


class ValBatch(NamedTuple):
    """What a val step sees.

    Attributes:
        images: ``(N, 3, H, W)`` float32 RGB in [0, 1], resized as inference does but not normalised.
        indices: Positions of the images in the dataset.
        placements: Where each image lies in its input.
    """

    images: Tensor
    indices: list[int]
    placements: list[Placement]


class DetectionImages(TorchDataset):
    """Training images with their objects, composed and distorted.

    Args:
        dataset: The images and their boxes.
        preprocessing: How images become input.
        augmentation: What is changed at random.
        seed: With epoch and position it decides everything that is random.
        epochs: Length of the training, for what is left out at its end.
        masks: Whether the objects' masks are drawn; an object without one has its box for a mask.
        cache: Most gigabytes of decoded images to keep, see :class:`~crossstage.data.cache.ImageCache`.
    """

    def __init__(
        self,
        dataset: DetectionData,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int,
        epochs: int,
        masks: bool = False,
        cache: float | None = 0.0,
    ) -> None:
        self.dataset, self.images = dataset, dataset.images
        self.transform = DetectionTransform(preprocessing, augmentation)
        self.seed = seed
        self.plain_from = epochs - augmentation.last_epochs_plain
        self.masks = masks
        self.drawn = masks or (augmentation.copy_paste > 0 and dataset.has_masks)
        self.cache = ImageCache([(image.height, image.width) for image in self.images], cache)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Labelled, str, int]:
        epoch, index = key

        def read() -> LabelledPixels:
            nonlocal following
            position = following if following is not None else int(torch.randint(len(self.images), ()))
            following = None
            return self.read(position)

        following: int | None = index
        with seeded(self.seed, epoch, index):
            sample = self.transform(read, plain=epoch >= self.plain_from)
        sample = sample if self.masks else sample._replace(masks=None)
        return sample, str(self.images[index].path), epoch

    def read(self, index: int) -> LabelledPixels:
        """Read an image as it is.

        Raises:
            DataError: It cannot be read, or has another size than its labels say.
        """
        image = self.images[index]
        pixels = self.cache.read(index, lambda: load_image(image.path))
        if pixels.shape[:2] != (image.height, image.width):
            raise DataError(
                f"{image.path} has {pixels.shape[1]} x {pixels.shape[0]} pixels; "
                f"its labels are for {image.width} x {image.height}"
            )
        return labelled(pixels, self.dataset[index].objects, masks=self.drawn)


class ClassifiedImages(TorchDataset):
    """Training images with their labels, cropped and distorted.

    Args:
        dataset: The images and their labels.
        preprocessing: How images become input.
        augmentation: What is changed at random.
        seed: With epoch and position it decides everything that is random.
    """

    def __init__(
        self, dataset: ClassificationData, preprocessing: Preprocessing, augmentation: Augmentation, *, seed: int
    ) -> None:
        self.dataset = dataset
        self.transform = ClassificationTransform(preprocessing, augmentation)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset.labels)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, str, int]:
        epoch, index = key
        name = self.dataset.names[index]
        pixels = _read(self.dataset, index)
        with seeded(self.seed, epoch, index):
            image = self.transform(pixels)
        return image, int(self.dataset.labels[index]), name, epoch


class ValImages(TorchDataset):
    """Images to score a model on, prepared as inference does.

    Args:
        dataset: The images.
        preprocessing: How they become input.
    """

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing) -> None:
        self.dataset, self.preprocessing = dataset, preprocessing

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Placement]:
        if isinstance(self.dataset, DetectionData):
            image = self.dataset.images[index]
            pixels = load_image(image.path)
            if pixels.shape[:2] != (image.height, image.width):
                raise DataError(
                    f"{self.dataset.path}: image {image.id} is {image.width} x {image.height}; "
                    f"{image.path.name} has {pixels.shape[1]} x {pixels.shape[0]} pixels"
                )
        else:
            pixels = _read(self.dataset, index)
        tensor, placement = prepare(pixels, self.preprocessing)
        return tensor, index, placement


def _read(dataset: ClassificationData, index: int) -> Pixels:
    try:
        return load_image(dataset.images[index])
    except DataError as error:
        name = dataset.names[index]
        raise DataError(str(error) if name in str(error) else f"{name}: {error}") from None


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


def collate_detection(samples: Sequence[tuple[Labelled, str, int]], preprocessing: Preprocessing) -> Batch:
    """Put samples of :class:`DetectionImages` into a batch."""
    found, names, epochs = zip(*samples, strict=True)
    counts = torch.tensor([len(sample.class_ids) for sample in found])
    images = stack([sample.image.as_subclass(Tensor) for sample in found], preprocessing)
    targets = Targets(
        torch.arange(len(samples)).repeat_interleave(counts),
        torch.cat([sample.class_ids for sample in found]),
        torch.cat([sample.boxes.as_subclass(Tensor) for sample in found]),
        _batch_of_masks(found, (images.shape[2], images.shape[3])),
        torch.tensor([sample.image.shape[1:] for sample in found]),
    )
    return Batch(images, targets, list(names), epochs[0])


def _batch_of_masks(samples: Sequence[Labelled], size: tuple[int, int]) -> Tensor | None:
    """Return the masks of all samples, in the size of the batch's images; None where they are not wanted."""
    parts = [sample.masks.as_subclass(Tensor) for sample in samples if sample.masks is not None]
    if not parts:
        return None
    masks = torch.zeros(sum(map(len, parts)), *size, dtype=torch.bool)
    for whole, part in zip(masks.split([len(part) for part in parts]), parts, strict=True):
        whole[:, : part.shape[1], : part.shape[2]] = part
    return masks


def collate_classification(samples: Sequence[tuple[Tensor, int, str, int]], preprocessing: Preprocessing) -> Batch:
    """Put samples of :class:`ClassifiedImages` into a batch."""
    images, labels, names, epochs = zip(*samples, strict=True)
    return Batch(stack(images, preprocessing), torch.tensor(labels), list(names), epochs[0])


def collate_val(samples: Sequence[tuple[Tensor, int, Placement]], preprocessing: Preprocessing) -> ValBatch:
    """Put samples of :class:`ValImages` into a batch."""
    images, indices, placements = zip(*samples, strict=True)
    return ValBatch(stack(images, preprocessing), list(indices), list(placements))


def train_loader(
    dataset: Dataset,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    *,
    batch: int,
    seed: int,
    epochs: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    masks: bool = False,
    cache: float | None = 0.0,
) -> tuple[DataLoader, EpochOrder]:
    """Return batches to train on, and their order, whose ``epoch`` is to be set before each pass.

    Args:
        dataset: The images to train on, with their boxes or labels.
        preprocessing: How images become input.
        augmentation: What is changed at random.
        batch: Images in a step of one process.
        seed: Decides everything that is random.
        epochs: Length of the training.
        workers: Processes that prepare images; 0 prepares them in between.
        rank: Number of this process, from 0, where several train together.
        world: Number of processes.
        masks: Whether the masks of objects are wanted, see :class:`DetectionImages`.
        cache: Most gigabytes of decoded images of a detection dataset to keep; None takes a quarter of what is free.

    Raises:
        DataError: There are fewer images than a step needs.
    """
    if isinstance(dataset, DetectionData):
        settings = {"seed": seed, "epochs": epochs, "masks": masks, "cache": cache}
        samples = DetectionImages(dataset, preprocessing, augmentation, **settings)
        collate = partial(collate_detection, preprocessing=preprocessing)
    else:
        samples = ClassifiedImages(dataset, preprocessing, augmentation, seed=seed)
        collate = partial(collate_classification, preprocessing=preprocessing)
    order = EpochOrder(len(samples), batch, seed=seed, rank=rank, world=world)
    return _loader(samples, order, batch, collate, workers), order


def val_loader(
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    batch: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> DataLoader:
    """Return batches to score a model on, in order.

    Args:
        dataset: The images.
        preprocessing: How they become input.
        batch: Images in a step of one process.
        workers: Processes that prepare images; 0 prepares them in between.
        rank: Number of this process, from 0, where several score together.
        world: Number of processes.
    """
    samples = ValImages(dataset, preprocessing)
    collate = partial(collate_val, preprocessing=preprocessing)
    return _loader(samples, ShareOrder(len(samples), rank, world), batch, collate, workers)


def _loader(samples: TorchDataset, order: Sampler, batch: int, collate: object, workers: int) -> DataLoader:
    return DataLoader(
        samples,
        batch_size=batch,
        sampler=order,
        collate_fn=collate,  # pyright: ignore[reportArgumentType]
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_prepare_worker if workers else None,
    )


def end_workers(loader: DataLoader) -> None:
    """End the processes that prepare a loader's batches, if there are any.

    They heed no signal, see :func:`_prepare_worker`, so that a program that left them would wait for them for ever.
    """
    if loader._iterator is not None:  # torch has no other way to say it
        loader._iterator._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]
        loader._iterator = None


def _prepare_worker(_: int) -> None:
    torch.set_num_threads(1)  # the processes are the parallelism
    # Ctrl-C and schedulers signal all processes of a job; the training decides when its helpers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
