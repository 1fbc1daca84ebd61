"""Files meant to harm: each must end in our own error, quickly, and without taking memory."""

import resource
import struct
import time
import warnings
from pathlib import Path

import pytest
from darknet_nets import conv, net, route, section, shortcut

from crossstage import darknet
from crossstage.errors import ConfigError, WeightsError

SECONDS = 2.0  # one on a quiet machine
MEGABYTES = 200


def refuse(cfg: Path, weights: Path | None, error: type[Exception], message: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with warnings.catch_warnings(), pytest.raises(error, match=message):
        warnings.simplefilter("ignore")
        darknet.load(cfg, weights)
    assert time.perf_counter() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


HUGE = 10**9
CFGS = {
    "filters": (net(8) + conv(HUGE), r"net.cfg:6: .*more than|net.cfg:6: .*parameters"),
    "filters beyond int": (net(8) + conv(10**30), "expected 1 to|whole number"),
    "parameters": (net(64) + conv(60_000, 3) + conv(60_000, 3), r"net.cfg:14: .*parameters"),
    "kernel": (net(64) + conv(2, HUGE + 1), "parameters"),
    "dilation": (net(64) + conv(2, 3, dilation=HUGE, pad=0), "would be 2 x 0 x 0"),
    "padding": (net(64) + conv(2, 3, pad=0, padding=HUGE), "more than"),
    "width": ("[net]\nwidth=1000000000\nheight=1000000000\nchannels=3\n" + conv(2), r"net.cfg:1: .*more than"),
    "channels": ("[net]\nwidth=1\nheight=1\nchannels=2000000000\n" + conv(9, 3), "parameters"),
    "upsample": (net(8) + section("upsample", stride=HUGE), "more than"),
    "connected": (net(512) + section("connected", output=HUGE), "parameters"),
    "implicit": (net(8) + section("implicit", filters=HUGE, atoms=9), "more than|parameters"),
    "local": (net(512) + section("local", filters=1000, size=3, pad=1), "parameters"),
    "self route": (net(8) + conv(2) + route(1), r"net.cfg:15: \[route\] layers=1 in layer 1 refers to itself"),
    "forward route": (net(8) + conv(2) + route(7), "refers to a later layer"),
    "route before the start": (net(8) + conv(2) + route(-9), "refers to a layer before the first"),
    "self shortcut": (net(8) + conv(2) + shortcut(1), "refers to itself"),
    "forward shortcut": (net(8) + conv(2) + shortcut(99), "refers to a later layer"),
    "self scale": (net(8) + section("avgpool") + section("scale_channels", **{"from": 1}), "refers to itself"),
    "forward share": (net(8) + conv(2, share_index=5), "refers to a later layer"),
    "doubling routes": (net(8) + conv(2) + route(-1, -1) * 3000, "more than"),
    "digits": (net(8) + conv("9" * 30_000), r"filters="),
    "not a number": (net(8) + conv(85) + section("yolo", mask=0, anchors="nan,1", classes=80), "finite"),
    "infinity": (net(8) + conv(85) + section("yolo", mask=0, anchors="1e999,1", classes=80), "finite"),
    "many anchors": (
        net(8) + conv(85) + section("yolo", anchors="1," * 100_000, num=10**6, classes=80),
        "expected 1 to 1000",
    ),
    "long list": (net(512) + conv(2) + route(*[-1] * 200_000), "more than"),
    "layers": (net(8) + "[upsample]\nstride=1\n" * 6000, r"net.cfg:\d+: more than 5,000 layers"),
    "million layers": (net(8) + "[avg]\n" * 10**6, "longer than|more than 5,000 layers"),
    "null bytes": (net(8) + "[conv]\nfilters=\0\0\n", r"net.cfg:7: binary data"),
    "temperature": (net(8) + section("softmax", temperature=0), "temperature"),
    "groups": (net(8) + conv(2, groups=HUGE), "does not divide"),
    "stride": (net(8) + conv(2, 3, 0), "stride"),
}


@pytest.mark.parametrize("name", CFGS)
def test_hostile_cfg(name, tmp_path):
    text, message = CFGS[name]
    (tmp_path / "net.cfg").write_text(text)
    refuse(tmp_path / "net.cfg", None, ConfigError, message)


def test_line_of_a_gigabyte(tmp_path):
    with (tmp_path / "net.cfg").open("wb") as file:
        file.write(b"[net]\nwidth=")
        file.truncate(1 << 30)
    refuse(tmp_path / "net.cfg", None, ConfigError, "net.cfg:2: the file is longer")


@pytest.mark.parametrize("seed", range(5))
def test_binary_junk(seed, tmp_path):
    import random

    (tmp_path / "net.cfg").write_bytes(random.Random(seed).randbytes(100_000))
    refuse(tmp_path / "net.cfg", None, ConfigError, r"net.cfg:\d+: ")


def test_cfg_that_claims_more_than_its_weights_hold(tmp_path):
    (tmp_path / "net.cfg").write_text(net(8) + conv(20_000, 3) + conv(20_000))
    (tmp_path / "net.weights").write_bytes(struct.pack("<iiiQ", 0, 2, 5, 0) + bytes(40))
    refuse(tmp_path / "net.cfg", tmp_path / "net.weights", WeightsError, r"ends inside layer 0 \[convolutional\]")


def test_weights_of_a_terabyte(tmp_path):
    (tmp_path / "net.cfg").write_text(net(8) + conv(2))
    with (tmp_path / "net.weights").open("wb") as file:
        file.write(struct.pack("<iiiQ", 0, 2, 5, 0))
        file.truncate(1 << 40)
    refuse(tmp_path / "net.cfg", tmp_path / "net.weights", WeightsError, "surplus bytes")
