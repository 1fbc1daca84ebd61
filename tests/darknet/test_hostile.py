"""Files meant to harm: each must end in our own error, quickly, and without taking memory."""

import random
import struct
import time
import warnings
from pathlib import Path

import pytest

from crossstage import darknet
from crossstage.errors import ConfigError, WeightsError
from tests.darknet.nets import conv, maxpool, net, route, section, shortcut, yolo

SECONDS = 2.0  # one on a quiet machine
MEGABYTES = 200
CHARACTERS = 600

STATUS, PEAK_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_megabytes() -> int:
    """Most memory the process held since the last reset."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024


def refuse(cfg: Path, weights: Path | None, error: type[Exception], message: str) -> None:
    """Loading ends in our error with a short message, in little time and memory."""
    measured = PEAK_RESET.exists()
    if measured:
        PEAK_RESET.write_text("5")
    before, start = peak_megabytes() if measured else 0, time.perf_counter()
    with warnings.catch_warnings(), pytest.raises(error, match=message) as caught:
        warnings.simplefilter("ignore")
        darknet.load(cfg, weights)
    assert time.perf_counter() - start < SECONDS
    assert not measured or peak_megabytes() - before < MEGABYTES
    assert len(str(caught.value)) < CHARACTERS


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
    "implicit filters": (net(8) + section("implicit", filters=HUGE), "parameters"),
    "implicit": (net(8) + section("implicit", filters=HUGE, atoms=9), "more than|parameters"),
    "local": (net(512) + section("local", filters=1000, size=3, pad=1), "parameters"),
    "self route": (net(8) + conv(2) + route(1), r"net.cfg:15: \[route\] layers=1 in layer 1 refers to itself"),
    "forward route": (net(8) + conv(2) + route(7), "refers to a later layer"),
    "route before the start": (net(8) + conv(2) + route(-9), "refers to a layer before the first"),
    "self shortcut": (net(8) + conv(2) + shortcut(1), "refers to itself"),
    "forward shortcut": (net(8) + conv(2) + shortcut(99), "refers to a later layer"),
    "self scale": (net(8) + section("avgpool") + section("scale_channels", **{"from": 1}), "refers to itself"),
    "forward share": (net(8) + conv(2, share_index=5), "refers to a later layer"),
    "many shortcuts": (net(8) + conv(2) + shortcut("-1,-1") * 4000 + conv(HUGE), "more than 2,147"),
    "doubling routes": (net(8) + conv(2) + route(-1, -1) * 3000, "more than"),
    "doubling maps": (net(8) + section("upsample", stride=2) * 4000, "more than"),
    "digits": (net(8) + conv("9" * 100_000), r"filters="),
    "digits of a fraction": (net(8) + section("softmax", temperature="-0." + "1" * 100_000), "temperature"),
    "exponent": (net(8) + section("softmax", temperature="1e" + "9" * 100_000), "finite"),
    "spaced digits": (net(8) + conv("9 \t" * 100_000), r"filters="),
    "not a number": (net(8) + conv(85) + yolo("0", "nan,1"), "finite"),
    "infinity": (net(8) + conv(85) + yolo("0", "1e999,1"), "finite"),
    "word infinity": (net(8) + conv(85) + yolo("0", "1,2", scale_x_y="-inf"), "finite"),
    "flag not a number": (net(8) + conv(2, batch_normalize="nan"), "finite"),
    "letter_box not a number": ("[net]\nwidth=8\nheight=8\nchannels=3\nletter_box=nan\n" + conv(2), "finite"),
    "long mask": (net(8) + conv(85) + yolo(",".join(["7"] * 300_000), "1,2,3,4"), "mask='7,7"),
    "long name of a section": (net(8) + "[" + "x" * 900_000 + "]\n", "is not a layer"),
    "long name of an activation": (net(8) + conv(2, activation="q" * 900_000), "expected one of leaky"),
    "long word for a number": (net(8) + conv("q" * 900_000), "expected a whole number"),
    "long word for weights": (net(8) + conv(2) + shortcut(0, weights_type="q" * 900_000), "expected none, per_feature"),
    "long line": ("q" * 900_000, r"net.cfg:1: found 'qqq"),
    "nesting": (net(8) + "[" * 400_000 + "]" * 400_000, "is not a layer"),
    "unclosed nesting": (net(8) + "[" * 900_000, "expected a section"),
    "sections of nothing": ("[]" * 400_000, "the first section is"),
    "lines of nothing": ("[net]\n" + "a\n" * 500_000, r"net.cfg:1: no layer after \[net\]"),
    "options": ("[net]\n" + "".join(f"{key:x}=\n" for key in range(140_000)), "no layer after"),
    "many anchors": (
        net(8) + conv(85) + section("yolo", anchors="1," * 100_000, num=10**6, classes=80),
        "expected 1 to 1000",
    ),
    "long list": (net(512) + conv(2) + route(*[-1] * 200_000), "more than"),
    "late mistake": (net(8) + conv(3) * 4900 + conv(4, share_index=0), "borrows weights"),
    "layers": (net(8) + "[upsample]\nstride=1\n" * 6000, r"net.cfg:\d+: more than 5,000 layers"),
    "million layers": (net(8) + "[avg]\n" * 10**6, "longer than|more than 5,000 layers"),
    "null bytes": (net(8) + "[conv]\nfilters=\0\0\n", r"net.cfg:7: binary data"),
    "temperature": (net(8) + section("softmax", temperature=0), "temperature"),
    "groups": (net(8) + conv(2, groups=HUGE), "does not divide"),
    "route groups": (net(8) + conv(2) + route(-1, groups=HUGE), "does not divide"),
    "softmax groups": (net(8) + section("softmax", groups=HUGE), "does not divide"),
    "pool": (net(64) + maxpool(HUGE, 1), "pads its input to"),
    "pool padding": (net(64) + maxpool(2, 1, padding=HUGE), "pads its input to"),
    "negative padding": (net(64) + maxpool(2, 1, padding=-5), "padding='-5'; expected 0"),
    "normalization": (net(8) + section("normalization", size=HUGE), "expected 1 to"),
    "reorg": (net(8) + section("reorg3d", stride=HUGE), "does not divide"),
    "crop": (net(8) + section("crop", crop_height=HUGE, crop_width=HUGE), "crops"),
    "detection": (net(8) + section("detection", side=1000, num=1000, classes=HUGE, coords=4), "need"),
    "negative width": ("[net]\nwidth=-8\nheight=-8\nchannels=3\n" + conv(2), "width='-8'; expected 0"),
    "stride": (net(8) + conv(2, 3, 0), "stride"),
    "what acts on a terminal": (net(8) + "[\x9b31mconv]\n", r"\\x9b31mconv\] is not a layer"),
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
    (tmp_path / "net.cfg").write_bytes(random.Random(seed).randbytes(100_000))
    refuse(tmp_path / "net.cfg", None, ConfigError, r"net.cfg:\d+: ")


@pytest.mark.parametrize("seed", range(20))
def test_junk_within_a_cfg(seed, tmp_path):
    generator = random.Random(seed)
    data = bytearray((net(16) + conv(4, 3) * 20 + yolo("0", "1,2", classes=80)).encode())
    for _ in range(20):
        place = generator.randrange(len(data))
        data[place : place + generator.randrange(3)] = generator.randbytes(2)
    (tmp_path / "net.cfg").write_bytes(data)
    refuse(tmp_path / "net.cfg", None, ConfigError, r"net.cfg:\d+: ")


def test_empty_file(tmp_path):
    (tmp_path / "net.cfg").touch()
    refuse(tmp_path / "net.cfg", None, ConfigError, r"net.cfg: no section; expected \[net\]")


def test_folders_and_missing_files(tmp_path):
    refuse(tmp_path, None, ConfigError, "cannot be read: Is a directory")
    refuse(tmp_path / "net.cfg", None, ConfigError, r"net.cfg: cannot be read: No such file")
    (tmp_path / "net.cfg").write_text(net(8) + conv(2))
    refuse(tmp_path / "net.cfg", tmp_path, WeightsError, "cannot be read: Is a directory")


def test_large_pool_over_a_small_map_is_allowed(tmp_path):
    (tmp_path / "net.cfg").write_text(net(8) + maxpool(101, 1) + conv(2, 3, HUGE, dilation=HUGE))
    assert [tuple(row.output_shape) for row in darknet.describe(tmp_path / "net.cfg")] == [(3, 8, 8), (2, 1, 1)]


def test_cfg_that_claims_more_than_its_weights_hold(tmp_path):
    (tmp_path / "net.cfg").write_text(net(8) + conv(20_000, 3) + conv(20_000))
    (tmp_path / "net.weights").write_bytes(struct.pack("<iiiQ", 0, 2, 5, 0) + bytes(40))
    refuse(tmp_path / "net.cfg", tmp_path / "net.weights", WeightsError, r"ends inside layer 0 \[convolutional\]")
    (tmp_path / "net.weights").write_bytes(struct.pack("<iiiQ", 0, 2, 5, 0))
    refuse(tmp_path / "net.cfg", tmp_path / "net.weights", WeightsError, "fills 0 of 2 layers")


def test_weights_of_a_terabyte(tmp_path):
    (tmp_path / "net.cfg").write_text(net(8) + conv(2))
    with (tmp_path / "net.weights").open("wb") as file:
        file.write(struct.pack("<iiiQ", 0, 2, 5, 0))
        file.truncate(1 << 40)
    refuse(tmp_path / "net.cfg", tmp_path / "net.weights", WeightsError, "surplus bytes")
