"""Who may call a server of this machine, and what a port that cannot be taken says."""

import errno

import pytest

from crossstage.loopback import OWN_NAMES, host_of, port_error


@pytest.mark.parametrize("header", ["localhost", "localhost:80", "127.0.0.1:1", "[::1]:8000", "LOCALHOST:7"])
def test_its_own_names_are_known_with_and_without_a_port(header):
    assert host_of(header) in OWN_NAMES


@pytest.mark.parametrize("header", ["", "evil.example:80", "127.0.0.1.evil.example", "[::1", "localhost@evil.example"])
def test_other_names_are_not(header):
    assert host_of(header) not in OWN_NAMES


def test_ports_say_why():
    assert "0 to 65535" in str(port_error("h", 70_000, OverflowError()))
    assert "in use" in str(port_error("h", 80, OSError(errno.EADDRINUSE, "x")))
    assert "Permission denied" in str(port_error("h", 80, OSError(errno.EACCES, "Permission denied")))
