"""Batches: datasets, and how their images are put together."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from crossstage.data.augment import Augmentation, ClassificationTransform, DetectionTransform, seeded
from crossstage.data.cache import ImageCache
from crossstage.data.labelled import Labelled, LabelledPixels, labelled
from crossstage.data.order import EpochOrder, Key, ShareOrder
from crossstage.data.records import ClassificationData, Dataset, DetectionData
from crossstage.data.spares import Spares
from crossstage.data.verified import OnBadImage
from crossstage.errors import DataError
from crossstage.inference.images import Pixels
from crossstage.inference.preprocessing import prepare, stack
from crossstage.machine import end_with_parent
from crossstage.structures import Placement, Preprocessing, Targets

GREY = 128  # of an image that cannot be measured on


class Batch(NamedTuple):
    """What a training step sees.

    Attributes:
        images: ``(N, 3, H, W)`` float32 RGB in [0, 1], resized but not normalised.
        targets: The objects, or the labels ``(N,)`` int64.
        names: What to call the images in messages.
        epoch: The pass they belong to, counted from 0.
        lost: Why images could not be read for which others stand here.
    """

    images: Tensor
    targets: Targets | Tensor
    names: list[str]
    epoch: int
    lost: Sequence[str] = ()


class ValBatch(NamedTuple):
    """What a val step sees.

    Attributes:
        images: ``(N, 3, H, W)`` float32 RGB in [0, 1], resized as inference does but not normalised.
        indices: Positions of the images in the dataset.
        placements: Where each image lies in its input.
        lost: Why images could not be read, which are grey here.
    """

    images: Tensor
    indices: list[int]
    placements: list[Placement]
    lost: Sequence[str] = ()


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
        spares: What is done about images that cannot be read; None refuses them.
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
        spares: Spares | None = None,
    ) -> None:
        self.dataset, self.images = dataset, dataset.images
        self.spares = spares or Spares()
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
        """Read an image as it is, or another one for it.

        Raises:
            DataError: It cannot be read, or has another size than its labels say.
        """
        return self.spares.first(self._read, index, len(self.images))

    def _read(self, index: int) -> LabelledPixels:
        image = self.images[index]
        pixels = self.cache.read(index, lambda: self.spares.load(image.path))
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
        spares: What is done about images that cannot be read; None refuses them.
    """

    def __init__(
        self,
        dataset: ClassificationData,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int,
        spares: Spares | None = None,
    ) -> None:
        self.dataset = dataset
        self.spares = spares or Spares()
        self.transform = ClassificationTransform(preprocessing, augmentation)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset.labels)

    def __getitem__(self, key: Key) -> tuple[Tensor, int, str, int]:
        epoch, index = key
        pixels, taken = self.spares.first(self._read, index, len(self))
        with seeded(self.seed, epoch, index):
            image = self.transform(pixels)
        return image, int(self.dataset.labels[taken]), self.dataset.names[taken], epoch

    def _read(self, index: int) -> tuple[Pixels, int]:
        return _read(self.dataset, index, self.spares), index


class ValImages(TorchDataset):
    """Images to score a model on, prepared as inference does.

    Args:
        dataset: The images.
        preprocessing: How they become input.
        spares: What is done about images that cannot be read: a grey image stands for one, or by default they are
            refused.
    """

    def __init__(self, dataset: Dataset, preprocessing: Preprocessing, spares: Spares | None = None) -> None:
        self.dataset, self.preprocessing = dataset, preprocessing
        self.spares = spares or Spares()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Placement]:
        try:
            pixels = self._read(index)
        except DataError as error:
            self.spares.note(error)
            pixels = np.full((*self._size(index), 3), GREY, np.uint8)
        tensor, placement = prepare(pixels, self.preprocessing)
        return tensor, index, placement

    def _read(self, index: int) -> Pixels:
        if not isinstance(self.dataset, DetectionData):
            return _read(self.dataset, index, self.spares)
        image = self.dataset.images[index]
        pixels = self.spares.load(image.path)
        if pixels.shape[:2] != (image.height, image.width):
            raise DataError(
                f"{self.dataset.path}: image {image.id} is {image.width} x {image.height}; "
                f"{image.path.name} has {pixels.shape[1]} x {pixels.shape[0]} pixels"
            )
        return pixels

    def _size(self, index: int) -> tuple[int, int]:
        if isinstance(self.dataset, DetectionData):
            return self.dataset.images[index].height, self.dataset.images[index].width
        return self.preprocessing.size


