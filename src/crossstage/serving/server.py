"""A server of this process: a port of this machine, uvicorn behind it, and an end that lets requests finish."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from crossstage.errors import not_installed
from crossstage.loopback import HOST, OWN_NAMES, port_error
from crossstage.machine import StopRequests

if TYPE_CHECKING:
    from crossstage.serving.limits import Limits
    from crossstage.serving.served import Served

PORT = 8000
_NEEDED = ("fastapi", "uvicorn", "multipart")
_LOOK = 0.25  # seconds between looks for a signal that uvicorn does not know


def check_installed() -> None:
    """Refuse to serve without what that takes.

    Raises:
        ConfigError: A package is missing.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise not_installed(missing[0], "serve")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server at an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str = HOST, port: int = PORT) -> socket.socket:
    """Take a port.

    Args:
        host: The address of this machine to take it at; ``"0.0.0.0"`` is all of them.
        port: Its number; 0 takes a free one.

    Raises:
        ConfigError: It is in use or not allowed, or there is no such address here.
    """
    if not 0 <= port <= 65535:  # which looking up an address does not tell
        raise port_error(host, port, OverflowError())
    try:
        ((family, _, _, _, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        taken = socket.create_server(address[:2], family=family, backlog=512)
    except (OSError, OverflowError) as error:
        raise port_error(host, port, error) from None
    return taken


def address_of(taken: socket.socket) -> str:
    """Return the URL at which a browser on this machine finds a server."""
    host, port = taken.getsockname()[:2]
    host = HOST if host in ("0.0.0.0", "::") else host
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(
    open_all: Callable[[], Sequence[Served]],
    taken: socket.socket,
    limits: Limits,
    *,
    host: str = HOST,
    on_ready: Callable[[Sequence[Served]], object] = lambda _: None,
) -> None:
    """Serve until a signal asks to end; requests that have come are answered before.

    Args:
        open_all: Opens the models, while the server already says that it is starting.
        taken: Where to listen, see :func:`listen`; closed at the end.
        limits: What is taken on at most.
        host: The name of the address, by which requests may ask for it as well.
        on_ready: Called, in another thread, when the models are open.

    Raises:
        CrossStageError: A model cannot be opened.
    """
    import uvicorn

    from crossstage.serving.app import create_app
    from crossstage.serving.service import Service

    failures: list[BaseException] = []

    def fail(error: BaseException) -> None:
        failures.append(error)
        server.should_exit = True

    service = Service(open_all, limits, on_ready, fail)
    hosts = {*OWN_NAMES} | {host} if is_loopback(host) else None
    with StopRequests() as stop, taken:

        async def look() -> None:
            server.should_exit = server.should_exit or bool(stop.received)

        config = uvicorn.Config(
            create_app(service, hosts),
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="on",
            limit_concurrency=limits.connections,
            timeout_graceful_shutdown=max(1, round(limits.seconds)) + 1,
            server_header=False,
            callback_notify=look,
            timeout_notify=_LOOK,  # pyright: ignore[reportArgumentType] (whole seconds by its type alone)
        )
        server = uvicorn.Server(config)
        server.run([taken])
    if failures:
        raise failures[0]
