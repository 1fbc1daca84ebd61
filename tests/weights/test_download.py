"""Weights of the net: fetched whole from a server of the test's own, verified, kept, and refused when they are odd."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from crossstage.cli import main
from crossstage.errors import WeightsError
from crossstage.models.spec import ModelSpec, Provenance
from crossstage.weights.cards import list_models, model_info
from crossstage.weights.loading import create_model, load
from crossstage.weights.model_file import write_model
from crossstage.weights.published import PRETRAINED, Pretrained
from crossstage.weights.resolving import resolve
from crossstage.weights.starting import classes_of, start_model

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; a value is the content, and how long it pretends to be."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, int]] = {}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def put(self, name: str, content: bytes, length: int | None = None) -> str:
        self.files[f"/{name}"] = content, len(content) if length is None else length
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path in self.server.files:
            content, length = self.server.files[self.path]
            self.send_response(200)
            if length >= 0:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(content)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def entry(url: str, content: bytes = CONTENT, **about: object) -> Pretrained:
    digest = hashlib.sha256(content).hexdigest()
    return Pretrained("darknet53.test", digest, len(content), "CC0", url=url, **about)


def left(weights: Pretrained) -> list[str]:
    """Whatever lies in the cache."""
    folder = weights.path.parent
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*")) if folder.is_dir() else []


def test_a_file_is_fetched_once_and_kept(server):
    weights = entry(server.put("good", CONTENT))
    assert weights.needs_download
    assert weights.verified_path() == weights.verified_path()
    assert weights.path.read_bytes() == CONTENT and not weights.needs_download
    assert server.asked == ["/good"] and left(weights) == ["darknet53.test.safetensors"]


def test_a_length_that_the_server_does_not_tell_is_counted(server):
    assert entry(server.put("good", CONTENT, -1)).verified_path().read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("served", "length", "message"),
    [
        (CONTENT[::-1], None, "another file, of sha256 "),
        (CONTENT[:-1], -1, f"gave 1,048,575 bytes; expected {len(CONTENT):,}"),
        (CONTENT[:-1], len(CONTENT), "gave 1,048,575 bytes; expected|IncompleteRead"),
        (CONTENT + b"x", None, "gave more bytes; expected 1,048,576"),
        (CONTENT * 8, -1, "gave more bytes; expected 1,048,576"),
        (b"", None, "gave 0 bytes"),
    ],
)
def test_what_is_not_the_file_is_refused_and_not_kept(server, served, length, message):
    weights = entry(server.put("bad", served, length))
    with pytest.raises(WeightsError, match=message) as caught:
        weights.verified_path()
    assert left(weights) == []
    for part in (weights.url, weights.sha256, str(weights.path), "1,048,576 bytes"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{}/nowhere", "404"),
        ("http://127.0.0.1:1/x", "refused"),
        ("http://nowhere.invalid/x", "nowhere.invalid"),
        ("file:///etc/hostname", "unknown url type: file"),
        ("ftp://127.0.0.1/x", "unknown url type: ftp"),
        ("{}/to/file:///etc/hostname", "not allowed|unknown url type"),
        ("http:///x", "no host"),
    ],
)
def test_a_server_that_cannot_be_reached_says_how_to_go_on(server, url, message):
    weights = entry(url.format(f"http://127.0.0.1:{server.server_port}"))
    with pytest.raises(WeightsError, match=message) as caught:
        weights.verified_path()
    assert f"put it at {weights.path}" in str(caught.value) and left(weights) == []
    weights.path.parent.mkdir(parents=True, exist_ok=True)
    weights.path.write_bytes(CONTENT)  # by hand
    assert weights.verified_path() == weights.path


def test_a_damaged_file_of_the_cache_is_fetched_again(server):
    weights = entry(server.put("good", CONTENT))
    weights.verified_path()
    weights.path.write_bytes(CONTENT[::-1])
    assert weights.verified_path().read_bytes() == CONTENT
    weights.path.write_bytes(CONTENT[:100])
    assert weights.needs_download
    server.files.clear()
    with pytest.raises(WeightsError, match=r"404: .* in place of the damaged file there"):
        weights.verified_path()
    assert weights.path.read_bytes() == CONTENT[:100]


def test_two_at_once_leave_one_whole_file(server):
    weights = entry(server.put("good", CONTENT))
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: weights.verified_path().read_bytes() == CONTENT, range(8)))
    assert all(paths) and left(weights) == ["darknet53.test.safetensors"]


def test_a_cache_that_cannot_be_written_is_told(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be fetched: .*file"):
        entry(server.put("good", CONTENT)).verified_path()


def test_a_model_file_of_the_net_is_loaded_and_started_from(server, tmp_path, monkeypatch, capsys):
    spec = ModelSpec(
        "darknet53", 3, ("a", "b", "c"), {"widths": (8, 16), "depths": (1, 1)}, None, Provenance("me", "CC0")
    )
    model = create_model("darknet53", 3, **spec.overrides).eval()
    write_model(tmp_path / "m.safetensors", model.state_dict(), spec)
    content = (tmp_path / "m.safetensors").read_bytes()
    monkeypatch.setitem(PRETRAINED, "darknet53.test", entry(server.put("m", content), content))
    assert "darknet53.test" in list_models(pretrained=True)
    card = model_info("darknet53.test")
    assert card.weights == card.downloads == ("darknet53.test",) and card.provenance is None
    assert resolve("darknet53.test").module.fc.out_features == 1000
    assert server.asked == []
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(load("darknet53.test")(x), model(x), rtol=0, atol=0)
    assert load("darknet53").class_names == ("a", "b", "c")
    assert start_model("darknet53.test", ["b", "z"]).model.fc.weight[0].equal(model.fc.weight[1])
    assert create_model("darknet53", pretrained=True).fc.weight.equal(model.fc.weight)
    assert server.asked == ["/m"]
    assert model_info("darknet53.test").provenance == spec.provenance
    assert classes_of("darknet53.test") == ("a", "b", "c")
    assert resolve("darknet53.test").module.fc.out_features == 3
    assert main(["info", "darknet53"]) == 0
    assert "download" in capsys.readouterr().out


def test_yolov3_tinys_weights_are_what_darknet_published(server, yolov3_tiny_weights, monkeypatch):
    """The very entry of the table, but for its address, against the network that Darknet's own files describe."""
    from dataclasses import replace

    from crossstage import darknet
    from tests.darknet import nets

    published = PRETRAINED["yolov3_tiny.coco"]
    content = yolov3_tiny_weights.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (published.size, published.sha256)
    monkeypatch.setitem(PRETRAINED, published.name, replace(published, url=server.put("yolov3-tiny.weights", content)))
    detector = load("yolov3_tiny.coco")
    assert detector.class_names[:3] == ("person", "bicycle", "car") and len(detector.class_names) == 80
    assert not detector.training and detector.preprocessing.size == (416, 416)
    cfg = yolov3_tiny_weights.with_suffix(".cfg")
    cfg.write_text(nets.yolov3_tiny(416))
    reference = darknet.load(cfg, yolov3_tiny_weights)
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        for ours, theirs in zip(
            sorted(detector(x).values(), key=torch.numel), sorted(reference(x), key=torch.numel), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
