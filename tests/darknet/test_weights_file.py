"""Darknet's weights files: order, headers, files that are too short or too long, and what must never be loaded."""

import pickle
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from crossstage import darknet
from crossstage.errors import WeightsError
from tests.darknet.nets import conv, load_text, net, section, shortcut, yolov4_tiny

TEXT = net(8) + conv(4, 3) + conv(5, bn=0) + conv(4) + shortcut(0)
COUNTS = [4 * 4 + 4 * 3 * 9, 5 + 5 * 4, 4 * 4 + 4 * 5]  # of the three convolutions


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    network = load_text(TEXT, tmp_path)
    darknet.save_weights(network, tmp_path / "net.weights")
    return tmp_path / "net.cfg", tmp_path / "net.weights"


def test_order_is_biases_norm_weights(tmp_path):
    text = net(2, channels=1) + conv(2) + section("connected", output=3, batch_normalize=1) + section("batchnorm")
    (tmp_path / "net.cfg").write_text(text)
    count = (2 * 4 + 2) + (3 * 4 + 3 * 8) + 3 * 4
    values = np.arange(count, dtype="<f4")
    (tmp_path / "net.weights").write_bytes(struct.pack("<iiiQ", 0, 2, 5, 7) + values.tobytes())
    network = darknet.load(tmp_path / "net.cfg", tmp_path / "net.weights")
    first, second, third = network.stack
    order = [
        *(first.bn.bias, first.bn.weight, first.bn.running_mean, first.bn.running_var, first.conv.weight),
        *(second.bn.bias, second.linear.weight, second.bn.weight, second.bn.running_mean, second.bn.running_var),
        *(third.bn.bias, third.bn.weight, third.bn.running_mean, third.bn.running_var),
    ]
    assert torch.cat([t.detach().flatten() for t in order]).tolist() == values.tolist()
    assert network.header.images_seen == 7


def test_order_of_the_rarer_layers(tmp_path):
    text = net(3, 2, channels=1) + section("local", filters=2, size=2) + conv(2, bn=0)
    text += shortcut(0, weights_type="per_channel") + section("implicit", filters=3)
    (tmp_path / "net.cfg").write_text(text)
    values = np.arange((2 * 2 + 2 * 2 * 4) + (2 + 2 * 2) + 2 * 2 + 3, dtype="<f4")
    (tmp_path / "net.weights").write_bytes(struct.pack("<iiiQ", 0, 2, 5, 7) + values.tobytes())
    local, conv_, shortcut_, implicit = darknet.load(tmp_path / "net.cfg", tmp_path / "net.weights").stack
    order = [local.bias, local.weight, conv_.conv.bias, conv_.conv.weight, shortcut_.weight, implicit.weight]
    assert torch.cat([t.detach().flatten() for t in order]).tolist() == values.tolist()


