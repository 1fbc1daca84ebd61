"""The HTTP interface: what it answers, and how it says what is wrong."""

import io
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossstage.cli import main
from crossstage.deploy.exported import ExportedDetector
from crossstage.deploy.header import ExportHeader
from crossstage.deploy.open import Opened, open_model
from crossstage.errors import ConfigError, ExportError
from crossstage.models.classifier import Classifier
from crossstage.ops import rle
from crossstage.ops.nms import NMS
from crossstage.serving.limits import Limits
from crossstage.serving.served import Served, names_of, open_served
from crossstage.serving.service import Service
from crossstage.structures import Preprocessing
from crossstage.weights.loading import create_model
from tests.serving.doubles import Halves, client_of, image, names, served, wait_until

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def client():
    with client_of(served(), served("masked", Halves(masks=True))) as opened:
        yield opened


def test_an_image_is_answered_as_bytes_and_as_a_form(client):
    content = image(0.9, 0.6)
    plain = client.post("/v1/predict", content=content, headers=PNG).json()
    form = client.post("/v1/predict", files={"anything": ("a/b/photo.png", content)}).json()
    assert plain["source"] == "image" and form["source"] == "photo.png"
    for answer in (plain, form):
        assert names(answer) == ["left", "right"]
        assert answer["detections"][0]["box_xyxy"] == [0, 0, 40, 40]
        assert (answer["width"], answer["height"]) == (80, 40)
        assert (answer["model"], answer["runtime"]) == ("halves", "torch")
        times = answer["milliseconds"]
        assert times["total"] >= times["decode"] + times["preprocess"] + times["run"] > 0


def test_a_body_without_a_type_is_taken_for_an_image(client):
    assert client.post("/v1/predict", content=image()).status_code == 200


def test_thresholds_are_a_requests_own(client):
    content = image(0.9, 0.6)
    assert names(client.post("/v1/predict?conf=0.7", content=content).json()) == ["left"]
    assert names(client.post("/v1/predict?conf=0.95", content=content).json()) == []
    assert names(client.post("/v1/predict?max_detections=1", content=content).json()) == ["left"]
    assert names(client.post("/v1/predict?conf=0.05", content=image(0.2, 0.1)).json()) == ["left", "right"]
    assert names(client.post("/v1/predict", content=image(0.2, 0.1)).json()) == []


def test_the_answer_is_a_line_of_predict(tmp_path):
    """Every field and number of ``predict --json``, of a photo that is read at a reduced scale as well."""
    photo, model = PHOTOS / "000000000471.jpg", "cspdarknet53_tiny_yolo.coco"
    words = [str(photo), "--conf", "0.1", "--imgsz", "96", "--json", str(tmp_path / "found.jsonl"), "--quiet"]
    assert main(["predict", *words]) == 0
    expected = json.loads((tmp_path / "found.jsonl").read_text()) | {"source": photo.name}
    opened = open_served([model], [None], lambda name, _: open_model(name, imgsz=96))
    with client_of(*opened) as client:
        answer = client.post("/v1/predict?conf=0.1", files={"image": (photo.name, photo.read_bytes())}).json()
    assert "bus" in names(expected)
    assert {key: answer[key] for key in expected} == expected
    assert answer.keys() - expected.keys() == {"model", "runtime", "milliseconds"}


def test_masks_are_cocos_run_lengths(client):
    found = client.post("/v1/predict?model=masked", content=image()).json()["detections"][0]
    assert found["mask"]["size"] == [40, 80]
    mask = rle.unpack(found["mask"]["counts"], (40, 80))
    assert mask[2:-2, 2:38].all() and not mask[:, 42:].any()


