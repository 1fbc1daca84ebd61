"""Images in the bodies of requests: bytes as they are, or the files of a form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import NamedTuple

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException

from crossstage.reading.text import shortened
from crossstage.serving.limits import Limits

FORM = "multipart/form-data"
MOST_FIELDS = 16  # of a form besides its files; none of them is read


class SentImage(NamedTuple):
    """An image that a client sent: what it calls it, and what its file holds."""

    name: str
    content: bytes


def announced(request: Request, limits: Limits) -> int:
    """Return how many bytes a body may have: what the client says, or the most where it says nothing."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else limits.body


async def one_image(request: Request) -> SentImage:
    """Read the image of a request.

    Raises:
        HTTPException: 415, the body is no image by its type; 422, a form of no or several files; 400, none or a broken
            body.
    """
    kind = _kind(request)
    if kind == FORM:
        images = await _files(request, 1)
        return images[0]
    if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
        hint = "; with curl, --data-binary needs -H 'Content-Type: image/jpeg'" if "urlencoded" in kind else ""
        raise HTTPException(415, f"a body of {shortened(kind)}; expected an image, or a form with one file{hint}")
    content = await request.body()
    if not content:
        raise HTTPException(400, "an empty body; expected an image")
    return SentImage("image", content)


async def several_images(request: Request, limits: Limits) -> list[SentImage]:
    """Read the images of a request, in their order.

    Raises:
        HTTPException: 415, the body is no form; 422, it has no files or too many; 400, it is broken.
    """
    if (kind := _kind(request)) != FORM:
        raise HTTPException(
            415, f"a body of {shortened(kind) or 'no type'}; expected {FORM} with a file for each image"
        )
    return await _files(request, min(limits.batch, limits.queue))


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _files(request: Request, most: int) -> list[SentImage]:
    """Read the files of a form, whatever its fields are called."""
    with _problems_of(most):
        async with request.form(max_files=most, max_fields=MOST_FIELDS) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if not files:
                raise HTTPException(422, "a form without files; expected an image, such as curl -F image=@photo.jpg")
            return [SentImage(_name(file, number), await file.read()) for number, file in enumerate(files)]


@contextmanager
def _problems_of(most: int) -> Iterator[None]:
    """Say what is wrong with a form as what it is: too many files are no broken form."""
    try:
        yield
    except AnyHTTPException as error:
        if "Too many files" in str(error.detail):
            expected = "one" if most == 1 else f"at most {most}"
            raise HTTPException(422, f"a form with too many files; expected {expected}") from None
        raise


def _name(file: UploadFile, number: int) -> str:
    """Return what an answer calls a file: its name without folders."""
    return shortened(PurePath((file.filename or "").replace("\\", "/")).name) or f"image {number}"
