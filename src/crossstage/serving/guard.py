"""What every request passes first: whom it is meant for, how much it brings, and what becomes of it if all goes wrong.

An ASGI application around another. It refuses requests that a page of another origin lets a browser send to a server on
the reader's own machine (DNS rebinding, and requests across sites), bodies that are too large or take too long, and is
the last to know of an error, so that no client sees more of one than that it happened.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException

from crossstage.errors import first_line
from crossstage.loopback import host_of
from crossstage.reading.text import visible
from crossstage.serving.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LINGER = 5.0  # seconds that are spent at most on reading what is left of a body that was refused
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Guard:
    """An application, guarded.

    Args:
        app: The application.
        limits: What a request may bring.
        hosts: Names that requests may be addressed to, without ports; None lets any pass.
        count: Called with path, status and seconds of each request.
    """

    def __init__(
        self,
        app: AsgiApp,
        limits: Limits,
        hosts: Collection[str] | None,
        count: Callable[[str, int, float], None],
    ) -> None:
        self.app, self._limits, self._hosts, self._count = app, limits, hosts, count

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request; see the ASGI specification."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        exchange = _Exchange(receive, send, self._limits)
        try:
            self._admit(scope)
            await self.app(scope, exchange.receive, exchange.send)
        except HTTPException as error:
            await exchange.refuse(error.status_code, str(error.detail))
        except Exception as error:  # nobody is left to handle it, and a server goes on
            print(f"error: {scope['path']}: {type(error).__name__}: {visible(first_line(error))}", file=sys.stderr)
            await exchange.refuse(500, "the server failed; its log says why")
        self._count(scope["path"], exchange.status, time.perf_counter() - start)

    def _admit(self, scope: MutableMapping[str, Any]) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._hosts is not None and host_of(headers.get("host", "")) not in self._hosts:
            raise HTTPException(421, "this server answers to its own name alone, such as localhost")
        if scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise HTTPException(403, "pages of other sites may not use this server")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._limits.body:
            raise too_large(self._limits.body)


def too_large(most: int) -> HTTPException:
    """Return the refusal of a body of too many bytes."""
    return HTTPException(413, f"the body is too large; expected at most {most / (1 << 20):.4g} MiB")


class _Exchange:
    """A request and its answer on their way: bytes are counted, headers added, and what is not read is let out."""

    def __init__(self, receive: Receive, send: Send, limits: Limits) -> None:
        self._receive, self._send, self._limits = receive, send, limits
        self._end = asyncio.get_running_loop().time() + limits.seconds
        self._bytes, self._whole = 0, False
        self.status = 0

    async def receive(self) -> Message:
        """Return the next message of the client.

        Raises:
            HTTPException: The body is too large, or does not arrive in time.
        """
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"the body did not arrive within {self._limits.seconds:g} s") from None
        self._note(message)
        if self._bytes > self._limits.body:
            raise too_large(self._limits.body)
        return message

    def _note(self, message: Message) -> None:
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)

    async def send(self, message: Message) -> None:
        """Send a message to the client; the last one when all that it sent has been taken."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *added]
        if message["type"] != "http.response.body" or message.get("more_body") or self._whole:
            await self._send(message)
            return
        await self._send({**message, "more_body": True})
        await self._let_out()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _let_out(self) -> None:
        """Read and forget the rest of a body: a client that still sends when its connection ends misses the answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while not self._whole and self._bytes <= 4 * self._limits.body:
                    self._note(await self._receive())

    async def refuse(self, status: int, detail: str) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status:
            return
        body = json.dumps({"detail": detail}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