def _read(dataset: ClassificationData, index: int, spares: Spares) -> Pixels:
    try:
        return spares.load(dataset.images[index])
    except DataError as error:
        name = dataset.names[index]
        raise DataError(str(error) if name in str(error) else f"{name}: {error}") from None


def collate_detection(
    samples: Sequence[tuple[Labelled, str, int]], preprocessing: Preprocessing, spares: Spares
) -> Batch:
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
    return Batch(images, targets, list(names), epochs[0], spares.told())


def _batch_of_masks(samples: Sequence[Labelled], size: tuple[int, int]) -> Tensor | None:
    """Return the masks of all samples, in the size of the batch's images; None where they are not wanted."""
    parts = [sample.masks.as_subclass(Tensor) for sample in samples if sample.masks is not None]
    if not parts:
        return None
    masks = torch.zeros(sum(map(len, parts)), *size, dtype=torch.bool)
    for whole, part in zip(masks.split([len(part) for part in parts]), parts, strict=True):
        whole[:, : part.shape[1], : part.shape[2]] = part
    return masks


def collate_classification(
    samples: Sequence[tuple[Tensor, int, str, int]], preprocessing: Preprocessing, spares: Spares
) -> Batch:
    """Put samples of :class:`ClassifiedImages` into a batch."""
    images, labels, names, epochs = zip(*samples, strict=True)
    return Batch(stack(images, preprocessing), torch.tensor(labels), list(names), epochs[0], spares.told())


def collate_val(
    samples: Sequence[tuple[Tensor, int, Placement]], preprocessing: Preprocessing, spares: Spares
) -> ValBatch:
    """Put samples of :class:`ValImages` into a batch."""
    images, indices, placements = zip(*samples, strict=True)
    return ValBatch(stack(images, preprocessing), list(indices), list(placements), spares.told())


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
    on_bad_image: OnBadImage = "refuse",
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
        on_bad_image: What is done about images that cannot be read, see :class:`Spares`.

    Raises:
        DataError: There are fewer images than a step needs.
    """
    spares = Spares(on_bad_image)
    if isinstance(dataset, DetectionData):
        settings = {"seed": seed, "epochs": epochs, "masks": masks, "cache": cache, "spares": spares}
        samples = DetectionImages(dataset, preprocessing, augmentation, **settings)
        collate = partial(collate_detection, preprocessing=preprocessing, spares=spares)
    else:
        samples = ClassifiedImages(dataset, preprocessing, augmentation, seed=seed, spares=spares)
        collate = partial(collate_classification, preprocessing=preprocessing, spares=spares)
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
    on_bad_image: OnBadImage = "refuse",
) -> DataLoader:
    """Return batches to score a model on, in order.

    Args:
        dataset: The images.
        preprocessing: How they become input.
        batch: Images in a step of one process.
        workers: Processes that prepare images; 0 prepares them in between.
        rank: Number of this process, from 0, where several score together.
        world: Number of processes.
        on_bad_image: What is done about images that cannot be read, see :class:`ValImages`.
    """
    spares = Spares(on_bad_image)
    samples = ValImages(dataset, preprocessing, spares)
    collate = partial(collate_val, preprocessing=preprocessing, spares=spares)
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
        worker_init_fn=partial(_prepare_worker, os.getpid()) if workers else None,
    )


def end_workers(loader: DataLoader) -> None:
    """End the processes that prepare a loader's batches, if there are any.

    They heed no signal, see :func:`_prepare_worker`, so that a program that left them would wait for them for ever.
    """
    if loader._iterator is not None:  # torch has no other way to say it
        loader._iterator._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue]
        loader._iterator = None


def _prepare_worker(parent: int, _: int) -> None:
    end_with_parent(parent)
    torch.set_num_threads(1)  # the processes are the parallelism
    # Ctrl-C and schedulers signal all processes of a job; the training decides when its helpers end.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
