"""Stages that overlap: images are read and prepared ahead of the network, and results are written behind it.

Queues are bounded, so a slow stage holds up those before it instead of filling memory, and order is the source's.
Threads suffice: decoders, array operations and networks release Python's lock.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from crossstage.inference.preprocessing import prepare
from crossstage.inference.sources import Reader, Source, SourceImage, Unreadable
from crossstage.structures import Placement, Preprocessing

WORKERS = min(4, os.cpu_count() or 1)
MOST_KEPT = 16 << 20  # bytes of an image's pixels that nobody asked for
SPARE = 2  # how many times the input's size a reduced JPEG keeps at least: with less, small objects blur

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Prepared:
    """An image and what was prepared of it.

    Attributes:
        image: What was read.
        tensor: ``(3, H, W)`` float32 RGB in [0, 1], as :func:`~crossstage.inference.preprocessing.prepare` returns it.
        placement: Where the whole image lies in it.
        milliseconds: How long preparing took.
    """

    image: SourceImage
    tensor: Tensor
    placement: Placement
    milliseconds: float


def prepared_batches(
    source: Source, preprocessing: Preprocessing, *, batch: int, whole: bool
) -> Generator[list[Prepared | Unreadable]]:
    """Read and prepare a source's images ahead of their use.

    Of a live source one image is read ahead, so that it does not grow old.

    Args:
        source: The images.
        preprocessing: How they become input.
        batch: Entries of a group, at least 1; the last one may be shorter.
        whole: Read and keep every pixel. Otherwise JPEGs of at least four times the input's size are read at a reduced
            scale, and of other images of more than 16 megabytes some pixels are kept.
    """
    readers = source.readers(None if whole else least_size(preprocessing))
    depth = 1 if source.live else batch + WORKERS
    with closing(ahead(readers, partial(_prepare, preprocessing, whole), depth=depth)) as entries:
        while group := list(islice(entries, batch)):
            yield group


def least_size(preprocessing: Preprocessing) -> tuple[int, int]:
    """Return height and width that a reduced image keeps at least."""
    height, width = preprocessing.size
    return SPARE * height, SPARE * (height if preprocessing.resize == "shortest" else width)


def _prepare(preprocessing: Preprocessing, whole: bool, read: Reader) -> Prepared | Unreadable:
    image = read()
    if isinstance(image, Unreadable):
        return image
    start = time.perf_counter()
    tensor, placement = prepare(image.pixels, preprocessing)
    if image.whole_size:
        placement = placement.of_whole(image.whole_size)
    milliseconds = (time.perf_counter() - start) * 1e3
    return Prepared(image if whole else _thinned(image), tensor, placement, milliseconds)


def _thinned(image: SourceImage) -> SourceImage:
    """Return an image without most of its pixels if they would take much memory until its results are written."""
    step = math.ceil(math.sqrt(image.pixels.nbytes / MOST_KEPT))
    if step < 2:
        return image
    return replace(image, pixels=image.pixels[::step, ::step].copy(), whole_size=image.size)


def ahead(
    items: Iterator[Item], work: Callable[[Item], Result], *, depth: int, workers: int = WORKERS, inner: int = 1
) -> Generator[Result]:
    """Yield results of ``work`` in the order of ``items``, which one thread draws and others work on.

    Args:
        items: Drawn in a thread of their own; a generator is closed there, too.
        work: Called in several threads at once.
        depth: Most items that are drawn and whose results have not been taken, at least 1.
        workers: Threads that work.
        inner: Threads of each of torch's operations in them.

    Raises:
        Exception: What ``items`` or ``work`` raised, in its turn.
    """
    futures: queue.SimpleQueue[Future[Result] | None] = queue.SimpleQueue()
    room = threading.Semaphore(depth)
    closed = threading.Event()
    pool = side_threads(workers, inner)

    def draw() -> None:
        try:
            while room.acquire() and not closed.is_set():
                futures.put(pool.submit(work, next(items)))
        except StopIteration:
            pass
        except BaseException as error:  # it is raised where results are taken
            failed: Future[Result] = Future()
            failed.set_exception(error)
            futures.put(failed)
        finally:
            if isinstance(items, Generator):
                items.close()
            futures.put(None)

    drawer = threading.Thread(target=draw, name="crossstage-source", daemon=True)  # a camera may never answer
    drawer.start()
    try:
        while (future := futures.get()) is not None:
            result = future.result()
            room.release()
            yield result
    finally:
        closed.set()
        room.release()
        pool.shutdown(cancel_futures=True)
        drawer.join(timeout=1)


def side_by_side(groups: Generator[Item], work: Callable[[Item], Result], streams: int) -> Generator[Result]:
    """Yield results of ``work`` in order: from the caller's thread, or from several, which share torch's threads.

    Args:
        groups: What to work on; closed at the end.
        work: Called with each.
        streams: How many at once, at least 1.
    """
    if streams > 1:
        inner = max(1, torch.get_num_threads() // streams)
        return ahead(groups, work, depth=streams + 1, workers=streams, inner=inner)
    return _in_turn(groups, work)


def _in_turn(groups: Generator[Item], work: Callable[[Item], Result]) -> Generator[Result]:
    with closing(groups):
        yield from map(work, groups)


def side_threads(workers: int = 1, inner: int = 1) -> ThreadPoolExecutor:
    """Start threads that keep torch's operations within themselves, or share each among ``inner`` threads.

    Operations that share their work wait for their slowest part, which costs more than it saves while other threads use
    the cores.
    """
    default = torch.get_num_threads()  # settles the calling thread's own number before others change the default
    return ThreadPoolExecutor(workers, "crossstage-side", initializer=_use_threads, initargs=(inner, default))


def _use_threads(number: int, default: int) -> None:
    torch.get_num_threads()  # a thread takes torch's default at its first question, which must not come later
    torch.set_num_threads(number)  # becomes the default, too, which another thread restores
    restore = threading.Thread(target=torch.set_num_threads, args=(default,))
    restore.start()
    restore.join()


class Behind(Generic[Item]):
    """Work that a thread does behind its caller, in order; a context, which ends when all is done.

    Args:
        work: Called with each item, up to the first error.
        finish: Called once, after the last item, whatever happened.
        depth: Most items that wait.

    Raises:
        Exception: What ``work`` or ``finish`` raised, at the next :meth:`put` or the end of the context.
    """

    def __init__(self, work: Callable[[Item], None], finish: Callable[[], None], *, depth: int = 4) -> None:
        self._work, self._finish = work, finish
        self._waiting: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="crossstage-write")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def put(self, item: Item) -> None:
        """Hand over an item; wait while too many do."""
        self._room.acquire()
        if self._error is not None:
            raise self._error
        self._waiting.put(item)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _run(self) -> None:
        for item in iter(self._waiting.get, None):
            if self._error is None:
                self._attempt(partial(self._work, item))
            self._room.release()
        self._attempt(self._finish)

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # it is raised in the caller's thread
            self._error = self._error or error
