"""Streams are read as they come, newest frame first, and again after they were lost."""

import contextlib
import itertools
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import av
import numpy as np
import pytest
from PIL import Image

from crossstage.errors import ConfigError, DataError
from crossstage.inference import streams
from crossstage.inference.live import LiveView
from crossstage.inference.sources import Source, SourceImage, Unreadable


def jpeg(level: int) -> bytes:
    into = BytesIO()
    Image.new("RGB", (64, 48), (level, level, level)).save(into, "JPEG")
    return into.getvalue()


def video(kind: str, frames: int = 30, codec: str = "mpeg4") -> bytes:
    into = BytesIO()
    with av.open(into, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(frames):
            pixels = np.full((48, 64, 3), 8 * number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return into.getvalue()


@pytest.fixture
def camera():
    """A camera that sends MJPEG, and hangs up after ten frames."""

    class Handler(BaseHTTPRequestHandler):
        served = 0

        def do_GET(self):
            if self.path.startswith("/clip.mp4"):
                content = video("mp4")
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                return
            if self.path == "/list.m3u8":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
                return
            type(self).served += 1
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
            self.end_headers()
            for number in range(10):
                content = jpeg(20 * number)
                head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
                self.wfile.write(head.encode() + content + b"\r\n")
                time.sleep(0.02)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", Handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(streams, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(streams, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(streams, "PATIENCE", 0.5)


@pytest.mark.filterwarnings("ignore:.*connecting again")
def test_a_stream_that_is_lost_is_connected_to_again(camera, impatient):
    host, handler = camera
    source = Source(f"http://user:secret@{host}/video.mjpg")
    assert source.live and source.total is None
    seen = []
    for entry in source:
        assert isinstance(entry, SourceImage) and entry.pixels.shape == (48, 64, 3)
        seen.append(entry)
        if handler.served >= 3:
            break
    assert [entry.frame for entry in seen] == list(range(len(seen)))
    assert all(a.time_s <= b.time_s for a, b in itertools.pairwise(seen))
    assert "secret" not in seen[0].name and "secret" not in str(seen[0].relative)


@pytest.mark.filterwarnings("ignore:.*connecting again")
def test_who_looks_slowly_sees_the_newest_frame_and_what_was_dropped_is_counted(camera, impatient):
    source = Source(f"http://{camera[0]}/video.mjpg")
    entries = iter(source)
    first = next(entries)
    time.sleep(0.5)
    second = next(entries)
    assert second.time_s - first.time_s > 0.15
    assert sum(source.passed_over.values()) >= 3
    assert "to keep up" in next(iter(source.passed_over))


@pytest.mark.filterwarnings("ignore:.*connecting again")
def test_a_stream_that_does_not_come_back_is_told(camera, impatient, monkeypatch):
    monkeypatch.setattr(streams, "PATIENCE", 0.2)
    lost = streams.NoVideoError("gone")
    source = iter(Source(f"http://{camera[0]}/video.mjpg"))
    next(source)
    monkeypatch.setattr(streams, "_opened", lambda address: (_ for _ in ()).throw(lost))
    last = [entry for entry in source if isinstance(entry, Unreadable)]
    assert len(last) == 1 and "no frame for 0.2 seconds: gone" in last[0].reason


def test_a_file_on_a_server_is_read_frame_by_frame(camera):
    entries = []
    for entry in Source(f"http://{camera[0]}/clip.mp4?key=1"):
        entries.append(entry)
        time.sleep(0.001)
    assert len(entries) == 30 and entries[0].relative.name.endswith("-clip.mp4")
    assert entries[-1].time_s == pytest.approx(29 / 25, abs=0.05)


@pytest.mark.parametrize("end", ["/list.m3u8", "/missing-host"])
def test_what_is_no_stream_is_an_error_and_no_list_leads_to_files(camera, end):
    address = f"http://{camera[0]}{end}" if end == "/list.m3u8" else "rtsp://127.0.0.1:9/x"
    with pytest.raises(DataError, match="cannot be opened"):
        list(Source(address))


def test_other_addresses_are_refused_with_those_that_are_read():
    with pytest.raises(DataError, match="expected one of rtsp, "):
        Source("ftp://somewhere/x.mp4")


def test_rtsp_is_read(tmp_path):
    """A server of a few lines that sends a transport stream in RTP over the connection itself."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    content = video("mpegts", 60, "mpeg2video")

    def serve():
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as reader:
            while True:
                lines = []
                while (line := reader.readline()).strip():
                    lines.append(line.decode())
                if not lines:
                    return
                number = next(line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
                method, head, body = lines[0].split()[0], f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n", ""
                if method == "OPTIONS":
                    head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif method == "DESCRIBE":
                    body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:a\r\n"
                    head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif method == "SETUP":
                    head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
                else:
                    head += "Session: 1\r\n"
                connection.sendall((head + "\r\n" + body).encode())
                if method == "PLAY":
                    for place in range(0, len(content), 7 * 188):
                        part = content[place : place + 7 * 188]
                        packet = struct.pack("!BBHII", 0x80, 33, place // (7 * 188) & 0xFFFF, place, 7) + part
                        connection.sendall(b"$\0" + struct.pack("!H", len(packet)) + packet)
                        time.sleep(0.005)
                    time.sleep(1)
                    return

    def serve_one():
        with contextlib.suppress(OSError):  # who reads may go at any time
            serve()

    threading.Thread(target=serve_one, daemon=True).start()
    entries = iter(Source(f"rtsp://127.0.0.1:{port}/a"))
    shapes = [next(entries).pixels.shape for _ in range(3)]
    assert shapes == [(48, 64, 3)] * 3
    listener.close()


def test_a_live_page_shows_frames_to_those_who_look():
    pixels = np.full((48, 64, 3), 200, np.uint8)
    with LiveView(0) as view:
        view.show(lambda: pytest.fail("drawn for nobody"))
        assert b'src="stream"' in urllib.request.urlopen(view.address, timeout=5).read()
        with urllib.request.urlopen(f"{view.address}stream", timeout=5) as page:
            assert "multipart/x-mixed-replace" in page.headers["Content-Type"]
            view.show(lambda: pixels)
            lines = [page.readline().strip() for _ in range(4)]
            assert lines[:2] == [b"--frame", b"Content-Type: image/jpeg"]
            image = Image.open(BytesIO(page.read(int(lines[2].split()[1]))))
            assert image.size == (64, 48) and abs(np.asarray(image).mean() - 200) < 3
        request = urllib.request.Request(view.address, headers={"Host": "evil.example:80"})
        with pytest.raises(urllib.error.HTTPError, match="421"):
            urllib.request.urlopen(request, timeout=5)
        with pytest.raises(ConfigError, match="is in use; choose another one"):
            LiveView(int(view.address.rstrip("/").rpartition(":")[2]))
