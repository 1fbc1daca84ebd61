"""The server as a process: its port, its signals, many clients, and a real browser before its page."""

import gc
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from crossstage.cli import main
from crossstage.errors import ConfigError, WeightsError
from crossstage.serving import server
from crossstage.serving.limits import Limits
from crossstage.serving.server import address_of, is_loopback, listen, serve
from tests.serving.doubles import Halves, image, running, served

PNG = {"Content-Type": "image/png"}


def post(port: int, content: bytes, path: str = "/v1/predict") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, content, PNG)
    response = connection.getresponse()
    status, answer = response.status, response.read()
    connection.close()
    return status, answer


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "cspdarknet53_tiny_yolo.coco", "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"error: port {port} of 127.0.0.1 is in use; choose another one, 0 for any that is free\n"
    )


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("127.0.0.1", 70_000, "port=70000; expected a number from 0 to 65535"),
        ("no.such.host.invalid", 0, "port 0 of no.such.host.invalid: "),
        ("192.0.2.1", 0, "port 0 of 192.0.2.1: "),
    ],
)
def test_an_address_that_cannot_be_had_is_one_line(host, port, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        listen(host, port)


def test_loopback_is_told_from_what_others_reach():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.7", "photos.example")))


def test_addresses_are_ones_that_a_browser_opens():
    with listen("0.0.0.0", 0) as taken:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address_of(taken))


def test_a_missing_package_is_named_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "fastapi" else object())
    assert main(["serve", "cspdarknet53_tiny_yolo.coco"]) == 2
    assert capsys.readouterr().err == "error: fastapi is not installed; try: pip install 'crossstage[serve]'\n"


def test_a_model_that_cannot_be_opened_ends_the_server():
    def fail():
        raise WeightsError("m.safetensors: damaged")

    with pytest.raises(WeightsError, match="damaged"):
        serve(fail, listen(port=0), Limits())


def test_a_signal_ends_it_when_requests_are_answered():
    """As a supervisor sends it, while an image is being run."""
    model = Halves()
    taken = listen(port=0)
    port, answers = taken.getsockname()[1], []

    def ask():
        answers.append(post(port, image()))

    def act(_):
        model.open.clear()
        client = threading.Thread(target=ask)
        client.start()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.3)
        model.open.set()
        client.join(10)

    before = signal.getsignal(signal.SIGTERM)
    serve(
        lambda: [served(model=model)],
        taken,
        Limits(),
        on_ready=lambda s: threading.Thread(target=act, args=(s,)).start(),
    )
    assert [status for status, _ in answers] == [200]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_client_that_sends_too_much_reads_why():
    with running(served(), limits=Limits(body=10_000)) as port:
        status, answer = post(port, bytes(30_000))
        assert status == 413 and b"too large" in answer
        assert post(port, image())[0] == 200


def test_a_body_that_does_not_arrive_is_given_up():
    with running(served(), limits=Limits(seconds=0.4)) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        slow.settimeout(10)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_what_is_no_http_harms_nothing(capfd):
    with running(served()) as port:
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00",
            b"GET\r\n\r\n",
            b"POST /v1/predict HTTP/1.1\r\nHost: a b\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(garbage)
        assert post(port, image())[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_clients_that_leave_do_not_stop_the_rest():
    model = Halves()
    with running(served(model=model)) as port:
        model.open.clear()
        for _ in range(5):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("POST", "/v1/predict", image(), PNG)
            connection.sock.close()
        model.open.set()
        assert post(port, image())[0] == 200


@pytest.mark.slow
def test_the_verb_serves_until_a_signal(tmp_path):
    """A whole process: it says where it is, answers, and ends by SIGTERM and SIGINT with 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [sys.executable, "-m", "crossstage", "serve", "cspdarknet53_tiny_yolo.coco", "--imgsz", "96"]
        with subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as run:
            found = re.match(
                r"http://127\.0\.0\.1:(\d+)/ serves cspdarknet53_tiny_yolo\.coco \(torch\)", run.stdout.readline()
            )
            assert found, run.stderr.read()
            assert post(int(found.group(1)), image())[0] == 200
            run.send_signal(number)
            _, told = run.communicate(timeout=20)
            assert run.returncode == 0 and "Traceback" not in told


def resources() -> tuple[int, int]:
    """Return resident KiB and open files of this process."""
    gc.collect()
    kib = int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))
    return kib, len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_hundred_clients_are_answered_and_nothing_leaks():
    with running(served(model=Halves(masks=True)), limits=Limits(queue=64)) as port:
        content = image(0.9, 0.8, (480, 640))
        crowd(port, content)
        before = resources()
        statuses = sum((crowd(port, content) for _ in range(4)), Counter())
        after = resources()
    assert statuses.keys() <= {200, 503} and statuses.total() == 800 and statuses[200] >= 4 * 64
    assert after[1] <= before[1] + 5
    assert after[0] - before[0] < 64 << 10


def crowd(port: int, content: bytes) -> Counter[int]:
    """Send 200 requests at once; return how many were answered how."""
    statuses: list[int] = []
    start = threading.Barrier(200)

    def ask():
        start.wait()
        statuses.append(post(port, content)[0])

    clients = [threading.Thread(target=ask) for _ in range(200)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    return Counter(statuses)
