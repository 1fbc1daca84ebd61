"""A detector that is quick and predictable, images for it, and a server around it."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from crossstage.deploy.open import Opened
from crossstage.ops.nms import NMS
from crossstage.serving.app import create_app
from crossstage.serving.limits import Limits
from crossstage.serving.served import Served
from crossstage.serving.service import Service
from crossstage.structures import Instances, Preprocessing

LOCAL = {"localhost", "127.0.0.1", "::1"}


class Halves(torch.nn.Module):
    """Finds the halves of an image, each as sure as it is bright; with masks if asked."""

    class_names = ("left", "right")
    size_divisor = 1
    nms = NMS()

    def __init__(self, masks: bool = False):
        super().__init__()
        self.preprocessing = Preprocessing((32, 64))
        self.masks = masks
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.nan = False
        self.error: Exception | None = None

    def forward(self, images):
        assert self.open.wait(20)
        self.batches.append(len(images))
        if self.error:
            raise self.error
        return [images * float("nan")] if self.nan else [images]

    def detect(self, raw, image_size, nms, sizes=None):
        return [self._found(image, nms) for image in raw[0]]

    def _found(self, image, nms):
        scores = torch.stack([half.mean() for half in image.chunk(2, dim=2)])
        boxes = torch.tensor([[0, 0, 32, 32], [32, 0, 64, 32]]).float()
        order = [i for i in scores.argsort(descending=True).tolist() if scores[i] > nms.score][: nms.max_detections]
        masks = torch.ones(len(order), 28, 28) if self.masks else None
        return Instances(boxes[order], scores[order], torch.tensor(order, dtype=torch.long), masks)


def image(left: float = 0.9, right: float = 0.1, size: tuple[int, int] = (40, 80), kind: str = "png") -> bytes:
    """Return a file whose halves are as bright as said, of some height and width."""
    height, width = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = round(255 * left), round(255 * right)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def served(name: str = "halves", model: torch.nn.Module | None = None, **about) -> Served:
    return Served(name, Opened("torch", detector=model or Halves(), **about))


def service_of(*models: Served, limits: Limits | None = None) -> Service:
    return Service(lambda: models, limits or Limits())


@contextmanager
def client_of(*models: Served, limits: Limits | None = None, hosts=LOCAL) -> Iterator[TestClient]:
    """Yield a client of a server without a socket, whose models are open."""
    app = create_app(service_of(*models, limits=limits), hosts)
    with TestClient(app, base_url="http://localhost") as client:
        wait_until(lambda: client.get("/health").status_code == 200)
        yield client


@contextmanager
def running(*models: Served, limits: Limits | None = None) -> Iterator[int]:
    """Yield the port of a server whose models are open."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as taken:
        service = service_of(*models, limits=limits)
        app = create_app(service, LOCAL)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="critical", access_log=False))
        thread = threading.Thread(target=server.run, args=([taken],))
        thread.start()
        try:
            wait_until(lambda: bool(service.served))
            yield taken.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


def wait_until(done, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


def names(answer: dict) -> Sequence[str]:
    return [one["class_name"] for one in answer["detections"]]