def test_several_images_are_answered_in_their_order(client):
    files = [
        ("images", ("a.png", image(0.9, 0.1))),
        ("images", ("bad.png", b"no image")),
        ("images", ("b.png", image(0.1, 0.9))),
    ]
    results = client.post("/v1/predict/batch", files=files).json()["results"]
    assert [entry["source"] for entry in results] == ["a.png", "bad.png", "b.png"]
    assert names(results[0]) == ["left"] and names(results[2]) == ["right"]
    assert "not an image" in results[1]["error"]


def test_models_say_what_they_can_do(client):
    first, second = client.get("/v1/models").json()["models"]
    assert (first["name"], second["name"]) == ("halves", "masked")
    assert first["classes"] == ["left", "right"] and first["task"] == "detect"
    assert first["input"] == {"height": 32, "width": 64}
    assert first["conf"] == {"default": 0.25, "least": 0.0}


@pytest.mark.parametrize(
    ("status", "path", "body", "headers", "said"),
    [
        (400, "/v1/predict", b"no image at all", PNG, "not an image"),
        (400, "/v1/predict", b"", PNG, "empty body"),
        (400, "/v1/predict", image()[:60], PNG, "cannot be read"),
        (400, "/v1/predict", b"x", {"Content-Type": "multipart/form-data"}, "boundary"),
        (404, "/v1/predict?model=../../etc/passwd", image(), PNG, "expected one of halves"),
        (404, "/v1/predict?runtime=openvino", image(), PNG, "expected one of torch"),
        (404, "/v2/predict", image(), PNG, "Not Found"),
        (405, "/health", image(), PNG, "Not Allowed"),
        (415, "/v1/predict", b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, "expected an image"),
        (415, "/v1/predict", b"{}", {"Content-Type": "application/json"}, "expected an image"),
        (415, "/v1/predict/batch", image(), PNG, "multipart/form-data"),
        (422, "/v1/predict?conf=2", image(), PNG, "conf=2: "),
        (422, "/v1/predict?conf=nan", image(), PNG, "conf=nan: "),
        (422, "/v1/predict?max_detections=0", image(), PNG, "max_detections=0: "),
        (422, "/v1/predict?iou=x", image(), PNG, "iou=x: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(client, status, path, body, headers, said):
    response = client.post(path, content=body, headers=headers)
    assert response.status_code == status
    detail = response.json()["detail"]
    assert said in detail and "\n" not in detail and "Traceback" not in detail


def test_forms_have_a_file_and_not_too_many(client):
    assert "without files" in client.post("/v1/predict", files={"a": (None, "text")}).json()["detail"]
    two = [("image", ("a.png", image())), ("image", ("b.png", image()))]
    response = client.post("/v1/predict", files=two)
    assert response.status_code == 422 and "expected one" in response.json()["detail"]


def test_bodies_are_bounded_whether_their_length_is_said_or_not():
    with client_of(served(), limits=Limits(body=2000)) as client:
        assert client.post("/v1/predict", content=image()).status_code == 200
        for content in (bytes(2001), iter([bytes(1500), bytes(1500)])):
            response = client.post("/v1/predict", content=content, headers=PNG)
            assert response.status_code == 413 and "at most 0.001907 MiB" in response.json()["detail"]


def test_an_image_of_too_many_pixels_is_refused_undecoded(client):
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "png")
    response = client.post("/v1/predict", content=file.getvalue(), headers=PNG)
    assert response.status_code == 400 and "refused unread" in response.json()["detail"]


def test_what_finds_no_room_is_told_to_come_again():
    model = Halves()
    with client_of(served(model=model), limits=Limits(queue=3)) as client, ThreadPoolExecutor(8) as clients:
        model.open.clear()
        asked = [clients.submit(client.post, "/v1/predict", content=image()) for _ in range(3)]
        wait_until(lambda: "images_waiting 3" in client.get("/metrics").text)
        refused = client.post("/v1/predict", content=image())
        several = client.post("/v1/predict/batch", files={"images": ("a.png", image())})
        model.open.set()
        assert [future.result().status_code for future in asked] == [200, 200, 200]
    for response in (refused, several):
        assert response.status_code == 503 and response.headers["retry-after"] == "1"
        assert "busy" in response.json()["detail"]


def test_room_for_bodies_is_bounded():
    with client_of(served(), limits=Limits(body=100)) as client:
        from crossstage.serving.limits import HELD_BODIES, Room

        room = Room(HELD_BODIES * 100, "bytes")
        with room.taken(HELD_BODIES * 100), pytest.raises(Exception, match="busy"), room.taken(1):
            pass
        assert room.held == 0
        assert client.get("/health").status_code == 200


def test_requests_that_wait_together_share_a_pass():
    model = Halves()
    with client_of(served(model=model, batch=4)) as client, ThreadPoolExecutor(8) as clients:
        model.open.clear()
        first = clients.submit(client.post, "/v1/predict", content=image())
        others = [clients.submit(client.post, "/v1/predict?conf=0.5", content=image(right=0.6)) for _ in range(3)]
        other = clients.submit(client.post, "/v1/predict?conf=0.7", content=image(right=0.6))
        wait_until(lambda: "images_waiting 5" in client.get("/metrics").text)
        threading.Event().wait(0.2)  # until they are prepared
        model.open.set()
        assert all(names(future.result().json()) == ["left", "right"] for future in others)
        assert names(other.result().json()) == names(first.result().json()) == ["left"]
    assert sum(model.batches) == 5 and len(model.batches) < 5 and max(model.batches) <= 4


def test_a_request_is_given_up_in_time():
    model = Halves()
    with client_of(served(model=model), limits=Limits(seconds=0.3)) as client:
        model.open.clear()
        response = client.post("/v1/predict", content=image())
        model.open.set()
        assert response.status_code == 503 and "no answer within 0.3 s" in response.json()["detail"]
        assert client.post("/v1/predict", content=image()).status_code == 200


def test_a_model_that_fails_is_the_servers_fault_and_stays_inside(capsys):
    model = Halves()
    with client_of(served(model=model)) as client:
        model.error = ExportError("/secret/path: broken")
        response = client.post("/v1/predict", content=image())
        assert response.status_code == 500 and "secret" not in response.text
        model.error, model.nan = None, True
        assert client.post("/v1/predict", content=image()).status_code == 500
        model.nan = False
        assert client.post("/v1/predict", content=image()).status_code == 200
    told = capsys.readouterr().err
    assert "/secret/path: broken" in told and "overflowed" in told and "Traceback" not in told


def test_other_names_than_its_own_are_refused(client):
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/health", headers={"Host": "localhost.evil.example:8000"}).status_code == 421
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    with client_of(served(), hosts=None) as anywhere:
        assert anywhere.get("/health", headers={"Host": "photos.example"}).status_code == 200


def test_pages_of_other_sites_cannot_use_it(client):
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        response = client.post("/v1/predict", content=image(), headers={"Sec-Fetch-Site": site})
        assert response.status_code == status
        assert "access-control-allow-origin" not in response.headers


def test_it_says_that_it_is_starting_until_it_is_ready():
    from starlette.testclient import TestClient

    from crossstage.serving.app import create_app

    gate = threading.Event()

    def open_all():
        assert gate.wait(10)
        return [served()]

    with TestClient(create_app(Service(open_all, Limits())), base_url="http://localhost") as client:
        health = client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "starting"})
        response = client.post("/v1/predict", content=image())
        assert response.status_code == 503 and "retry-after" in response.headers
        assert client.get("/v1/models").json() == {"models": []}
        gate.set()
        wait_until(lambda: client.get("/health").json() == {"status": "ready"})


