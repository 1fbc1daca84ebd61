"""Servers of this machine: the port that they take, and the names by which a request may call them."""

from __future__ import annotations

import errno
from urllib.parse import urlsplit

from crossstage.errors import ConfigError

HOST = "127.0.0.1"
OWN_NAMES = (HOST, "localhost", "::1")


def host_of(header: str) -> str:
    """Return the name in a ``Host`` header, without its port; empty if there is none.

    A server that only this machine reaches answers to :data:`OWN_NAMES` alone: a page of a stranger may have a name of
    its own that leads here (DNS rebinding), and would read the answers.
    """
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def port_error(host: str, port: int, error: OSError | OverflowError) -> ConfigError:
    """Return what is to be raised where a port could not be taken.

    Args:
        host: The address of this machine.
        port: The port's number.
        error: What the system said.
    """
    if isinstance(error, OverflowError):
        return ConfigError(f"port={port}; expected a number from 0 to 65535")
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} of {host} is in use; choose another one, 0 for any that is free")
    return ConfigError(f"port {port} of {host}: {error.strerror or error}; expected another one")
