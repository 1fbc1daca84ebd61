"""What a server does with an image: it is let in, prepared, run with others, and answered, each within bounds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from fastapi import HTTPException

from crossstage.errors import ConfigError, DataError, one_of
from crossstage.inference.pipeline import WORKERS, side_threads
from crossstage.ops.nms import NMS
from crossstage.serving.bodies import SentImage
from crossstage.serving.engine import Engine, Job
from crossstage.serving.limits import HELD_BODIES, RETRY_AFTER, Limits, Room
from crossstage.serving.metrics import Metrics
from crossstage.serving.served import Served, as_bytes


class Service:
    """Models that are opened when the server starts, and what runs them.

    Args:
        open_all: Opens the models, the default first; called in a thread of its own.
        limits: What is taken on at most.
        on_ready: Called in that thread when they are open.
        on_failure: Called in that thread if they cannot be opened, with the reason.

    Attributes:
        served: The models; empty until they are open.
        metrics: What has been done.
        images: Room for images.
        bytes: Room for the bodies of requests.
    """

    def __init__(
        self,
        open_all: Callable[[], Sequence[Served]],
        limits: Limits,
        on_ready: Callable[[Sequence[Served]], object] = lambda _: None,
        on_failure: Callable[[BaseException], object] = lambda _: None,
    ) -> None:
        self._open_all, self.limits = open_all, limits
        self._on_ready, self._on_failure = on_ready, on_failure
        self.served: Sequence[Served] = ()
        self.metrics = Metrics()
        self.images = Room(limits.queue, "images")
        self.bytes = Room(HELD_BODIES * limits.body, "bytes")
        self._engine: Engine | None = None
        self._side: ThreadPoolExecutor | None = None
        self._prepared = asyncio.Semaphore(1)

    def start(self) -> None:
        """Begin to open the models."""
        threading.Thread(target=self._open, name="crossstage-open", daemon=True).start()

    def _open(self) -> None:
        try:
            served = self._open_all()
        except BaseException as error:  # it is raised where the server was started
            self._on_failure(error)
            return
        streams = max(one.opened.streams for one in served)
        self._engine, self._side = Engine(streams), side_threads(WORKERS)
        most = max(one.opened.batch for one in served) * streams + WORKERS
        self._prepared = asyncio.Semaphore(most)  # inputs take more memory than the files that they were made of
        self.served = served
        self._on_ready(served)

    def stop(self) -> None:
        """End the threads, after what is being done."""
        for part in (self._engine, self._side):
            if isinstance(part, Engine):
                part.close()
            elif part is not None:
                part.shutdown(cancel_futures=True)

    def choose(self, model: str | None, runtime: str | None) -> Served:
        """Return what a request asks for; what it leaves open is the first that there is.

        Raises:
            HTTPException: 503, the models are not open yet; 404, there is no such model, or not in that runtime.
        """
        if not self.served:
            raise HTTPException(503, "the server is starting: its models are not open yet", RETRY_AFTER)
        named = [one for one in self.served if model in (None, one.name)]
        if not named:
            raise HTTPException(404, f"no model {model!r}; {one_of(model, dict.fromkeys(o.name for o in self.served))}")
        able = [one for one in named if runtime in (None, one.runtime)]
        if not able:
            raise HTTPException(404, f"no runtime {runtime!r} of it; {one_of(runtime, [o.runtime for o in named])}")
        return able[0]

    def settings(self, served: Served, conf: float | None, iou: float | None, max_detections: int | None) -> NMS | None:
        """Return how a request's boxes become detections.

        Raises:
            HTTPException: 422, the model cannot do it so.
        """
        try:
            return served.settings(conf, iou, max_detections)
        except ConfigError as error:
            raise HTTPException(422, str(error)) from None

    async def answer(self, served: Served, image: SentImage, settings: NMS | None) -> bytes:
        """Return what is found in an image, as JSON.

        Raises:
            HTTPException: 400, it cannot be read; 503, it took too long.
        """
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await self._answer(served, image, settings)
        except TimeoutError:
            raise HTTPException(503, f"no answer within {self.limits.seconds:g} s; try again", RETRY_AFTER) from None

    async def _answer(self, served: Served, image: SentImage, settings: NMS | None) -> bytes:
        assert self._engine is not None
        since, loop = time.perf_counter(), asyncio.get_running_loop()
        async with self._prepared:
            try:
                prepared = await loop.run_in_executor(self._side, served.prepare, image.content, image.name)
            except DataError as error:
                raise HTTPException(400, str(error)) from None
            found = await asyncio.wrap_future(self._engine.submit(Job(served, prepared, settings)))
            answer = await loop.run_in_executor(self._side, served.answer, prepared, found, since)
            line = as_bytes(answer)
        self.metrics.count_image(served.name, served.runtime, answer["milliseconds"])
        return line

    async def answer_all(self, served: Served, images: Sequence[SentImage], settings: NMS | None) -> list[bytes]:
        """Return what is found in each of several images, as JSON; why, where one cannot be read.

        Raises:
            HTTPException: 503, one took too long.
        """
        tasks = [self.answer(served, image, settings) for image in images]
        lines = []
        for image, found in zip(images, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            if isinstance(found, bytes):
                lines.append(found)
            elif isinstance(found, HTTPException) and found.status_code == 400:
                lines.append(as_bytes({"source": image.name, "error": found.detail}))
            else:
                raise found
        return lines