def test_a_classifier_answers_classes():
    backbone = create_model("cspdarknet_x_nano", num_classes=7).backbone
    model = Classifier(backbone, 7, preprocessing=Preprocessing((32, 32)), class_names=tuple("abcdefg")).eval()
    with client_of(Served("letters", Opened("torch", classifier=model))) as client:
        answer = client.post("/v1/predict", content=image()).json()
        assert len(answer["classes"]) == 5 and answer["model"] == "letters"
        assert answer["classes"][0]["probability"] >= answer["classes"][4]["probability"]
        response = client.post("/v1/predict?conf=0.5", content=image())
        assert response.status_code == 422 and "is a classifier" in response.json()["detail"]
        assert client.get("/v1/models").json()["models"][0]["task"] == "classify"


def test_the_description_fits_the_answers(client):
    description = client.get("/openapi.json").json()
    assert {"/v1/predict", "/v1/predict/batch", "/v1/models", "/health", "/metrics"} == description["paths"].keys()
    body = description["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    assert {"image/jpeg", "multipart/form-data"} <= body.keys()
    found = description["components"]["schemas"]["FoundObjects"]["properties"].keys()
    assert client.post("/v1/predict", content=image()).json().keys() == found
    entry = description["components"]["schemas"]["ModelEntry"]["properties"].keys()
    assert client.get("/v1/models").json()["models"][0].keys() == entry
    docs = client.get("/docs").text
    assert "POST /v1/predict/batch" in docs and "max_detections" in docs and "multipart/form-data" in docs
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", docs)


def test_counts_are_as_prometheus_reads_them():
    with client_of(served('a"b\\c')) as client:
        client.post("/v1/predict", content=image())
        client.get("/no/such/path")
        client.get("/no/such/other")
        text = client.get("/metrics").text
    sample = re.compile(r'[a-z_]+(\{([a-z_]+="(\\.|[^"\\])*",?)+\})? [0-9.e+-]+')
    for line in text.splitlines():
        assert line.startswith("# ") or sample.fullmatch(line), line
    assert 'crossstage_requests_total{path="/v1/predict",status="200"} 1' in text
    assert 'crossstage_requests_total{path="other",status="404"} 2' in text
    assert 'crossstage_images_total{model="a\\"b\\\\c",runtime="torch"} 1' in text


def test_names_are_the_ends_of_paths_where_these_differ():
    assert names_of(["runs/a", "b.onnx"]) == ["a", "b.onnx"]
    assert names_of(["runs/a/best.safetensors", "runs/b/best.safetensors"])[0] == "runs/a/best.safetensors"
    with pytest.raises(ConfigError, match="a is named twice"):
        names_of(["a", "a"])


@pytest.mark.parametrize("wrong", [{"body": 0}, {"queue": 0}, {"seconds": 0.0}, {"seconds": float("nan")}])
def test_limits_are_checked(wrong):
    with pytest.raises(ConfigError):
        Limits(**wrong)


def test_a_file_that_suppresses_boxes_in_its_graph_says_what_it_can_do():
    size = Preprocessing((32, 64))
    header = ExportHeader(
        "m", "detect", "detections", 32, size, ("a", "b"), batch=1, nms=NMS(0.4, 0.5, max_detections=20)
    )
    model = ExportedDetector(header, lambda _: [np.array([[0, 1, 0.9, 0, 0, 9, 9]], np.float32)], Path("x.onnx"), "rt")
    with client_of(Served("file", Opened("rt", detector=model))) as client:
        known = client.get("/v1/models").json()["models"][0]
        assert known["conf"] == {"default": 0.4, "least": 0.4}
        assert known["iou"] == {"default": 0.5, "fixed": True} and known["max_detections"] == 20
        assert names(client.post("/v1/predict", content=image()).json()) == ["b"]
        assert client.post("/v1/predict?conf=0.5&iou=0.5", content=image()).status_code == 200
        for wrong in ("conf=0.1", "iou=0.4", "max_detections=21"):
            response = client.post(f"/v1/predict?{wrong}", content=image())
            assert response.status_code == 422 and "expected conf from 0.4" in response.json()["detail"]