def test_what_is_written_is_read_again(files, tmp_path):
    cfg, weights = files
    darknet.save_weights(darknet.load(cfg, weights), tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes() == weights.read_bytes()
    assert weights.stat().st_size == 20 + 4 * sum(COUNTS)
    assert {file.name for file in tmp_path.iterdir()} == {"net.cfg", "net.weights", "again.weights"}


def test_header_survives(files, tmp_path):
    cfg, weights = files
    head = struct.pack("<iiiQ", 1, 3, 8, 2**40 + 1)
    weights.write_bytes(head + weights.read_bytes()[20:])
    network = darknet.load(cfg, weights)
    assert network.header == (1, 3, 8, 2**40 + 1)
    darknet.save_weights(network, tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes()[:20] == head


def test_network_without_parameters_has_a_file_of_a_header(tmp_path):
    (tmp_path / "net.cfg").write_text(net(8) + section("upsample", stride=2))
    darknet.save_weights(darknet.load(tmp_path / "net.cfg"), tmp_path / "net.weights")
    assert (tmp_path / "net.weights").stat().st_size == 20
    assert darknet.check_weights(tmp_path / "net.cfg", tmp_path / "net.weights").exact
    darknet.load(tmp_path / "net.cfg", tmp_path / "net.weights")


def test_real_weights_survive_byte_for_byte(shared, tmp_path):
    real = shared / "weights" / "yolov4-tiny.weights"
    (tmp_path / "net.cfg").write_text(yolov4_tiny())
    network = darknet.load(tmp_path / "net.cfg", real)
    darknet.save_weights(network, tmp_path / "again.weights")
    assert (tmp_path / "again.weights").read_bytes() == real.read_bytes()


def test_exact_file_is_reported_so(files):
    report = darknet.check_weights(*files)
    assert report.exact and "fills all 3 layers with weights exactly" in str(report)


def test_backbone_file_fills_the_first_layers_and_says_which(files):
    cfg, weights = files
    weights.write_bytes(weights.read_bytes()[: 20 + 4 * sum(COUNTS[:2])])
    with pytest.warns(UserWarning, match=r"fills 2 of 3 layers with weights, up to layer 1 \[convolutional\]"):
        network = darknet.load(cfg, weights)
    full = load_text(TEXT, cfg.parent)
    for index in (0, 1):
        torch.testing.assert_close(network.stack[index].conv.weight, full.stack[index].conv.weight)
    assert network.stack[2].conv.weight.std() > 0
    assert network.stack[2].bn.running_var.tolist() == [1] * 4
    assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
    report = darknet.check_weights(cfg, weights)
    assert report.missing == ("layer 2 [convolutional] (line 21)",) and report.cut is None


@pytest.mark.parametrize("extra", [4, -1, 40])
def test_file_that_ends_inside_a_layer_is_refused(files, extra):
    cfg, weights = files
    weights.write_bytes(weights.read_bytes()[: 20 + 4 * sum(COUNTS[:2]) + extra])
    cut = "layer 1" if extra < 0 else "layer 2"
    with pytest.raises(WeightsError, match=rf"ends inside {cut} \[convolutional\]"):
        darknet.load(cfg, weights)
    assert str(darknet.check_weights(cfg, weights)).count(cut)


def test_surplus_is_reported_and_refused(files):
    cfg, weights = files
    weights.write_bytes(weights.read_bytes() + bytes(12))
    assert darknet.check_weights(cfg, weights).surplus == 12
    with pytest.raises(WeightsError, match="12 surplus bytes"):
        darknet.load(cfg, weights)


def test_old_header_has_a_short_count(files):
    cfg, weights = files
    weights.write_bytes(struct.pack("<iiiI", 0, 1, 0, 9) + weights.read_bytes()[20:])
    network = darknet.load(cfg, weights)
    assert network.header.images_seen == 9
    darknet.save_weights(network, weights)  # in today's format
    assert weights.read_bytes()[:20] == struct.pack("<iiiQ", 0, 2, 5, 9)
    network = darknet.load(cfg, weights)
    torch.testing.assert_close(network.stack[0].conv.weight, load_text(TEXT, cfg.parent).stack[0].conv.weight)


def test_oldest_files_store_connected_weights_input_major(tmp_path):
    (tmp_path / "net.cfg").write_text("[net]\ninputs=3\n" + section("connected", output=2))
    values = np.array([10, 20, 1, 2, 3, 4, 5, 6], dtype="<f4")
    (tmp_path / "net.weights").write_bytes(struct.pack("<iiiQ", 0, 1001, 0, 0) + values.tobytes())
    network = darknet.load(tmp_path / "net.cfg", tmp_path / "net.weights")
    assert network.stack[0].linear.weight.tolist() == [[1, 3, 5], [2, 4, 6]]
    darknet.save_weights(network, tmp_path / "net.weights")  # in today's order
    saved = (tmp_path / "net.weights").read_bytes()
    assert np.frombuffer(saved[20:], dtype="<f4").tolist() == [10, 20, 1, 3, 5, 2, 4, 6]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_numbers_are_refused(files, value):
    cfg, weights = files
    data = bytearray(weights.read_bytes())
    place = 20 + 4 * (COUNTS[0] + 3)
    data[place : place + 4] = struct.pack("<f", value)
    weights.write_bytes(data)
    with pytest.raises(WeightsError, match=rf"layer 1 \[convolutional\].* at byte {place}; expected finite"):
        darknet.load(cfg, weights)


OTHER_FILES = {
    "nothing": b"",
    "three bytes": b"abc",
    "half a header": struct.pack("<iiiI", 0, 2, 5, 0),
    "text": b"[net]\nwidth=416\nheight=416\n" * 9,
    "page": b"<!DOCTYPE html>\n<html><head><title>404: Not Found</title></head></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 24251276\n",
    "pickle": pickle.dumps({"a": 1}) * 9,
    "image": b"\x89PNG\r\n\x1a\n" + bytes(90),
    "photo": b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(90),
    "archive": b"PK\x03\x04" + bytes(90),
    "safetensors": struct.pack("<Q", 64) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}' + bytes(90),
    "noise": np.random.default_rng(0).bytes(500),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_refused(files, name):
    cfg, weights = files
    weights.write_bytes(OTHER_FILES[name])
    with pytest.raises(WeightsError, match=r"net\.weights: .*; expected a"):
        darknet.load(cfg, weights)


def test_header_alone_fills_nothing(files):
    cfg, weights = files
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(WeightsError, match="fills 0 of 3 layers"):
        darknet.load(cfg, weights)


def test_missing_file_is_named(files):
    with pytest.raises(WeightsError, match=r"nowhere\.weights: cannot be read: No such file"):
        darknet.load(files[0], "nowhere.weights")


def test_full_disk_leaves_the_old_file_and_nothing_else(files):
    cfg, weights = files
    before = weights.read_bytes()
    network = darknet.load(cfg, weights)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(WeightsError, match=r"net\.weights: cannot be written: File too large"):
            darknet.save_weights(network, weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert weights.read_bytes() == before
    assert {file.name for file in weights.parent.iterdir()} == {"net.cfg", "net.weights"}


def test_failed_move_leaves_the_old_file_and_nothing_else(files, monkeypatch):
    cfg, weights = files
    before = weights.read_bytes()
    network = darknet.load(cfg, weights)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WeightsError, match="cannot be written: No space left"):
        darknet.save_weights(network, weights)
    assert weights.read_bytes() == before
    assert {file.name for file in weights.parent.iterdir()} == {"net.cfg", "net.weights"}


def test_folder_that_does_not_exist_is_named(files, tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere/a\.weights: cannot be written: No such file"):
        darknet.save_weights(darknet.load(*files), tmp_path / "nowhere" / "a.weights")
