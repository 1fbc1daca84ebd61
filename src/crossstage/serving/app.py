"""The HTTP interface, as an ASGI application: any server of these runs it, :mod:`crossstage.serving.server` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from crossstage.serving.bodies import FORM, announced, one_image, several_images
from crossstage.serving.guard import Guard
from crossstage.serving.pages import PARTS, api_page, part
from crossstage.serving.schemas import BatchAnswer, FoundObjects, Health, LikelyClasses, ModelEntries, Problem
from crossstage.serving.served import as_bytes
from crossstage.serving.service import Service
from crossstage.version import __version__

ModelQuery = Annotated[str | None, Query(description="Name of a model, see /v1/models; by default the first.")]
RuntimeQuery = Annotated[str | None, Query(description="What runs it, see /v1/models; by default the model's first.")]
Conf = Annotated[float | None, Query(ge=0, le=1, description="Detections score more than this; by default 0.25.")]
Iou = Annotated[
    float | None,
    Query(ge=0, le=1, description="Of two boxes of a class that overlap more the weaker goes; by default the model's."),
]
Most = Annotated[int | None, Query(ge=1, le=10_000, description="The most detections of an image; by default 300.")]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is no image that can be read."},
    404: {"model": Problem, "description": "There is no such model or runtime."},
    408: {"model": Problem, "description": "The body did not arrive in time."},
    413: {"model": Problem, "description": "The body is too large."},
    415: {"model": Problem, "description": "The body is of another type."},
    422: {"model": Problem, "description": "A parameter is out of range, or the model cannot do it."},
    503: {"model": Problem, "description": "The server is starting or busy; Retry-After says when to come again."},
}


def _form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {FORM: {"schema": {"type": "object", "properties": {name: schema}, "required": [name]}}}


_ONE = {
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": _BINARY,
            "image/png": _BINARY,
            "application/octet-stream": _BINARY,
            **_form("image", _BINARY["schema"]),
        },
    }
}
_SEVERAL = {
    "requestBody": {"required": True, "content": _form("images", {"type": "array", "items": _BINARY["schema"]})}
}


def create_app(service: Service, hosts: Collection[str] | None = None) -> Guard:
    """Return the application.

    Args:
        service: The models and their bounds; started and stopped with the application.
        hosts: Names that requests may be addressed to; None lets any pass, as behind a proxy.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    api = FastAPI(
        title="CrossStage",
        version=__version__,
        description="Finds objects in images, or says what they show.",
        docs_url=None,  # FastAPI's own fetch their scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    api.add_exception_handler(RequestValidationError, _invalid)
    _add_predicting(api, service)
    _add_telling(api, service)
    _add_pages(api)
    paths = {getattr(route, "path", "") for route in api.routes}

    def count(path: str, status: int, seconds: float) -> None:
        service.metrics.count_request(path if path in paths else "other", status, seconds)

    return Guard(api, service.limits, hosts, count)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """Say in one line what is wrong with a request's parameters."""
    assert isinstance(error, RequestValidationError)
    wrong = error.errors()[0]
    name = ".".join(str(part) for part in wrong["loc"][1:])
    return JSONResponse({"detail": f"{name}={str(wrong.get('input'))[:60]}: {wrong['msg']}"}, 422)


def _add_predicting(api: FastAPI, service: Service) -> None:
    @api.post(
        "/v1/predict",
        summary="Find objects in an image, or tell what it shows",
        response_model=FoundObjects | LikelyClasses,
        responses=_PROBLEMS,
        openapi_extra=_ONE,
    )
    async def predict(
        request: Request,
        model: ModelQuery = None,
        runtime: RuntimeQuery = None,
        conf: Conf = None,
        iou: Iou = None,
        max_detections: Most = None,
    ) -> Response:
        served = service.choose(model, runtime)
        settings = service.settings(served, conf, iou, max_detections)
        with service.images.taken(1), service.bytes.taken(announced(request, service.limits)):
            image = await one_image(request)
            return _json(await service.answer(served, image, settings))

    @api.post(
        "/v1/predict/batch",
        summary="The same for several images",
        response_model=BatchAnswer,
        responses={key: value for key, value in _PROBLEMS.items() if key != 400},
        openapi_extra=_SEVERAL,
    )
    async def predict_batch(
        request: Request,
        model: ModelQuery = None,
        runtime: RuntimeQuery = None,
        conf: Conf = None,
        iou: Iou = None,
        max_detections: Most = None,
    ) -> Response:
        served = service.choose(model, runtime)
        settings = service.settings(served, conf, iou, max_detections)
        with service.bytes.taken(announced(request, service.limits)):
            images = await several_images(request, service.limits)
            with service.images.taken(len(images)):
                lines = await service.answer_all(served, images, settings)
        return _json(b'{"results":[' + b",".join(lines) + b"]}")


def _add_telling(api: FastAPI, service: Service) -> None:
    @api.get("/v1/models", summary="The models, and what they can do", response_model=ModelEntries)
    async def models() -> Response:
        return _json(as_bytes({"models": [served.describe() for served in service.served]}))

    @api.get(
        "/health",
        summary="Whether requests are answered",
        response_model=Health,
        responses={503: {"model": Health, "description": "The models are not open yet."}},
    )
    async def health() -> Response:
        ready = bool(service.served)
        return JSONResponse({"status": "ready" if ready else "starting"}, 200 if ready else 503)

    @api.get("/metrics", summary="Counts in Prometheus' text format", response_class=PlainTextResponse)
    async def metrics() -> Response:
        text = service.metrics.text(waiting=service.images.held, ready=bool(service.served))
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _add_pages(api: FastAPI) -> None:
    @api.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(api_page(api.openapi(), str(request.base_url)))

    for path, (name, kind) in PARTS.items():
        api.get(path, include_in_schema=False)(_fixed(part(name), kind))


def _fixed(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    """Return an endpoint that always answers the same."""

    async def endpoint() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return endpoint


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
